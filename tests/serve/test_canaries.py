"""Planted canaries never come out; names hold the ids of the catalogue of faults."""

import io
import json
import re
import socket
from collections.abc import Callable, Iterator
from pathlib import Path

import httpx
import nibabel
import numpy as np
import pytest
from pydicom.dataset import FileDataset, FileMetaDataset
from pydicom.uid import CTImageStorage, ExplicitVRLittleEndian, generate_uid
from serving import SPACING_MM, ask, body_volume, threaded, tiny_engine

from segkit.client import RemotePredictor, RequestError
from segkit.serve.engine import Engine
from segkit.serve.pictures import FORMATS
from segkit.serve.workspace import Workspace

CANARY = "CANARY^JANE"
PATIENT_TAGS = (
    "PatientName", "PatientID", "AccessionNumber", "StudyID", "InstitutionName",
    "ReferringPhysicianName", "StudyDescription", "SeriesDescription", "ProtocolName",
)  # fmt: skip
VOLUME_FORMATS = [one for one in FORMATS if one not in (".png", ".tif")]
CLICK = [(6, 20, 24)]


def clean(data: bytes | str) -> bool:
    text = data.encode() if isinstance(data, str) else data
    return b"CANARY" not in text


@pytest.fixture
def engine(tmp_path: Path) -> Engine:
    return tiny_engine(tmp_path / "state")


@pytest.fixture
def url(engine: Engine) -> Iterator[str]:
    with threaded(engine) as where:
        yield where


def nifti(path: Path) -> Path:
    image = nibabel.Nifti1Image(body_volume().transpose(2, 1, 0), np.diag([0.8, 1, 3, 1]))
    for field in ("descrip", "db_name", "aux_file", "intent_name"):
        image.header[field] = CANARY
    image.header.extensions.append(nibabel.nifti1.Nifti1Extension("comment", CANARY.encode()))
    nibabel.save(image, path)
    return path


def dicom_slice(k: int) -> bytes:
    meta = FileMetaDataset()
    meta.MediaStorageSOPClassUID, meta.TransferSyntaxUID = CTImageStorage, ExplicitVRLittleEndian
    meta.MediaStorageSOPInstanceUID = generate_uid()
    header = FileDataset("", {}, file_meta=meta, preamble=b"\0" * 128)
    header.SOPClassUID, header.SOPInstanceUID = CTImageStorage, meta.MediaStorageSOPInstanceUID
    header.StudyInstanceUID, header.SeriesInstanceUID = "1.2.3.4", "1.2.3.6"
    header.FrameOfReferenceUID, header.Modality, header.InstanceNumber = "1.2.3.5", "CT", k + 1
    for tag in PATIENT_TAGS:
        setattr(header, tag, CANARY)
    block = header.private_block(0x0011, "CANARY CORP", create=True)
    block.add_new(0x01, "LO", CANARY)
    header.ImagePositionPatient, header.ImageOrientationPatient = [0, 0, 3 * k], [1, 0, 0, 0, 1, 0]
    header.PixelSpacing, header.SliceThickness = [1.0, 0.8], 3
    pixels = (body_volume()[k] + 100).astype(np.uint16)
    header.Rows, header.Columns = pixels.shape
    header.BitsAllocated, header.BitsStored, header.HighBit = 16, 12, 11
    header.PixelRepresentation, header.SamplesPerPixel = 0, 1
    header.PhotometricInterpretation, header.PixelData = "MONOCHROME2", pixels.tobytes()
    data = io.BytesIO()
    header.save_as(data, enforce_file_format=True)
    return data.getvalue()


def test_tags_of_dicom_files_stay_where_they_are_v01_v02(url: str, tmp_path: Path) -> None:
    slices = [dicom_slice(k) for k in range(12)]
    assert not clean(slices[0])
    files = [("files", (f"{CANARY}-{k}.dcm", data)) for k, data in enumerate(slices)]
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as web:
        session = web.put("/session/", files=files).json()["session_id"]
        params = {"foreground": [[24, 20, 6]], "label": "tumour"}
        for suffix in VOLUME_FORMATS:
            found = web.post(
                f"/infer/tiny?session_id={session}",
                files={"params": (None, json.dumps({**params, "result_extension": suffix}))},
            )
            assert found.status_code == 200, found.text
            assert clean(found.content), suffix
    for path in tmp_path.rglob("*"):
        assert clean(str(path))
        assert not path.is_file() or clean(path.read_bytes()), "pixels are kept, headers are not"


def test_headers_and_extensions_of_nifti_stay_where_they_are_v04_v05(
    plain: str, tmp_path: Path
) -> None:
    path = nifti(tmp_path / "CANARY.nii")
    assert not clean(path.read_bytes())
    with RemotePredictor(plain) as remote:
        session = remote.open(path).add_points(CLICK, [1])
        for suffix in VOLUME_FORMATS:
            assert clean(session.save(tmp_path / f"mask{suffix}").read_bytes()), suffix
        assert clean(json.dumps(session.measurements())), "V-08"
        assert clean(json.dumps(remote.models()))
    mask = nibabel.load(tmp_path / "mask.nii.gz")
    np.testing.assert_allclose(mask.affine, np.diag([0.8, 1, 3, 1]))


