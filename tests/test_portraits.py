"""The drawn set is no give-away: colour says next to nothing, a small picture a little, a residual network on the
portrait weights most"""
from concurrent.futures import ThreadPoolExecutor
import numpy as np, pytest
from PIL import Image
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import cross_val_score
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from genderres.all import gender_dls, run_experiment, sample_portraits

@pytest.fixture(scope='module')
def portraits(tmp_path_factory): return sample_portraits(tmp_path_factory.mktemp('portraits'), n=800)

def linear(portraits, size):
    """Five-fold accuracy of logistic regression on the pictures at `size`×`size` pixels,
    at the best of several penalties"""
    files = sorted(portraits.rglob('*.jpg'), key=lambda o: o.name)
    x = np.stack([np.asarray(Image.open(o).resize((size, size), Image.BOX), float).ravel() for o in files])
    y = [o.parent.name for o in files]
    model = lambda c: make_pipeline(StandardScaler(), LogisticRegression(C=c, max_iter=500))
    return max(cross_val_score(model(c), x, y, cv=5).mean() for c in (1e-3, 1e-2, 1e-1))

def test_mean_colour_is_near_chance(portraits): assert linear(portraits, 1) < .58

def test_pixels_stay_below_four_epochs(portraits):
    interp = run_experiment(gender_dls(portraits, size=96), weights='portrait', head='fastai', rapid=True)
    net, pixels = interp.scores().loc['accuracy'], linear(portraits, 16)
    assert pixels < net.low, (f'16×16 pixels reach {pixels:.3f}; '
                              f'the network {net.share:.3f} ({net.low:.3f} to {net.high:.3f})')

def test_drawn_by_two_at_once(tmp_path):
    "Both finish the same set; neither takes the other's unfinished files for foreign ones, and nothing else is left"
    with ThreadPoolExecutor(2) as ex: list(ex.map(lambda _: sample_portraits(tmp_path/'both', n=40, size=32), range(2)))
    alone = sample_portraits(tmp_path/'alone', n=40, size=32)
    files = {o.relative_to(alone): o.read_bytes() for o in alone.rglob('*') if o.is_file()}
    assert len(files) == 40
    assert {o.relative_to(tmp_path/'both'): o.read_bytes()
            for o in (tmp_path/'both').rglob('*') if o.is_file()} == files
    assert not [*(tmp_path/'both').rglob('.*')]
