"Train a portrait classifier in four epochs, and know how far to trust it"
__version__ = "0.1.0"

import warnings
# fastai calls torch.jit.script while it is imported, which torch deprecates since 2.14
warnings.filterwarnings('ignore', '`torch.jit.script` is', FutureWarning, r'torch\.jit\._script')
del warnings
