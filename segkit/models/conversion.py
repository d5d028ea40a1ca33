"""Official and authors' checkpoints to segkit files; every key of a file is accounted for.

A family is one function of `FAMILIES`, in a file of its own. Official weights become one
safetensors file; a published method becomes an `adapter.safetensors` and the weight file of the
backbone it stands on.
"""

import difflib
from collections.abc import Callable, Mapping
from pathlib import Path

from segkit.errors import InputError
from segkit.models.build import BUILDERS
from segkit.models.conversion_task import Conversion, Task
from segkit.models.convert_3dsam_adapter import convert_3dsam_adapter
from segkit.models.convert_dd_sam2 import convert_dd_sam2
from segkit.models.convert_dvpt import convert_dvpt
from segkit.models.convert_i_medsam import convert_i_medsam
from segkit.models.convert_medsam import convert_medsam
from segkit.models.convert_medsam2 import convert_medsam2
from segkit.models.convert_sam import convert_sam
from segkit.models.convert_sam2 import convert_sam2
from segkit.models.convert_sam_adapter import convert_sam_adapter
from segkit.models.convert_stu_net import convert_stu_net

__all__ = ["FAMILIES", "Conversion", "convert", "families"]

FAMILIES: Mapping[str, Callable[[Task], Conversion]] = {
    "3dsam-adapter": convert_3dsam_adapter,
    "dd-sam2": convert_dd_sam2,
    "dvpt": convert_dvpt,
    "i-medsam": convert_i_medsam,
    "medsam": convert_medsam,
    "medsam2": convert_medsam2,
    "sam": convert_sam,
    "sam2": convert_sam2,
    "sam-adapter": convert_sam_adapter,
    "stu-net": convert_stu_net,
}


def convert(
    family: str,
    source: str | Path,
    out: str | Path,
    *,
    backbone: str | None = None,
    checkpoint: str | Path | None = None,
) -> Conversion:
    """Convert a checkpoint.

    `backbone` names the backbone and is found from the weights without it. `checkpoint`, for
    methods on a frozen backbone, is the file they were trained on: their frozen part must equal it.

    Raises:
        InputError: The family or the backbone is not known, or `out` is no safetensors file.
        CheckpointError: The file is damaged, unsafe, or its keys are not those of the family.
    """
    if family not in FAMILIES:
        near = difflib.get_close_matches(family, FAMILIES, n=1)
        raise InputError(
            f"this version cannot convert the family {family!r}",
            fix=(f"did you mean {near[0]!r}? " if near else "") + f"available: {families()}",
            code="unknown_family",
        )
    out = Path(out)
    if out.suffix != ".safetensors" or not out.parent.is_dir():
        raise InputError(
            "the output must be a .safetensors file in an existing folder",
            path=out,
            fix="name it like adapter.safetensors",
        )
    if backbone is not None and backbone not in BUILDERS:
        near = difflib.get_close_matches(backbone, BUILDERS, n=1)
        hint = f"did you mean {near[0]!r}?" if near else f"known: {sorted(BUILDERS)}"
        raise InputError(f"there is no backbone {backbone!r}", fix=hint)
    given = None if checkpoint is None else Path(checkpoint)
    return FAMILIES[family](Task(family, Path(source), out, backbone, given))


def families() -> list[str]:
    """Names `convert` knows."""
    return sorted(FAMILIES)
