"""The unmodified MONAI Label client against a real server process with nano."""

import json
import sys
from pathlib import Path

import nibabel
import numpy as np
import pytest
import SimpleITK
from serving import SHAPE, TOKEN, Running, ask, body_volume, threaded, tiny_engine

if sys.version_info >= (3, 13):
    pytest.skip("the client needs the module cgi", allow_module_level=True)
pytest.importorskip("monailabel", reason="monailabel is not installed")


@pytest.fixture(scope="module")
def client_class() -> type:
    import warnings

    with warnings.catch_warnings():
        # the client imports cgi, which is deprecated
        warnings.simplefilter("ignore", DeprecationWarning)
        from monailabel.client import MONAILabelClient
    found: type = MONAILabelClient
    return found


pytestmark = pytest.mark.filterwarnings(
    "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
)  # the client closes neither its files nor its connections

TURN = np.array([[np.cos(0.4), -np.sin(0.4), 0], [np.sin(0.4), np.cos(0.4), 0], [0, 0, 1]])
OBLIQUE = np.eye(4)
OBLIQUE[:3, :3] = TURN * [0.8, 1.0, 3.0]
OBLIQUE[:3, 3] = (-20.0, 10.0, 5.0)
CENTRE_IJK = [24, 20, 6]


@pytest.fixture
def scan(tmp_path: Path) -> Path:
    path = tmp_path / "jane-doe.nii.gz"
    nibabel.save(nibabel.Nifti1Image(body_volume().transpose(2, 1, 0), OBLIQUE), path)
    return path


def test_whole_workflow(server: Running, client_class: type, scan: Path, tmp_path: Path) -> None:
    client = client_class(server.url, str(tmp_path), "user-a")
    assert not client.auth_enabled()
    about = client.info()
    assert about["models"]["nano"]["type"] == "deepgrow"
    assert "config" not in about
    session = client.create_session(str(scan))["session_id"]
    assert client.get_session(session)["name"] == session
    params = {"foreground": [CENTRE_IJK], "background": [], "label": "tumour"}
    path, answer = client.infer("nano", "", params, session_id=session)
    assert answer["label_names"] == {"tumour": 1}
    assert Path(path).parent == tmp_path
    image, mask = SimpleITK.ReadImage(str(scan)), SimpleITK.ReadImage(path)
    np.testing.assert_allclose(mask.GetDirection(), image.GetDirection(), atol=1e-5)
    np.testing.assert_allclose(mask.GetOrigin(), image.GetOrigin(), atol=1e-3)
    assert SimpleITK.GetArrayFromImage(mask)[6].any()
    client.remove_session(session)
    assert client.get_session(session) == {}, "the plugin sends the image again"

    client.upload_image(str(scan), "Jane Doe")
    assert client.next_sample("first", {})["id"] == "Jane Doe"
    again, _ = client.infer("nano", "Jane Doe", params)
    assert SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(again)).shape == SHAPE
    saved = client.save_label("Jane Doe", again, tag="final")
    back = client.download_label(saved["label"], "final")
    np.testing.assert_array_equal(
        SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(back)) > 0,
        SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(again)) > 0,
    )
    assert client.next_sample("first", {}) == {}
    assert not client.train_status(check_if_running=True)
    assert client.datastore()["objects"] == {}, "without client_id nothing of a client is listed"
    assert "Jane" not in server.log.read_text()


def test_learning_through_the_protocol(client_class: type, scan: Path, tmp_path: Path) -> None:
    engine = tiny_engine()
    with threaded(engine) as url:
        client = client_class(url, str(tmp_path), "user-b")
        client.upload_image(str(scan), "one")
        label = tmp_path / "label.nii.gz"
        mask = (body_volume() > 500).astype(np.uint8)
        nibabel.save(nibabel.Nifti1Image(mask.transpose(2, 1, 0), OBLIQUE), label)
        client.save_label("one", str(label))
        assert client.train_start("tiny", {})["status"] == "RUNNING"
        assert client.train_status()["id"]
        client.train_stop()


def test_a_whole_volume_by_an_automatic_model(
    plain: str, client_class: type, scan: Path, tmp_path: Path
) -> None:
    client = client_class(plain, str(tmp_path), "user-c")
    assert client.info()["models"]["organs"]["type"] == "segmentation"
    path, answer = client.infer("organs", "", {"result_extension": ".nrrd"}, file=str(scan))
    found = SimpleITK.GetArrayFromImage(SimpleITK.ReadImage(path))
    values = set(np.unique(found).tolist()) - {0}
    assert values <= set(answer["label_names"].values())


def test_the_same_id_of_two_clients_is_two_images_s15(
    plain: str, client_class: type, scan: Path, tmp_path: Path
) -> None:
    first, second = (client_class(plain, str(tmp_path), name) for name in ("d", "e"))
    first.upload_image(str(scan), "shared")
    other = tmp_path / "other.nii.gz"
    small = np.zeros((8, 9, 10), np.int16)
    nibabel.save(nibabel.Nifti1Image(small, np.eye(4)), other)
    second.upload_image(str(other), "shared")
    params = {"foreground": [[4, 4, 4]]}
    shapes = [
        SimpleITK.ReadImage(one.infer("tiny", "shared", params)[0]).GetSize()
        for one in (first, second)
    ]
    assert shapes == [SHAPE[::-1], (8, 9, 10)]
    third = client_class(plain, str(tmp_path), "f")
    with pytest.raises(Exception, match="no such image"):
        third.infer("tiny", "shared", params)


def test_the_token_is_the_password(guarded: str, client_class: type, tmp_path: Path) -> None:
    client = client_class(guarded, str(tmp_path), "g")
    assert client.auth_enabled()
    with pytest.raises(Exception, match="401"):
        client.auth_token("anybody", "wrong")
    client.update_auth(client.auth_token("anybody", TOKEN))
    assert client.auth_valid_token()
    assert client.info()["models"]
    assert client.datastore()["objects"] == {}


@pytest.mark.parametrize(
    ("method", "path", "status", "says"),
    [
        ("POST", "/infer/unknown?image=x", 404, "no such model"),
        ("POST", "/infer/tiny?image=x", 404, "no such image"),
        ("GET", "/datastore/label?label=x&tag=final", 404, "no such label"),
        ("GET", "/train/?check_if_running=true", 404, "no such training"),
        ("DELETE", "/session/x", 404, "no such session"),
        ("POST", "/activelearning/random", 404, "no such strategy"),
        ("PUT", "/session/", 400, "no file"),
        ("PUT", "/datastore/?image=x", 400, "no file"),
    ],
)
def test_refusals(plain: str, method: str, path: str, status: int, says: str) -> None:
    found, _, body = ask(plain, method, path, b"{}", content_type="application/json")
    assert found == status
    assert says in json.loads(body)["detail"]
