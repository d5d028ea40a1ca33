"""A picture of the page for the documentation: real Chromium, real server, a generated volume.

Run: python tests/serve/page_picture.py docs/images/serve_page.png
"""

import sys
import tempfile
from pathlib import Path

import nibabel
import numpy as np
from browser import Browser
from serving import serving

AFFINE = np.diag([1.4, 1.4, 4.0, 1.0])


def generated() -> np.ndarray:
    """A body with two bright ellipsoids in noise, (k, j, i)."""
    k, j, i = np.indices((40, 128, 128))
    voxels = np.random.default_rng(3).normal(0, 12, k.shape)
    voxels[((j - 64) / 56) ** 2 + ((i - 64) / 60) ** 2 < 1] += 90
    for (ck, cj, ci), (rk, rj, ri) in (((20, 58, 50), (9, 26, 20)), ((19, 70, 91), (6, 13, 14))):
        voxels[((k - ck) / rk) ** 2 + ((j - cj) / rj) ** 2 + ((i - ci) / ri) ** 2 < 1] += 110
    return voxels.astype(np.int16)


def main() -> None:
    """Open, click on the large ellipsoid, take the picture."""
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        path = folder / "volume.nii.gz"
        nibabel.save(nibabel.Nifti1Image(generated().transpose(2, 1, 0), AFFINE), path)
        with serving(folder, "--port", "0") as running, Browser(folder) as browser:
            browser.send("Page.navigate", url=f"{running.url}/")
            browser.wait("document.querySelector('#model').options.length > 0")
            browser.choose_file("#file", path)
            browser.wait("document.querySelector('#view').dataset.drawn")
            box = browser.run("JSON.parse(JSON.stringify(view.getBoundingClientRect()))")
            for column, row in ((50, 58), (60, 70)):
                browser.run("document.querySelector('#status').textContent = ''")
                browser.click(
                    box["x"] + box["width"] * (column + 0.5) / 128,
                    box["y"] + box["height"] * (row + 0.5) / 128,
                )
                browser.wait("/Done in/.test(document.querySelector('#status').textContent)")
            browser.wait("/ ml/.test(document.querySelector('#facts').textContent)")
            browser.screenshot(Path(sys.argv[1]))


if __name__ == "__main__":
    main()
