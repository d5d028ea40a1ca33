"""Keep what frozen blocks compute: each image goes through them once, not once per epoch.

The key is a hash of the very pixels the encoder sees, of the frozen weights and of the precision,
so a changed image is computed anew whatever changed it; nothing that is found can be stale.
"""

import hashlib
import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Literal, get_args

import torch
from torch import Tensor

from segkit.backbones.base import Backbone, Stem
from segkit.data.array_store import ArrayStore
from segkit.data.cache import default_cache_dir
from segkit.errors import InputError
from segkit.models.segmenter import Segmenter
from segkit.typing import Features, Grid, Image
from segkit.version import VERSION

_log = logging.getLogger(__name__)
Mode = Literal["auto", "off", "ram", "disk"]
_LEAST_SHARE = 0.25
"""Share of the blocks that must be frozen for "auto" to keep anything."""


@dataclass(frozen=True, slots=True, kw_only=True)
class StemCacheSpec:
    """Where the output of frozen blocks is kept.

    "auto" keeps it in memory where images recur (validation always, training if it does not change
    them at random) and at least a quarter of the blocks is frozen; "ram" and "disk" insist. "disk"
    fills memory first and finds again what earlier runs left in `folder` (the cache folder by
    default). `ram_gb` None is 2 GiB, or a quarter of the free memory if that is less.
    """

    mode: Mode = "auto"
    ram_gb: float | None = None
    disk_gb: float = 20.0
    folder: str | None = None

    def __post_init__(self) -> None:
        if str(self.mode) == "False":  # what YAML makes of the word off
            object.__setattr__(self, "mode", "off")
        if self.mode not in get_args(Mode):
            raise InputError(f"cache_features must be one of {get_args(Mode)}, got {self.mode!r}")
        if min(self.disk_gb, 0.0 if self.ram_gb is None else self.ram_gb) < 0:
            raise InputError(f"ram_gb and disk_gb must be >= 0: {self.ram_gb}, {self.disk_gb}")

    @property
    def ram_bytes(self) -> int:
        """Memory that may be used."""
        if self.ram_gb is not None:
            return int(self.ram_gb * 2**30)
        return min(2 * 2**30, _free_bytes() // 4)

    def open(
        self, segmenter: Segmenter, *, images_recur: bool, is_supported: bool = True
    ) -> "StemCache | None":
        """A cache for a training, or None where there is nothing to gain.

        `images_recur`: whether training shows the same pixels in every epoch. `is_supported`:
        whether this kind of training reads features by image.

        Raises:
            InputError: The mode insists and nothing could be kept.
        """
        insists = self.mode in ("ram", "disk")
        if self.mode == "off" or not (insists or is_supported):
            return None
        share = _frozen_share(segmenter.backbone) if is_supported else 0.0
        if not insists and share < _LEAST_SHARE:
            return None
        if not share:
            raise InputError(
                f"cache_features={self.mode} has nothing to keep: this training changes what the "
                "first block sees, or does not read features by image",
                fix="train the decoder alone (trainable=decoder) or later blocks "
                "(adapter=dilated adapter.start=K), or leave cache_features at auto",
                code="nothing_frozen",
                option="cache_features",
            )
        if insists and not images_recur:
            raise InputError(
                f"cache_features={self.mode} is of no use while training changes the images at "
                "random",
                fix="data.augment=null leaves them as they are, data.augment.variants=4 lets each "
                "image recur in four forms; cache_features=auto keeps validation images alone",
                code="images_change",
                option="cache_features",
            )
        return StemCache(segmenter, self, in_training=images_recur)


class StemCache:
    """Encodes through `Backbone.stem`, keeping it per image (per volume of slices).

    Memory is filled first, then the disk in mode "disk"; when both are full the rest is computed
    each time. `found` and `computed` count images. `in_training` false keeps validation alone.
    """

    def __init__(self, segmenter: Segmenter, spec: StemCacheSpec, *, in_training: bool) -> None:
        self.in_training, self.found, self.computed = in_training, 0, 0
        self._state = _state(segmenter.backbone)
        self._weights = _digest(segmenter.backbone)
        self._kept: dict[str, Stem] = {}
        self._left = spec.ram_bytes
        self._store: ArrayStore | None = None
        if spec.mode == "disk":
            folder = (Path(spec.folder) if spec.folder else default_cache_dir()) / "features"
            self._store = ArrayStore(folder, most_bytes=int(spec.disk_gb * 2**30))
        _log.info(
            "keeping the output of %d of %d frozen blocks in %.1f GiB of memory%s%s",
            self._state[0],
            len(segmenter.spec.blocks),
            self._left / 2**30,
            "" if self._store is None else f" and in {self._store.folder}",
            "" if in_training else ", of validation images only",
        )

    def encode(self, segmenter: Segmenter, image: Image, grid: Grid | None = None) -> Features:
        """Equal `segmenter.encode`, up to the rounding of another batch size."""
        if _state(segmenter.backbone) != self._state:  # something was unfrozen since
            return segmenter.encode(image, grid)
        grid = grid or Grid((1, image.shape[2], image.shape[3]))
        units = image.detach().unflatten(0, (-1, grid.depth))
        keys = [self._key(unit, grid) for unit in units]
        stems = {key: stem for key in keys if (stem := self._get(key)) is not None}
        missing = [row for row, key in enumerate(keys) if key not in stems]
        self.found += len(keys) - len(missing)
        self.computed += len(missing)
        if missing:
            made = segmenter.backbone.stem(units[missing].flatten(0, 1), grid)
            split = [part.unflatten(0, (len(missing), -1)) for part in made]
            for place, row in enumerate(missing):
                stems[keys[row]] = tuple(part[place] for part in split)
                self._put(keys[row], stems[keys[row]])
        rows = zip(*(stems[key] for key in keys), strict=True)
        stem = tuple(torch.cat([part.to(image.device) for part in parts]) for parts in rows)
        return segmenter.encode(image, grid, stem=stem)

    def _key(self, unit: Tensor, grid: Grid) -> str:
        kind = unit.device.type
        is_auto = torch.is_autocast_enabled(kind)
        precision = str(torch.get_autocast_dtype(kind)) if is_auto else str(unit.dtype)
        facts = f"{self._weights} {precision} {tuple(unit.shape)} {grid.spacing_mm}"
        hashed = hashlib.blake2b(facts.encode(), digest_size=20)
        hashed.update(unit.cpu().contiguous().numpy().data)
        return hashed.hexdigest()

    def _get(self, key: str) -> Stem | None:
        if key in self._kept:
            return self._kept[key]
        arrays = None if self._store is None else self._store.get(key)
        if arrays is None:
            return None
        stem = tuple(torch.from_numpy(array) for array in arrays)
        self._remember(key, stem)
        return stem

    def _put(self, key: str, stem: Stem) -> None:
        stem = tuple(part.detach().cpu().clone() for part in stem)
        self._remember(key, stem)
        # numpy knows no bfloat16: such features stay in memory
        if self._store is not None and all(part.dtype != torch.bfloat16 for part in stem):
            self._store.put(key, [part.numpy() for part in stem])

    def _remember(self, key: str, stem: Stem) -> None:
        size = sum(part.nbytes for part in stem)
        if size <= self._left:
            self._left -= size
            self._kept[key] = stem


def _free_bytes() -> int:
    """Free memory of this machine; what is not told counts as much."""
    meminfo = Path("/proc/meminfo")
    if not meminfo.is_file():
        return 8 * 2**30
    lines = dict(line.split(":") for line in meminfo.read_text().splitlines() if ":" in line)
    return int(lines["MemAvailable"].split()[0]) * 2**10


def _frozen_share(backbone: Backbone) -> float:
    return backbone.frozen_blocks / max(1, len(backbone.spec.blocks))


def _state(backbone: Backbone) -> tuple[int, bool]:
    return backbone.frozen_blocks, backbone.is_fixed


def _digest(backbone: Backbone) -> str:
    """Hash of every weight that the kept output depends on."""
    parts = [backbone.encoder, *([backbone.adapter] if backbone.is_fixed else [])]
    hashed = hashlib.blake2b(f"{VERSION} {_state(backbone)}".encode(), digest_size=20)
    for name, tensor in _tensors(parts):
        hashed.update(f"{name} {tensor.dtype} {tuple(tensor.shape)}".encode())
        flat = tensor.detach().cpu().contiguous().flatten()
        if flat.numel():
            hashed.update(flat.view(torch.uint8).numpy().data)
    return hashed.hexdigest()


def _tensors(parts: Sequence[torch.nn.Module]) -> list[tuple[str, Tensor]]:
    return [pair for part in parts for pair in sorted(part.state_dict().items())]
