"""The page in a real browser: open, scroll, click, see the mask, download it."""

from pathlib import Path

import nibabel
import numpy as np
import pytest
from browser import Browser, find
from serving import SPACING_MM, Running, body_volume, wait_for

pytestmark = pytest.mark.skipif(find() is None, reason="Chromium is not installed")


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "patient-jane-doe.nii.gz"
    affine = np.diag([*SPACING_MM[::-1], 1.0])
    nibabel.save(nibabel.Nifti1Image(body_volume().transpose(2, 1, 0), affine), path)
    return path


def test_open_click_and_download(server: Running, scan: Path, tmp_path: Path) -> None:
    with Browser(tmp_path) as browser:
        browser.send("Page.navigate", url=f"{server.url}/")
        browser.wait("document.querySelector('#model').options.length > 0")
        browser.choose_file("#file", scan)
        browser.wait("document.querySelector('#view').dataset.drawn")
        assert browser.run("document.querySelector('#slice').max") == "11"
        box = browser.run("JSON.parse(JSON.stringify(view.getBoundingClientRect()))")
        browser.send("Input.dispatchMouseEvent", type="mouseWheel", x=box["x"] + 5,
                     y=box["y"] + 5, deltaX=0, deltaY=100)  # fmt: skip
        browser.wait("document.querySelector('#slice').value === '7'")
        browser.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        browser.wait("/ ml|empty/.test(document.querySelector('#facts').textContent)")
        browser.wait("/Done in/.test(document.querySelector('#status').textContent)")
        browser.run("document.querySelector('#download').click()")
        wait_for((tmp_path / "mask.nii.gz").exists)
        wait_for(lambda: (tmp_path / "mask.nii.gz").stat().st_size > 100)
        shown = browser.run("document.querySelector('#facts').textContent")
        complaints = [one for one in browser.complaints if "favicon" not in one]
    mask = nibabel.load(tmp_path / "mask.nii.gz")
    assert mask.shape == (48, 40, 12)
    volume_ml = np.asarray(mask.dataobj).sum() * np.prod(SPACING_MM) / 1000
    assert shown.startswith(f"{volume_ml:.2f} ml") or (not volume_ml and "empty" in shown)
    assert not complaints, "the page breaks its own content security policy"
    assert "jane" not in server.log.read_text()


def test_a_wrong_file_is_refused_in_words(server: Running, tmp_path: Path) -> None:
    path = tmp_path / "broken.nii.gz"
    path.write_bytes(b"no image")
    with Browser(tmp_path) as browser:
        browser.send("Page.navigate", url=f"{server.url}/")
        browser.wait("document.querySelector('#model').options.length > 0")
        browser.choose_file("#file", path)
        said = browser.wait("document.querySelector('#status.error')?.textContent")
    assert "gzip" in said
    assert "tmp" not in said


def test_a_picture_is_clicked_and_taken_back(server: Running, tmp_path: Path) -> None:
    from PIL import Image

    path = tmp_path / "patient-jane-doe.png"
    pixels = np.zeros((60, 80, 3), np.uint8)
    pixels[15:45, 20:60] = (200, 120, 90)
    Image.fromarray(pixels).save(path)
    with Browser(tmp_path) as browser:
        browser.send("Page.navigate", url=f"{server.url}/")
        browser.wait("document.querySelector('#model').options.length > 0")
        browser.choose_file("#file", path)
        browser.wait("document.querySelector('#view').dataset.drawn")
        assert browser.run("document.body.classList.contains('picture')")
        box = browser.run("JSON.parse(JSON.stringify(view.getBoundingClientRect()))")
        browser.click(box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
        browser.wait("/Done in/.test(document.querySelector('#status').textContent)")
        assert browser.run("state.marks.length") == 1
        browser.run("document.querySelector('#status').textContent = ''")
        browser.run("document.querySelector('#undo').click()")
        browser.wait("/Done in/.test(document.querySelector('#status').textContent)")
        assert browser.run("state.marks.length") == 0
        browser.run("document.querySelector('#download').click()")
        wait_for((tmp_path / "mask.png").exists)
        wait_for(lambda: (tmp_path / "mask.png").stat().st_size > 50)
        complaints = [one for one in browser.complaints if "favicon" not in one]
    assert not np.asarray(Image.open(tmp_path / "mask.png")).any(), "taken back"
    assert not complaints
    assert "jane" not in server.log.read_text()
