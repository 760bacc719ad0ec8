"The program that trains the portrait weights, on drawn portraits"
import signal, subprocess, sys, time
from pathlib import Path
import numpy as np, pandas as pd, pytest, torch
from safetensors.torch import load_file

pretrain = Path(__file__).parents[1]/'pretrain'
sys.path.insert(0, str(pretrain))
import train   # noqa: E402

def start(out, views=192):
    args = [sys.executable, str(pretrain/'train.py'), '--demo', '--fp32', '--bs', '16', '--every', '64',
            '--views', str(views), '--out', str(out)]
    return subprocess.Popen(args, stdout=subprocess.PIPE, stderr=subprocess.STDOUT, text=True)

def test_a_killed_run_goes_on_to_the_same_weights(tmp_path):
    whole, cut = start(tmp_path/'whole'), start(tmp_path/'cut')
    while not (tmp_path/'cut/state.pt').exists() and cut.poll() is None: time.sleep(.1)
    cut.send_signal(signal.SIGTERM)
    said = cut.communicate(timeout=240)[0]
    again = start(tmp_path/'cut')
    assert 'stopped' in said and 'continuing after' in again.communicate(timeout=240)[0]
    assert whole.wait(240) == again.returncode == 0
    a, b = (load_file(tmp_path/o/'portrait.safetensors') for o in ('whole', 'cut'))
    assert a['fc.weight'].shape == (2, 512) and all(torch.allclose(a[k].float(), b[k].float(), atol=1e-5) for k in a)
    curve = pd.read_csv(tmp_path/'whole/curve.csv')
    assert curve.views.tolist() == [64, 128, 192] and curve.loss.notna().all()

def test_a_square_lies_in_the_photo():
    for box in ((-5, -5, 20, 30), (80, 40, 130, 90), (10, 10, 12, 12), (0, 0, 100, 60)):
        x0, y0, x1, y1 = train.square_around(box, (100, 60), 1.5)
        assert 0 <= x0 < x1 <= 100 and 0 <= y0 < y1 <= 60 and x1 - x0 == pytest.approx(y1 - y0)

def test_held_out_photos_are_never_seen_and_classes_are_even():
    photos = pd.DataFrame(dict(source='fairface', label=['men']*300 + ['women']*100, race=['Black', 'White']*200,
                               age='20-29', valid=[i % 10 == 0 for i in range(400)]))
    p = train.chances(photos)
    assert p.sum() == pytest.approx(1) and (p[photos.valid] == 0).all() and (p[~photos.valid] > 0).all()
    assert np.allclose(pd.Series(p).groupby([photos.label, photos.race]).sum(), .25)

def test_views_stay_in_range_and_depend_on_the_seed():
    x = torch.rand(32, 3, train.SIDE, train.SIDE)
    def views(seed):
        g = torch.Generator().manual_seed(seed)
        return train.spoil(train.relight(train.crop_views(x, torch.arange(32) % 2 == 0, 64, g), g), g)
    a, b, c = views(1), views(1), views(2)
    assert a.shape == (32, 3, 64, 64) and torch.equal(a, b) and not torch.equal(a, c)
    assert 0 <= a.min() and a.max() <= 1

def test_a_view_of_the_whole_is_the_photo():
    "Without chance, the grid shows what is there: each corner stays in its place"
    x = torch.zeros(1, 3, train.SIDE, train.SIDE)
    x[..., :80, :80] = 1
    g = torch.Generator().manual_seed(0)
    views = train.crop_views(x.expand(400, -1, -1, -1), torch.zeros(400, dtype=torch.bool), 32, g)
    assert .2 < views.mean() < .4 and views.amax((1, 2, 3)).min() > .9

def test_compression_keeps_flat_colours_and_coarsens_the_rest():
    flat = torch.full((1, 3, 16, 16), .4)
    noise = torch.rand(1, 3, 16, 16)
    assert (train.compress(flat, 1.) - flat).abs().max() < .03
    fine, coarse = ((train.compress(noise, o) - noise).abs().mean() for o in (.1, 4.))
    assert fine < .02 < coarse
