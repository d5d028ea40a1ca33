"""MedSAM2 and other fine-tuned weights of the SAM 2.1 architecture."""

from dataclasses import replace

from segkit.models.conversion_task import Conversion, Task
from segkit.models.convert_sam2 import convert_sam2

_NOTES = (
    "MedSAM2 was trained at 512 pixels: build with image_size=512",
    "its authors window the intensities of a volume to [0, 255] first; choose the same in the "
    "intensity of the input",
)


def convert_medsam2(task: Task) -> Conversion:
    """Convert value for value; the architecture and the normalisation are those of SAM 2.1."""
    return replace(convert_sam2(task), notes=_NOTES)
