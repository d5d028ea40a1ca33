"""Planted canaries stay in the data that hold them: commands from the plan to the prediction.

Names of cases are the user's own: they name what is written, and lists that say what was done.
"""

import json
import socket
import warnings
import zipfile
from pathlib import Path

import nibabel
import numpy as np
import pytest

from segkit.cli.main import main
from segkit.data.phantom import write_phantom_dataset
from segkit.planning import planner
from segkit.planning.dry_step import DryStep

TEXT, NAME = b"CANARY-TEXT", "CANARYJANE1961"
FIELDS = ("descrip", "db_name", "aux_file", "intent_name")
WRITTEN = (".nii.gz", ".nrrd", ".mha", ".seg.nrrd")
HELD = {"jobs/run_cases.jsonl", "jobs/run_report.json"}
"""What may name cases: `segkit predict --resume` goes by it."""


def plant(path: Path) -> None:
    """Texts into every field and an extension of the header, a name into the file's own."""
    image = nibabel.load(path)
    image = nibabel.Nifti1Image(np.asarray(image.dataobj), image.affine)
    for field in FIELDS:
        image.header[field] = TEXT
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", TEXT))
    nibabel.save(image, path.with_name(path.name.replace("phantom", NAME)))
    path.unlink()


@pytest.fixture(scope="module")
def data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("canaries") / NAME
    root = write_phantom_dataset(folder, cases=4, test_cases=2, shape=(8, 24, 24))
    for path in sorted(root.rglob("*.nii.gz")):
        plant(path)
    told = root / "dataset.json"
    told.write_text(told.read_text().replace("phantom_", f"{NAME}_"))
    return root


@pytest.fixture(scope="module")
def work(data: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Folder in which plan, train, eval and predict have run, temporary files included."""
    folder = tmp_path_factory.mktemp("work")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(folder)
        # measured by a test of its own
        patch.setattr(planner, "measure", lambda *_: [DryStep(1, 500.0, 0.1)])
        (folder / "tmp").mkdir()
        patch.setenv("TMPDIR", str(folder / "tmp"))
        root = f"data.root={data}"
        train = ["train", "experiment=plan.yaml", root, "run=run", "data.cache_dir=cache"]
        evaluate = ["eval", "run=run", root, "settings.case_names=hash"]
        assert main(["plan", str(data), "-o", "plan.yaml", "--cases", "2"]) == 0
        assert main([*train, "debug=default"]) == 0
        assert main([*evaluate, "settings.robustness.cases=0"]) == 0
        scans = str(data / "imagesTs")
        assert main(["predict", scans, "-m", "run", "-o", "jobs"]) == 0
    return folder


def content(path: Path) -> bytes:
    """Bytes of a file; those of its members if it is an archive."""
    if not zipfile.is_zipfile(path):
        return path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        return b"".join(name.encode() + archive.read(name) for name in archive.namelist())


def test_every_file_of_a_run_is_clean_v03_v07_v08_v10_v11(work: Path) -> None:
    seen = {str(path.relative_to(work)): path for path in work.rglob("*") if path.is_file()}
    for wanted in (
        "plan.yaml", "run/train.log", "run/checkpoints/last.ckpt", "run/adapter.safetensors",
        "run/metrics.csv", "run/eval/test/report.html", "run/eval/test/cases.csv",
        "run/eval/test/summary.json", "run/plan.json", "run/environment.json",
    ):  # fmt: skip
        assert wanted in seen
    assert any(name.startswith("cache/stacks/") for name in seen)
    for name, path in seen.items():
        assert TEXT not in content(path), name
        is_output = name.startswith("jobs/") and name.endswith(".nii.gz")
        if name in HELD or is_output:
            continue
        assert NAME not in name
        lines = [line for line in content(path).split(b"\n") if NAME.encode() in line]
        # the settings of a run hold the folder that the user gave
        assert all(b" root:" in line for line in lines) if name == "run/config.yaml" else not lines


@pytest.mark.parametrize("suffix", WRITTEN)
def test_headers_do_not_reach_predictions_v04_v05(
    data: Path, work: Path, tmp_path: Path, suffix: str
) -> None:
    scan = next((data / "imagesTs").iterdir())
    out = tmp_path / f"mask{suffix}"
    assert main(["predict", str(scan), "-m", str(work / "run"), "-o", str(out)]) == 0
    image = nibabel.load(out).to_bytes() if suffix == ".nii.gz" else out.read_bytes()
    assert len(image) > 100
    assert TEXT not in image
    assert NAME.encode() not in image


def test_what_fails_names_the_file_and_nothing_in_it_v06(
    data: Path, work: Path, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    scan = nibabel.load(next((data / "imagesTs").iterdir()))
    raw = bytearray(scan.to_bytes())
    raw[70:72] = (9999).to_bytes(2, "little")  # a type that does not exist
    (tmp_path / "bad.nii").write_bytes(raw)
    assert TEXT in raw
    words = ["predict", str(tmp_path / "bad.nii"), "-m", str(work / "run")]
    assert main([*words, "-o", str(tmp_path / "out.nii.gz")]) == 1
    said = capfd.readouterr()
    assert "bad.nii" in said.err
    assert TEXT.decode() not in said.out + said.err
    assert "Traceback" not in said.err
    assert sorted(path.name for path in tmp_path.iterdir() if path.is_file()) == ["bad.nii"]


def test_nobody_is_called_v12(
    data: Path, work: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuse(*where: object) -> None:
        raise AssertionError(f"called {where[1:]}")

    for name in ("connect", "connect_ex", "sendto"):
        monkeypatch.setattr(socket.socket, name, refuse)
    monkeypatch.setattr(socket, "getaddrinfo", refuse)
    scan = str(next((data / "imagesTs").iterdir()))
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert main(["predict", scan, "-m", str(work / "run"), "-o", str(tmp_path)]) == 0
        assert main(["measure", str(next(tmp_path.glob("*.nii.gz"))), "--json"]) in (0, 1)
        assert main(["models", "list", "--json"]) == 0
        evaluate = ["eval", f"run={work / 'run'}", f"data.root={data}", f"out={tmp_path / 'eval'}"]
        assert main([*evaluate, "settings.limit=1", "settings.robustness.cases=0"]) == 0
    assert json.loads((tmp_path / "eval" / "summary.json").read_text())["cases"] == 1