def test_what_fails_unexpectedly_is_logged_without_its_message_v06(
    plain: str, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    def fail(*_: object) -> None:
        raise RuntimeError(f"/data/{CANARY}/scan.nii.gz")

    with RemotePredictor(plain) as remote:
        session = remote.open(body_volume(), spacing_mm=SPACING_MM)
        monkeypatch.setattr(Workspace, "render", fail)
        with pytest.raises(Exception, match="internal error") as failed:
            session.add_points(CLICK, [1])
        monkeypatch.undo()
        assert session.add_points(CLICK, [1]).shape == body_volume().shape, "it goes on"
    assert "RuntimeError" in caplog.text
    assert clean(caplog.text)
    assert clean(str(failed.value))


def test_learned_versions_hold_weights_only_v07_v08(
    url: str, engine: Engine, tmp_path: Path
) -> None:
    with RemotePredictor(url) as remote:
        session = remote.open(nifti(tmp_path / "CANARY.nii"), name="CANARY")
        session.accept(body_volume() > 500)
        assert clean(json.dumps(remote.learn("tiny", seconds=0.2)))
    assert engine.state is not None
    kept = list(engine.state.models.iterdir())
    assert [path.name for path in kept] == ["tiny-1.safetensors"]
    assert clean(kept[0].read_bytes())


def test_nobody_else_is_called_v12(
    plain: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    called: list[object] = []

    def watched(method: Callable[..., object]) -> Callable[..., object]:
        def call(plug: socket.socket, address: tuple[str, int]) -> object:
            called.append(address[0])
            return method(plug, address)

        return call

    for name in ("connect", "connect_ex"):
        monkeypatch.setattr(socket.socket, name, watched(getattr(socket.socket, name)))
    with RemotePredictor(plain) as remote:
        session = remote.open(nifti(tmp_path / "scan.nii")).add_points(CLICK, [1])
        session.accept()
        session.save(tmp_path / "mask.nii.gz")
        remote.segment(remote.upload(body_volume()), model="organs")
    assert set(called) == {"127.0.0.1"}


@pytest.mark.parametrize(
    "name", ["../../evil.nii.gz", "/etc/evil.nii.gz", "..\\evil.nii.gz", "a\0b.nii.gz", "x" * 3000]
)
def test_names_of_clients_are_no_part_of_a_path_s25(
    url: str, engine: Engine, tmp_path: Path, name: str
) -> None:
    data = nifti(tmp_path / "scan.nii").read_bytes()
    before = set(tmp_path.rglob("*"))
    with httpx.Client(base_url=url, trust_env=False, timeout=30) as web:
        sent = web.put("/datastore/", params={"image": name}, files={"file": ("a.nii", data)})
        label = {"label": (f"{name}.nii", data)}
        saved = web.put("/datastore/label", params={"image": name, "tag": name}, files=label)
    assert (sent.status_code, saved.status_code) == (200, 200)
    assert engine.state is not None
    engine.state.flush()
    written = {str(path.relative_to(engine.state.folder / "work"))
               for path in set(tmp_path.rglob("*")) - before}  # fmt: skip
    assert len(written) >= 3
    assert all(re.fullmatch(r"[0-9a-f]{32}(/(\d{6}\.bin|journal\.jsonl))?", one) for one in written)
    assert not list(engine.temporary.iterdir()), "and nothing is left for the time being"


@pytest.mark.parametrize("suffix", ["../x.nii", "/etc/passwd", ".nii/../../x", "nii\0", "", ".exe"])
def test_suffixes_are_chosen_from_a_list_s25(plain: str, suffix: str) -> None:
    with RemotePredictor(plain) as remote:
        lease = remote.lease
        about = {"X_Lease_Token": lease, "Content_Type": "application/x-segkit-file"}
        meta = json.dumps({"suffix": suffix})
        status, _, said = ask(plain, "POST", "/segkit/v1/volumes", b"x", X_Meta=meta, **about)
        assert (status, json.loads(said)["code"]) == (400, "bad_suffix")
        session = remote.open(body_volume(), spacing_mm=SPACING_MM)
        with pytest.raises(RequestError, match="unknown format"):
            remote._transport.request(
                "GET", f"/segkit/v1/sessions/{session.id}/file?suffix={httpx.QueryParams(s=suffix)}"
            )


def test_masks_are_overwritten_when_they_go_s16(url: str, engine: Engine) -> None:
    with RemotePredictor(url) as remote:
        space = engine.everybody()[0].workspace
        image = remote.upload(body_volume(), spacing_mm=SPACING_MM)
        session = remote.open(image)

        def kept() -> np.ndarray:
            session.accept(np.ones(session.shape, bool))
            bits: np.ndarray = next(iter(space.corrections.values())).bits
            assert bits.all()
            return bits

        first, second = kept(), kept()
        assert not first.any(), "a newer one has taken its place"
        remote.drop(image)
        assert not second.any(), "its image is gone"
        image = remote.upload(body_volume(), spacing_mm=SPACING_MM)
        session = remote.open(image)
        third = kept()
    engine.worker.submit(lambda _: None).future.result(10)
    assert not third.any(), "its client is gone"
