"Two classes of portraits, a 34-layer residual network, four epochs"
from importlib.metadata import version as _version
__version__ = _version('genderres')
