"""The self-test as a file of its own, for ctest and for `Slicer --python-script`.

With the variable SEGKIT_PYTHON (a Python that has segkit) it also starts a server and clicks on it.
"""

import unittest

from SegKit import SegKitTest


class SegKitSelfTest(unittest.TestCase):
    """Everything the module can try by itself."""

    def test_module(self) -> None:
        """Run the module's own test."""
        SegKitTest().runTest()
