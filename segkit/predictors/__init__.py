"""Predictors own a model and speak the user's language: files in, masks on their grid out.

The names are imported when they are first used.
"""

from typing import TYPE_CHECKING

from segkit.lazy import attributes

if TYPE_CHECKING:
    from segkit.predictors.image import ImagePredictor as ImagePredictor
    from segkit.predictors.session import Session as Session
    from segkit.predictors.volume import VolumePredictor as VolumePredictor

__getattr__, __dir__ = attributes(
    __name__,
    {"image": ("ImagePredictor",), "session": ("Session",), "volume": ("VolumePredictor",)},
)
