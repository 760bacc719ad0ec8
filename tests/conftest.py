"Nothing is downloaded and nothing lands in the user's own fastai folder"
import os, tempfile
os.environ['FASTAI_HOME'] = tempfile.mkdtemp()
os.environ['TORCH_HOME'] = os.environ['FASTAI_HOME']
os.environ.setdefault('MPLBACKEND', 'agg')

import pytest
from genderres.all import *

@pytest.fixture
def photos(tmp_path):
    "A folder of 20 drawn portraits, in `men` and `women`"
    return sample_portraits(tmp_path/'photos', n=20, size=64)

@pytest.fixture
def four_lines():
    "What a user types: data, learner, training, answers"
    def run(source, **kwargs):
        dls = gender_dls(source, size=64, num_workers=0, **{'bs':8, **kwargs})
        learn = gender_learner(dls, resnet18, weights=None)
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1)
        assert learn.recorder.values and np.isfinite(learn.recorder.values[-1]).all()
        interp = GenderInterpretation.from_learner(learn)
        assert interp.scores().n['accuracy'] == len(dls.valid_ds)
        return dls, interp
    return run
