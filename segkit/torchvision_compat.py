"""Make `import torchvision` work beside a CPU build of torch.

PyPI's torchvision for Linux is a CUDA build. Beside a CPU torch its extension does not load, its
operators are missing, and `import torchvision` stops with "operator torchvision::nms does not
exist", and with it lightning, timm, segment-anything and peft. Declaring the two schemas it looks
for cures the import; calling those operators still raises. Importing this module is enough; where
the extension loads, nothing is declared.
"""

import importlib.util
from pathlib import Path

import torch

_SCHEMAS = (
    "nms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
    "qnms(Tensor dets, Tensor scores, float iou_threshold) -> Tensor",
)


def _extension_loads() -> bool:
    """Whether torchvision is absent or its compiled operators fit this torch."""
    spec = importlib.util.find_spec("torchvision")
    if spec is None or spec.origin is None:
        return True
    extensions = sorted(Path(spec.origin).parent.glob("_C.*"))
    try:
        for path in extensions:
            torch.ops.load_library(path)
    except OSError:
        return False
    return bool(extensions)


def _declare() -> torch.library.Library:
    library = torch.library.Library("torchvision", "DEF")
    for schema in _SCHEMAS:
        library.define(schema)
    return library


# the object must stay alive: torch removes the declarations when it is collected
DECLARED = None if _extension_loads() else _declare()
