"""Whole models: put together, built, saved and loaded."""

import segkit.torchvision_compat  # noqa: F401
from segkit.models.files import load_adapter as load_adapter
from segkit.models.files import load_model as load_model
from segkit.models.files import save_adapter as save_adapter
from segkit.models.info import ModelInfo as ModelInfo
from segkit.models.segmenter import Segmenter as Segmenter
from segkit.models.segmenter import upsample as upsample
