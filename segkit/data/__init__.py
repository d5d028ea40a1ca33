"""data."""

import segkit.torchvision_compat  # noqa: F401
