"""Client of `segkit serve`: numpy and the standard library only, so that it runs anywhere.

The package imports nothing of the rest of segkit and may be copied as it is, for example into an
application with a Python of its own.
"""

from .errors import AuthError as AuthError
from .errors import BusyError as BusyError
from .errors import GoneError as GoneError
from .errors import RequestError as RequestError
from .errors import ServerError as ServerError
from .errors import UnreachableError as UnreachableError
from .errors import VersionError as VersionError
from .predictor import RemoteClip as RemoteClip
from .predictor import RemoteImage as RemoteImage
from .predictor import RemotePredictor as RemotePredictor
from .session import RemoteSession as RemoteSession
