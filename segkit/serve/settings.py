"""What an administrator may set, with limits that are safe without being asked."""

import ipaddress
import os
import stat
from dataclasses import dataclass
from pathlib import Path

from segkit.errors import InputError

LOOPBACK_NAMES = ("127.0.0.1", "localhost", "::1")
TOKEN_VARIABLE = "SEGKIT_TOKEN"
MIN_TOKEN = 16


def _memory_bytes() -> int:
    try:
        return os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    except (ValueError, OSError, AttributeError):
        return 8 * 2**30


@dataclass(frozen=True, slots=True, kw_only=True)
class Limits:
    """Bounds on what clients may ask; bytes and seconds.

    `body` bounds every upload, `array` what it may become, `total` all images and masks in memory.
    Headers must arrive within `header_s`; bodies at `bytes_per_s` at least, with `header_s` grace.
    """

    json: int = 2**20
    body: int = 2 * 2**30
    array: int = min(4 * 2**30, _memory_bytes() // 4)
    total: int = _memory_bytes() // 2
    header_s: float = 10.0
    bytes_per_s: int = 64 * 1024
    prompt_points: int = 4096
    volumes: int = 8
    sessions: int = 32


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """How a server behaves.

    `token` protects everything but health and the page; it must be there off loopback. A client
    silent for `liveness_s`, or without action for `idle_s`, loses its place; with a `state` folder
    its work is parked there for `keep_s` and restored when it returns, also after a restart.

    Raises:
        InputError: The host is not loopback and there is no token, or the token is short.
    """

    host: str = "127.0.0.1"
    port: int = 1527
    token: str = ""
    allow_hosts: tuple[str, ...] = ()
    allow_origins: tuple[str, ...] = ()
    state: Path | None = None
    max_leases: int = 16
    liveness_s: float = 60.0
    idle_s: float = 600.0
    keep_s: float = 24 * 3600.0
    learning: bool = True
    limits: Limits = Limits()

    def __post_init__(self) -> None:
        if not self.is_loopback and not self.token:
            raise InputError(
                f"host {self.host} can be reached from other machines, and there is no token",
                fix="give --token-file FILE (mode 600), or listen on 127.0.0.1",
                code="token_needed",
            )
        if self.token and len(self.token) < MIN_TOKEN:
            raise InputError(
                f"the token has {len(self.token)} characters, at least {MIN_TOKEN} are needed",
                fix="make one: python -c 'import secrets; print(secrets.token_hex(32))'",
                code="weak_token",
            )
        if "*" in self.allow_origins:
            raise InputError("origin '*' would let any web page in", fix="name the origins")

    @property
    def is_loopback(self) -> bool:
        """Whether only this machine can connect."""
        return is_loopback(self.host)


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine only."""
    if host == "localhost":
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def read_token(path: Path | None) -> str:
    """Token of a file only its owner can read, or of the environment variable SEGKIT_TOKEN.

    Raises:
        InputError: The file cannot be read, or others can read it.
    """
    if path is None:
        return os.environ.get(TOKEN_VARIABLE, "").strip()
    try:
        mode = path.stat().st_mode
        text = path.read_text(encoding="utf-8").strip()
    except (OSError, UnicodeDecodeError) as error:
        raise InputError("the token file cannot be read", path=path, code="token_file") from error
    if os.name == "posix" and mode & (stat.S_IRWXG | stat.S_IRWXO):
        raise InputError(
            f"the token file has mode {stat.S_IMODE(mode):o}, others can read it",
            fix="chmod 600 it",
            path=path,
            code="token_file",
        )
    if not text:
        raise InputError("the token file is empty", path=path, code="token_file")
    return text
