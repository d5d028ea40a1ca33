"""Position embedding of SAM 2's trunk, kept for the sizes of image seen last."""

from collections.abc import Callable
from threading import Lock
from weakref import ref

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from segkit.typing import Maps, Tokens

_MOST = 2
"""Sizes that are kept; a table of the tiny model takes 25 MB at 1024 x 1024."""
Stamp = tuple[object, ...]


def resized(background: Maps, window: Maps, size: tuple[int, int]) -> Tokens:
    """Resize the background to the token grid and tile the window part over it."""
    rows, cols = size
    side = window.shape[-1]
    tiled = window.tile((rows // side, cols // side))
    maps = F.interpolate(background, size=size, mode="bicubic") + tiled
    return maps.permute(0, 2, 3, 1)


class PositionMemo:
    """Gives `resized` of two frozen weights, and keeps it from image to image.

    It is made again when a weight was replaced, moved or written to. Nothing is kept of weights
    that are trained, nor while a program is recorded (`torch.compile`, export), which is to hold
    the weights and not what was once made of them.
    """

    def __init__(self) -> None:
        self._lock = Lock()
        self._weights: tuple[Callable[[], Tensor | None], ...] = ()
        self._stamp: Stamp = ()
        self._tables: dict[Stamp, Tokens] = {}

    def __call__(self, background: Maps, window: Maps, size: tuple[int, int]) -> Tokens:
        """Position embedding of a grid of tokens, to be read only."""
        weights = (background, window)
        if _is_recorded() or not all(map(_can_keep, weights)):
            return resized(background, window, size)
        stamp = tuple(_stamp(one) for one in weights)
        key = (size, torch.is_autocast_enabled(background.device.type))
        with self._lock:
            known = tuple(one() for one in self._weights)
            if self._stamp != stamp or not _are_same(known, weights):
                self._weights, self._stamp, self._tables = tuple(map(ref, weights)), stamp, {}
            if (table := self._tables.pop(key, None)) is None:
                # made in inference mode, it could not take part in a training later
                with torch.inference_mode(False), torch.no_grad():
                    table = resized(background, window, size).contiguous()
            self._tables[key] = table
            if len(self._tables) > _MOST:
                del self._tables[next(iter(self._tables))]
        return table

    def __deepcopy__(self, memo: object) -> "PositionMemo":
        return PositionMemo()

    def __reduce__(self) -> tuple[type["PositionMemo"], tuple[()]]:
        return PositionMemo, ()


def _is_recorded() -> bool:
    return torch.compiler.is_compiling() or torch.jit.is_tracing()


def _can_keep(weight: Tensor) -> bool:
    """Whether this is a plain frozen weight, whose changes are counted."""
    is_plain = type(weight) in (Tensor, nn.Parameter) and not weight.is_inference()
    return is_plain and not weight.requires_grad


def _stamp(weight: Tensor) -> Stamp:
    return weight.data_ptr(), weight._version, weight.dtype, weight.device


def _are_same(known: tuple[Tensor | None, ...], weights: tuple[Tensor, ...]) -> bool:
    return len(known) == len(weights) and all(
        one is other for one, other in zip(known, weights, strict=True)
    )
