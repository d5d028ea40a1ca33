"""The optional package `open_clip`, imported when an encoder is built and not before."""

import warnings
from types import ModuleType

from segkit.errors import MissingExtraError


def import_open_clip() -> ModuleType:
    """Import `open_clip`; needs the extra `segkit[text]`.

    Raises:
        MissingExtraError: It is not installed.
    """
    import segkit.torchvision_compat  # noqa: F401

    try:
        with warnings.catch_warnings():
            # what timm and open_clip say about their own moved modules is not for our users
            warnings.filterwarnings("ignore", category=FutureWarning)
            warnings.filterwarnings("ignore", category=DeprecationWarning)
            import open_clip
    except ImportError as error:
        raise MissingExtraError("open_clip_torch", "text") from error
    return open_clip
