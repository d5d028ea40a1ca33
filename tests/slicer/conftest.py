"""The Slicer extension on the import path; MRML itself is tested in `mrml/` (make test-slicer)."""

import sys
from pathlib import Path

EXTENSION = Path(__file__).parents[2] / "integrations" / "slicer" / "SegKit"
sys.path.insert(0, str(EXTENSION / "SegKit"))
