"""Cards of adapters, and folders of them: what a file is for, without loading its weights."""

import difflib
import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields, replace
from pathlib import Path
from typing import Any

from safetensors import SafetensorError, safe_open

from segkit.backbones.checkpoints import file_sha256, path_inside
from segkit.errors import CheckpointError, InputError
from segkit.models.files import ADAPTER_FILE, ENTRY
from segkit.models.info import ModelInfo

FORMAT = 1
INDEX, CARD = "index.json", "card.json"
"""An index lists the cards of a folder; a card lies beside its adapter file."""


@dataclass(frozen=True, slots=True)
class Card:
    """What a person needs to know to choose an adapter.

    `metrics` are means over test cases with `ci95`, by class and for the mean, as an evaluation
    found them; `validation` are those of the training. `training_data` is the hash of the data.
    `path` is relative to the folder of an index.
    """

    name: str
    path: str
    sha256: str
    backbone: str
    backbone_sha256: str
    adapter: str
    labels: Mapping[str, str]
    input: Mapping[str, object]
    licence: str = ""
    modality: str = ""
    training_data: str = ""
    metrics: Mapping[str, Any] = field(default_factory=dict)
    validation: Mapping[str, object] = field(default_factory=dict)
    created: str = ""

    def to_json(self) -> str:
        """Write the card."""
        return json.dumps({"format": FORMAT, **asdict(self)}, indent=2) + "\n"

    @classmethod
    def from_dict(cls, value: Any, path: Path) -> "Card":
        """Read a card.

        Raises:
            InputError: It is of a newer format, lacks an entry or has an unknown one.
        """
        known = {one.name for one in fields(cls)}
        if not isinstance(value, dict) or value.get("format") != FORMAT:
            raise InputError(f"no card of format {FORMAT}", path=path, fix="write it again")
        entries = {name: entry for name, entry in value.items() if name != "format"}
        if entries.keys() != known:
            raise InputError(
                f"the card lacks {sorted(known - entries.keys())} and has unknown "
                f"{sorted(entries.keys() - known)}",
                path=path,
                fix="write it again with: segkit models card RUN",
            )
        return cls(**entries)


def read_info(path: str | Path) -> ModelInfo:
    """Description in the header of an adapter file; no weights are read.

    Raises:
        CheckpointError: It is no adapter file, or a damaged one.
    """
    try:
        with safe_open(path, framework="pt") as file:
            header = file.metadata() or {}
    except (SafetensorError, OSError) as error:
        raise CheckpointError(f"not a safetensors file ({error})", path=path) from error
    if ENTRY not in header:
        raise CheckpointError(f"no adapter file: its header has no entry {ENTRY!r}", path=path)
    return ModelInfo.from_json(header[ENTRY])


def make_card(run: str | Path, *, modality: str = "", licence: str = "") -> Card:
    """Card of a run folder or an adapter file, with what training and evaluation left beside it.

    Raises:
        CheckpointError: There is no adapter file.
    """
    path = _adapter_of(Path(run))
    info, folder = read_info(path), path.parent
    told = _json(folder / "environment.json")
    return Card(
        name=folder.name if path.name == ADAPTER_FILE else path.stem,
        path=str(path),
        sha256=file_sha256(path),
        backbone=info.recipe.backbone.name,
        backbone_sha256=info.recipe.backbone.sha256,
        adapter=info.recipe.adapter.target.rpartition(".")[2],
        labels={str(value): name for value, name in info.labels.items()},
        input=info.input.to_dict(),
        licence=licence or info.licence,
        modality=modality or _planned_modality(_json(folder / "plan.json")),
        training_data=str(told.get("data", "")),
        metrics=_metrics(_json(folder / "eval" / "test" / "summary.json")),
        validation=dict(info.metrics),
        created=info.created,
    )


