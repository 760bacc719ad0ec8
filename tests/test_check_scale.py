"The check at scale, and the benchmark of the scale, without a cluster"
import os, runpy, sys
from pathlib import Path
import fsspec, numpy as np, pandas as pd, pytest
import genderres.check_scale
from genderres.duplicates import fit_candidates

def test_few_pairs_are_sent_at_once(monkeypatch):
    "Eight million pairs of thumbnails are 16 GB"
    sent = []
    def spread(ray, f, work):
        sent.append(sum(len(found) for *_,found in work))
        return [f(o) for o in work]
    monkeypatch.setattr(genderres.check_scale, 'spread', spread)
    rng = np.random.default_rng(0)
    thumbs, parts = rng.integers(0, 256, (6, 32, 32), np.uint8), np.zeros((1, 4), int)
    found = pd.DataFrame(dict(one=rng.integers(0, 6, 11), two=rng.integers(0, 6, 11), part=0, mirrored=False))
    like = genderres.check_scale._fit_far(None, thumbs, found, parts, size=2, most=4)
    assert sent == [4, 4, 3]
    np.testing.assert_allclose(like, fit_candidates(thumbs, found, parts), rtol=1e-5)
    assert len(genderres.check_scale._fit_far(None, thumbs, found[:0], parts)) == 0

def test_an_empty_file_is_called_so_wherever_it_is(tmp_path):
    fsspec.filesystem('memory').pipe_file('/empty/a.jpg', b'')
    (tmp_path/'a.jpg').touch()
    found = genderres.check_scale._examine(['memory://empty/a.jpg', str(tmp_path/'a.jpg')], {})
    assert [facts['problem'] for facts,_ in found] == ['empty file']*2

@pytest.mark.skipif(sys.platform != 'linux', reason='psutil knows shared memory on Linux only')
def test_the_benchmark_counts_the_process_that_asks(monkeypatch):
    for o in ('ray', 'psutil', 'onnxruntime'): pytest.importorskip(o)
    monkeypatch.setattr(os, 'environ', os.environ.copy())   # the program sets some
    program = runpy.run_path(Path(__file__).parents[1]/'benchmarks'/'scale.py')
    assert program['held']() > 50
