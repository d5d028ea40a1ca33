"""Make the tiny training importable from the tests beside it, and its trainer quiet."""

import logging
import sys
from pathlib import Path

import lightning.pytorch  # noqa: F401  (sets its level on import)

sys.path.insert(0, str(Path(__file__).parent))
logging.getLogger("lightning.pytorch").setLevel(logging.WARNING)
