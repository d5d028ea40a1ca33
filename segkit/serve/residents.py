"""Models in memory: several on one copy of their frozen weights, with versions that can go back."""

import re
import threading
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path

from torch import nn

from segkit.errors import CheckpointError, InputError
from segkit.models.build_sam2 import SAM2_BUILDERS
from segkit.models.files import save_adapter
from segkit.models.info import ModelInfo
from segkit.models.segmenter import Segmenter
from segkit.models.tracker import Tracker
from segkit.predictors import ImagePredictor, VolumePredictor
from segkit.predictors.base import Device, Predictor
from segkit.predictors.video import VideoPredictor
from segkit.serve.faults import bad, unknown

_NOT_IN_NAMES = re.compile(r"[^A-Za-z0-9_.-]+")


@dataclass(frozen=True, slots=True, eq=False)
class Resident:
    """One version of a model; never changed, so a request finishes on the version it began with."""

    name: str
    version: int
    volumes: VolumePredictor
    pictures: ImagePredictor

    @property
    def id(self) -> str:
        """Name and version, as clients write it."""
        return f"{self.name}@{self.version}"

    @property
    def segmenter(self) -> Segmenter:
        """The network."""
        return self.volumes.segmenter

    def predictor(self, *, is_picture: bool) -> Predictor:
        """Predictor for one kind of image."""
        return self.pictures if is_picture else self.volumes

    @property
    def has_memory(self) -> bool:
        """Whether it can track objects through a sequence."""
        recipe = self.segmenter.recipe
        known = recipe is not None and recipe.backbone.name in SAM2_BUILDERS
        return known and not self.segmenter.is_automatic

    def tracker(self) -> VideoPredictor:
        """The same weights with the memory half that belongs to them.

        Raises:
            Refusal: 400; the model has none, or it is not on this machine.
        """
        recipe = self.segmenter.recipe
        if recipe is None or not self.has_memory:
            raise bad(f"model {self.name} has no memory; it cannot track", "no_tracker")
        try:
            memory = SAM2_BUILDERS[recipe.backbone.name].load_memory()
        except CheckpointError as error:
            raise bad(f"the memory half of {self.name} is not here", "no_tracker") from error
        tracker = Tracker(self.segmenter, memory)
        return VideoPredictor(tracker, self.volumes.info, device=str(self.volumes.device))

    @classmethod
    def of(cls, name: str, version: int, like: Predictor) -> "Resident":
        """Wrap the model of a predictor."""
        args = (like.segmenter, like.info)
        return cls(
            name,
            version,
            VolumePredictor(*args, device=str(like.device)),
            ImagePredictor(*args, device=str(like.device)),
        )


@dataclass(slots=True)
class _Line:
    """All versions of one model; 0 is what was loaded."""

    versions: dict[int, Resident] = field(default_factory=dict)
    current: int = 0