def find_cards(where: str | Path) -> list[Card]:
    """Cards of a folder of adapters, or of an index file; paths are absolute.

    In a folder every `*.safetensors` that is an adapter and every run folder counts, also one
    folder deeper, as training leaves them. They are named after where they lie; a card.json beside
    a file wins over its header, as long as it is about that very file.

    Raises:
        InputError: There is nothing there, or a card is about another file.
    """
    where = Path(where)
    if where.is_file():
        listed = _json(where).get("cards")
        if not isinstance(listed, list):
            raise InputError("no index of adapters", path=where, fix="segkit models index FOLDER")
        found = [Card.from_dict(one, where) for one in listed]
        return [_checked(_placed(one, where.parent), where) for one in found]
    if not where.is_dir():
        raise InputError("there is no such folder or index", path=where)
    runs = (path for depth in ("*", "*/*") for path in where.glob(f"{depth}/{ADAPTER_FILE}"))
    paths = sorted({*where.glob("*.safetensors"), *runs})
    return [_named(_card_beside(path), where) for path in paths if _is_adapter(path)]


def find_card(name: str, where: str | Path) -> Card:
    """Card of that name.

    Raises:
        InputError: There is none.
    """
    cards = {card.name: card for card in find_cards(where)}
    if name in cards:
        return cards[name]
    near = difflib.get_close_matches(name, cards, n=1)
    raise InputError(
        f"there is no adapter {name!r} here",
        path=where,
        fix=f"did you mean {near[0]!r}?" if near else f"there are: {sorted(cards)}",
        code="unknown_model",
    )


def write_index(folder: str | Path) -> Path:
    """List the cards of a folder in its index.json, with paths relative to it."""
    folder = Path(folder)
    cards = [json.loads(card.to_json()) for card in find_cards(folder)]
    for card in cards:
        card["path"] = str(Path(card["path"]).resolve().relative_to(folder.resolve()))
    path = folder / INDEX
    path.write_text(json.dumps({"format": FORMAT, "cards": cards}, indent=2) + "\n")
    return path


def _adapter_of(path: Path) -> Path:
    return path_inside(path, ADAPTER_FILE) if path.is_dir() else path


def _card_beside(path: Path) -> Card:
    beside = path.with_name(CARD) if path.name == ADAPTER_FILE else path.with_suffix(".card.json")
    if not beside.is_file():
        return make_card(path)
    card = Card.from_dict(_json(beside), beside)
    return _checked(Card(**{**asdict(card), "path": str(path)}), beside)


def _named(card: Card, where: Path) -> Card:
    """Call an adapter by its place in a folder, whatever its run was called once."""
    place = Path(card.path).relative_to(where)
    inside = place.parent if place.name == ADAPTER_FILE else place.with_suffix("")
    return replace(card, name=inside.as_posix())


def _placed(card: Card, folder: Path) -> Card:
    return Card(**{**asdict(card), "path": str(path_inside(folder, card.path))})


def _checked(card: Card, source: Path) -> Card:
    """Refuse a card whose file was changed."""
    if (found := file_sha256(card.path)) != card.sha256:
        raise InputError(
            f"the card of {card.name!r} is about a file with sha256 {card.sha256[:12]}, "
            f"{Path(card.path).name} has {found[:12]}",
            path=source,
            fix="write card and index again",
            code="other_file",
        )
    return card


def _is_adapter(path: Path) -> bool:
    """Whether a file describes a model; weight files of backbones do not."""
    try:
        with safe_open(path, framework="pt") as file:
            return ENTRY in (file.metadata() or {})
    except (SafetensorError, OSError):
        return False


def _metrics(summary: Mapping[str, Any]) -> dict[str, Any]:
    """Means and intervals of the model's own row."""
    if not summary:
        return {}
    classes = {one["name"]: _figures(one) for one in summary["classes"].values()}
    return {"cases": summary["cases"], "mean": _figures(summary["mean"]), **classes}


def _figures(entry: Mapping[str, Any]) -> dict[str, Any]:
    return {
        name: {"mean": entry[name]["mean"], "ci95": entry[name]["ci95"]}
        for name in ("dice", "nsd", "hd95_mm")
    }


def _planned_modality(plan: Mapping[str, Any]) -> str:
    """What `segkit plan` found the data set to say about itself."""
    return ", ".join(map(str, plan.get("fingerprint", {}).get("modality", ())))


def _json(path: Path) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        value = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(
            "this is not a readable JSON file", path=path, fix="restore or remove it"
        ) from error
    return value if isinstance(value, dict) else {}
