"""Predictors own a model and speak the user's language: files in, masks on their grid out."""

from segkit.predictors.image import ImagePredictor as ImagePredictor
from segkit.predictors.session import Session as Session
from segkit.predictors.volume import VolumePredictor as VolumePredictor
