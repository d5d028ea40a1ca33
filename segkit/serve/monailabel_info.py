"""What a MONAI Label client is told about the server."""

from typing import Any

from segkit.serve.engine import Engine
from segkit.serve.residents import Resident
from segkit.version import VERSION

DEEPGROW, SEGMENTATION = "deepgrow", "segmentation"


def info(engine: Engine) -> dict[str, Any]:
    """Answer of GET /info/; interactive models stand on the tab for points."""
    residents = [engine.residents.find(name) for name in engine.residents.names]
    labels = [name for one in residents for name in one.volumes.labels.values()]
    trainers = {one.name for one in residents if _can_learn(engine, one)}
    return {
        "name": "segkit",
        "description": "segkit serve: SAM-type models with adapters",
        "version": VERSION,
        "labels": list(dict.fromkeys(labels)) or ["object"],
        "models": {one.name: _model(one) for one in residents},
        "trainers": {name: {"description": "Learn from saved labels"} for name in trainers},
        "strategies": {"first": {"description": "First image without a label"}},
        "scoring": {},
        "train_stats": {},
        "datastore": {"total": 0, "completed": 0, "label_tags": {}},
    }


def _model(resident: Resident) -> dict[str, Any]:
    is_automatic = resident.segmenter.is_automatic
    names = [name for _, name in sorted(resident.volumes.labels.items())]
    return {
        "type": SEGMENTATION if is_automatic else DEEPGROW,
        "labels": {name: number for number, name in enumerate(names, start=1)},
        "dimension": 3,
        "description": f"segkit model {resident.id}",
        "config": {},
    }


def _can_learn(engine: Engine, resident: Resident) -> bool:
    return engine.settings.learning and not resident.segmenter.is_automatic
