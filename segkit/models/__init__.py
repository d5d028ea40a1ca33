"""Whole models: put together, built, saved and loaded; imported when they are first used."""

from typing import TYPE_CHECKING

from segkit.lazy import attributes

if TYPE_CHECKING:
    from segkit.models.files import load_adapter as load_adapter
    from segkit.models.files import load_model as load_model
    from segkit.models.files import save_adapter as save_adapter
    from segkit.models.info import ModelInfo as ModelInfo
    from segkit.models.segmenter import Segmenter as Segmenter
    from segkit.models.segmenter import upsample as upsample

__getattr__, __dir__ = attributes(
    __name__,
    {
        "files": ("load_adapter", "load_model", "save_adapter"),
        "info": ("ModelInfo",),
        "segmenter": ("Segmenter", "upsample"),
    },
)
