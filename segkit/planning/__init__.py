"""From a folder of data to an experiment that can be run as it is."""

import segkit.torchvision_compat  # noqa: F401
from segkit.planning.fingerprint import Fingerprint as Fingerprint
from segkit.planning.fingerprint import take_fingerprint as take_fingerprint
from segkit.planning.request import Decision as Decision
from segkit.planning.request import PlanRequest as PlanRequest
