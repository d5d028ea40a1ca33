"""Downloads: resumed, verified, and clear about what went wrong. Nothing leaves this machine."""

import hashlib
import io
import urllib.error
from pathlib import Path
from types import SimpleNamespace
from urllib.request import Request

import pytest

from segkit.errors import CheckpointError, InputError
from segkit.models import weights
from segkit.models.weights import OFFICIAL, OfficialFile, download, home_folder, local_file

CONTENT = bytes(range(256)) * 40


class Server:
    """Answers like a file server; `cut` ends each answer early, `ranges` allows resuming."""

    def __init__(
        self, content: bytes = CONTENT, *, cut: int = 1 << 30, ranges: bool = True
    ) -> None:
        self.content, self.cut, self.ranges = content, cut, ranges
        self.asked: list[str | None] = []

    def __call__(self, request: Request, *, timeout: float) -> SimpleNamespace:
        assert timeout > 0
        asked = request.get_header("Range")
        self.asked.append(asked)
        start = int(asked.removeprefix("bytes=").rstrip("-")) if asked and self.ranges else 0
        body = io.BytesIO(self.content[start : start + self.cut])
        status = 206 if asked and self.ranges else 200
        return SimpleNamespace(status=status, read=body.read, close=body.close)


@pytest.fixture(autouse=True)
def one_file(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    sha256 = hashlib.sha256(CONTENT).hexdigest()
    one = OfficialFile("m", "m.pth", "https://example.org/m.pth", sha256, len(CONTENT), "free")
    monkeypatch.setattr(weights, "OFFICIAL", {"m": one})
    monkeypatch.setenv("SEGKIT_HOME", str(tmp_path / "home"))
    return tmp_path / "home" / "models" / "m.pth"


def test_file_arrives_and_is_not_fetched_twice(one_file: Path) -> None:
    server, heard = Server(), []
    path = download("m", open_url=server, progress=lambda *now: heard.append(now))
    assert path == one_file == local_file("m")
    assert path.read_bytes() == CONTENT
    assert heard[-1] == (len(CONTENT), len(CONTENT))
    assert download("m", open_url=server) == path
    assert server.asked == [None]
    assert [file.name for file in one_file.parent.iterdir()] == ["m.pth"]


def test_interrupted_download_goes_on(one_file: Path) -> None:
    with pytest.raises(InputError, match=r"the connection ended after 1,000 bytes.*go on where"):
        download("m", open_url=Server(cut=1000))
    assert not one_file.exists()
    server = Server()
    assert download("m", open_url=server).read_bytes() == CONTENT
    assert server.asked == ["bytes=1000-"]


def test_server_without_ranges_starts_again(one_file: Path) -> None:
    with pytest.raises(InputError, match="connection ended"):
        download("m", open_url=Server(cut=1000))
    assert download("m", open_url=Server(ranges=False)).read_bytes() == CONTENT


@pytest.mark.parametrize("content", [CONTENT[:-1] + b"x", CONTENT + b"more"])
def test_wrong_content_is_removed(one_file: Path, content: bytes) -> None:
    with pytest.raises(
        CheckpointError, match=r"sha256 \w+, the official file 10,240 bytes and sha"
    ):
        download("m", open_url=Server(content))
    assert list(one_file.parent.iterdir()) == []


def test_damaged_local_file_is_replaced(one_file: Path) -> None:
    one_file.parent.mkdir(parents=True)
    one_file.write_bytes(bytes(len(CONTENT)))
    assert download("m", open_url=Server()).read_bytes() == CONTENT


def test_complete_leftover_is_only_checked(one_file: Path) -> None:
    one_file.parent.mkdir(parents=True)
    one_file.with_name("m.pth.part").write_bytes(CONTENT)
    server = Server()
    assert download("m", open_url=server) == one_file
    assert server.asked == []


def test_offline_says_what_to_do(one_file: Path) -> None:
    def no_network(request: Request, *, timeout: float) -> None:
        raise urllib.error.URLError("Name or service not known")

    with pytest.raises(InputError, match=r"could not be fetched \(Name or.*put it at .*m\.pth"):
        download("m", open_url=no_network)


def test_folder_that_is_a_file(tmp_path: Path) -> None:
    (tmp_path / "home").write_text("in the way")
    with pytest.raises(InputError, match=r"cannot be written.*set SEGKIT_HOME"):
        download("m", open_url=Server())


def test_too_little_room(one_file: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(weights.shutil, "disk_usage", lambda _: SimpleNamespace(free=10))
    with pytest.raises(InputError, match="needs 10,240 bytes, but only 10 are free"):
        download("m", open_url=Server())


def test_unknown_model() -> None:
    with pytest.raises(InputError, match=r"no official weight file.*'sam3'; available: \['m'\]"):
        download("sam3")


def test_table_is_plausible(monkeypatch: pytest.MonkeyPatch) -> None:
    for model, one in OFFICIAL.items():
        assert one.model == model
        assert one.file.startswith(model)
        assert one.url.endswith("/" + one.file)
        assert one.url.startswith("https://")
        assert len(one.sha256) == 64
    monkeypatch.delenv("SEGKIT_HOME")
    assert home_folder() == Path.home() / ".cache" / "segkit"