class Residents:
    """The models of a server by name; the first one is what a client gets that names none."""

    def __init__(self, folder: Path | None = None) -> None:
        self._lines: dict[str, _Line] = {}
        self._folder = folder
        self._lock = threading.Lock()

    def load(self, models: Iterable[str | Path], *, device: Device = "auto") -> None:
        """Load models by name or path, and the versions learned from them before.

        Raises:
            CheckpointError: One cannot be loaded.
        """
        for model in models:
            self.add(self._free_name(model), VolumePredictor.from_pretrained(model, device=device))

    def add(self, name: str, predictor: Predictor) -> Resident:
        """Keep a model under a name, and the versions learned from it before."""
        self._share(predictor.segmenter)
        first = Resident.of(name, 0, predictor)
        self._lines[name] = _Line({0: first})
        for path in sorted(self._files(name)):
            known = VolumePredictor.from_pretrained(path, device=str(predictor.device))
            self._keep(first, known.segmenter, known.info, int(path.stem.rpartition("-")[2]))
        return first

    @property
    def names(self) -> list[str]:
        """Names in the order they were given."""
        return list(self._lines)

    @property
    def interactive(self) -> str:
        """Name of the first model that takes prompts.

        Raises:
            Refusal: 404; there is none.
        """
        for name, line in self._lines.items():
            if not line.versions[line.current].segmenter.is_automatic:
                return name
        raise unknown("model that takes prompts")

    def find(self, name: str | None = None) -> Resident:
        """Model by "name" (its current version) or "name@version".

        Raises:
            Refusal: 404; there is none.
        """
        if not self._lines:
            raise unknown("model")
        name, _, version = (name or self.names[0]).partition("@")
        line = self._lines.get(name)
        if line is None or (version and not version.isdecimal()):
            raise unknown("model")
        found = line.versions.get(int(version) if version else line.current)
        if found is None:
            raise unknown("model")
        return found

    def find_tracker(self, name: str | None = None) -> Resident:
        """Model that tracks: the named one, or the first that can.

        Raises:
            Refusal: 400; the named one cannot, or 404; there is none.
        """
        if name is None:
            able = [one for one in map(self.find, self.names) if one.has_memory]
            if not able:
                raise unknown("model that tracks; start the server with -m nano2")
            return able[0]
        found = self.find(name)
        if not found.has_memory:
            raise bad(f"model {found.name} has no memory; it cannot track", "no_tracker")
        return found

    def versions(self, name: str) -> list[int]:
        """Versions of a model, oldest first."""
        return sorted(self._line(name).versions)

    def grow(self, base: Resident, segmenter: Segmenter) -> Resident:
        """Keep a learned version beside the others and make it the current one."""
        with self._lock:
            number = max(self._line(base.name).versions) + 1
            info = base.volumes.info
            found = ModelInfo.of(
                segmenter,
                labels=None if info is None else info.labels,
                input=None if info is None else info.input,
                licence="" if info is None else info.licence,
            )
            if self._folder is not None:
                self._folder.mkdir(parents=True, exist_ok=True, mode=0o700)
                save_adapter(self._folder / f"{base.name}-{number}.safetensors", segmenter, found)
            return self._keep(base, segmenter, info, number)

    def choose(self, name: str, version: int) -> Resident:
        """Make a version the current one (roll back, or forward again).

        Raises:
            Refusal: 404; there is no such version.
        """
        line = self._line(name)
        if version not in line.versions:
            raise unknown("version")
        line.current = version
        return line.versions[version]

    def _keep(
        self, base: Resident, segmenter: Segmenter, info: ModelInfo | None, number: int
    ) -> Resident:
        self._share(segmenter)
        own = base.volumes.info if base.volumes.info is None else info
        like = Predictor(segmenter, own, device=str(base.volumes.device))
        line = self._line(base.name)
        line.versions[number] = Resident.of(base.name, number, like)
        line.current = number
        return line.versions[number]

    def _line(self, name: str) -> _Line:
        if name not in self._lines:
            raise unknown("model")
        return self._lines[name]

    def _files(self, name: str) -> list[Path]:
        if self._folder is None or not self._folder.is_dir():
            return []
        wanted = re.compile(re.escape(name) + r"-\d+")
        return [p for p in self._folder.glob("*.safetensors") if wanted.fullmatch(p.stem)]

    def _free_name(self, model: str | Path) -> str:
        path = Path(model)
        stem = path.parent.name if path.name == "adapter.safetensors" else path.name
        stem = _NOT_IN_NAMES.sub("-", stem.removesuffix(".safetensors")).strip("-.") or "model"
        if stem in self._lines:
            raise InputError(
                f"two models are called {stem!r}", fix="rename one of their folders", path=path
            )
        return stem

    def _share(self, segmenter: Segmenter) -> None:
        """Let frozen weights that are already here stand in for equal ones of a new model."""
        if segmenter.recipe is None:
            return
        for line in self._lines.values():
            for resident in line.versions.values():
                known = resident.segmenter
                if known.recipe is None or known is segmenter:
                    continue
                if known.recipe.backbone.sha256 == segmenter.recipe.backbone.sha256:
                    share_frozen(segmenter.backbone.encoder, known.backbone.encoder)
                    return


def share_frozen(new: nn.Module, known: nn.Module) -> int:
    """Give frozen parameters of `new` the storage of equal ones of `known`; count the bytes saved.

    Only parameters that are frozen in both, with the same name, shape, type and values, are shared:
    adapters that edit weights keep their own.
    """
    saved = 0
    theirs = dict(known.named_parameters())
    for name, parameter in new.named_parameters():
        other = theirs.get(name)
        if other is None or parameter.requires_grad or other.requires_grad:
            continue
        if parameter.shape == other.shape and parameter.dtype == other.dtype:
            same_place = parameter.device == other.device
            if same_place and bool((parameter == other).all()):
                parameter.data = other.data
                saved += parameter.numel() * parameter.element_size()
    return saved


def describe(residents: Residents) -> list[dict[str, object]]:
    """Models for a client: name, versions, kind, labels; no path."""
    return [_describe(residents, name) for name in residents.names]


def _describe(residents: Residents, name: str) -> dict[str, object]:
    found = residents.find(name)
    recipe = found.segmenter.recipe
    return {
        "name": name,
        "version": found.version,
        "versions": residents.versions(name),
        "kind": "automatic" if found.segmenter.is_automatic else "interactive",
        "tracks": found.has_memory,
        "labels": {str(value): label for value, label in found.volumes.labels.items()},
        "dimensions": found.segmenter.spec.dimensions,
        "backbone": "" if recipe is None else recipe.backbone.name,
        "backbone_sha256": found.volumes.sha256,
        "device": str(found.volumes.device),
    }


def interactive(resident: Resident) -> Resident:
    """The model itself, if it takes prompts.

    Raises:
        Refusal: 400; it segments its classes without prompts.
    """
    if resident.segmenter.is_automatic:
        raise bad(f"model {resident.name} takes no prompts; run it as a job", "not_interactive")
    return resident
