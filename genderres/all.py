"Everything a notebook needs: `from genderres.all import *`"
from fastai.vision.all import *
from .portraits import *
from .duplicates import near_pairs, thumbnail
from .congress import *
from .data import *
from .learner import *
from .rapid import *
from .interpret import *
from .groups import *
from .review import *
from .experiment import *
from .calibrate import *
from .explain import *
from .predict import *
from .classifier import *
