"Eight-bit integers where a few photos make activations explode"
import numpy as np, pytest, torch
from fastai.vision.all import resnet18, set_seed
from genderres.classifier import GenderClassifier
from genderres.data import gender_dls
from genderres.learner import gender_learner
from genderres.portraits import sample_portraits
from PIL import Image

@pytest.fixture(scope='module')
def explosive(tmp_path_factory):
    """A classifier whose activations are hundreds of times as large for photos with a red half; all its photos,
    and the usual ones"""
    path = sample_portraits(tmp_path_factory.mktemp('red')/'photos', n=110, size=64)
    files = sorted(path.rglob('*.jpg'))
    for o in files[::22]:
        im = Image.open(o).convert('RGB')
        im.paste((255, 0, 0), (0, 0, 32, 64))
        im.save(o)
    set_seed(0)
    clf = gender_learner(gender_dls(path, size=64, bs=16, num_workers=0), resnet18, weights=None).to_classifier()
    state = {k: v.clone() for k,v in clf.model.state_dict().items()}
    state['0.0.weight'][0] = torch.tensor([1, -.5, -.5])[:,None,None]/49   # how red is it?
    state['0.1.weight'][0], state['0.1.bias'][0] = 500, -1500
    return GenderClassifier(state, clf.facts, 'cpu'), path, [o for i,o in enumerate(files) if i % 22]

def margins(clf, files):
    logits = clf.logits(np.stack([clf.pixels(o) for o in files]))
    return logits[:,1] - logits[:,0]

def test_logits_of_usual_photos(explosive, tmp_path):
    clf, path, usual = explosive
    want, got = margins(clf, usual), margins(clf.to_int8(tmp_path/'a.onnx', path, max_drop=1.), usual)
    assert np.sqrt(((got - want)**2).mean()) < .3*want.std() and np.corrcoef(got, want)[0,1] > .95
