"""Procedural pictures, clips and volumes with labels; no real data.

The training material of `nano` and `nano2`, and what the demo and the tests run on.
"""

from segkit.data.phantom.clip import PhantomClip, phantom_clip
from segkit.data.phantom.dataset import write_phantom_dataset
from segkit.data.phantom.picture import PhantomPicture, draw_layout, phantom_picture
from segkit.data.phantom.volume import PhantomVolume, phantom_volume

__all__ = [
    "PhantomClip",
    "PhantomPicture",
    "PhantomVolume",
    "draw_layout",
    "phantom_clip",
    "phantom_picture",
    "phantom_volume",
    "write_phantom_dataset",
]
