"Two processes train as one does, and continue after a kill"
import json, os, signal, subprocess, sys, time
import pytest, torch
pytest.importorskip('accelerate')
from functools import partial
from fastai.vision.all import Callback, FocalLossFlat, rank_distrib
from genderres import distributed, features
from genderres.cli import app
from genderres.data import gender_dls
from genderres.distributed import distributed_experiment, in_processes
from genderres.experiment import run_experiment
from genderres.portraits import sample_portraits
from typer.testing import CliRunner

pytestmark = pytest.mark.skipif(sys.platform == 'win32', reason='no SIGKILL there')

class Killed(Callback):
    "Rank 1 is killed in its second epoch, the first time; every trained epoch leaves a line"
    def __init__(self, folder): self.folder = folder
    def before_train(self):
        if self.epoch == 1 and rank_distrib() and not (flag := self.folder/'killed').exists():
            flag.touch()
            while not (self.folder/'last.pth').exists(): time.sleep(.1)   # rank 0 writes it
            os.kill(os.getpid(), signal.SIGKILL)
        with open(self.folder/f'rank{rank_distrib()}', 'a') as f: f.write(f'{self.epoch}\n')

def facts(interp):
    "The scores, the epochs that were recorded, and the split"
    return interp.scores(), [*map(list, interp.learn.recorder.values)], interp.learn.dls.photos

def marked(folder, *args, **kwargs):
    "`gender_dls`, and a line for each rank that calls it"
    with open(folder/'made', 'a') as f: f.write(f'{rank_distrib()}\n')
    return gender_dls(*args, **kwargs)

def test_killed_and_continued(tmp_path):
    photos = sample_portraits(tmp_path/'photos', n=200, size=64)
    make_dls = partial(marked, tmp_path, photos, size=64, bs=16, num_workers=0)
    options = dict(epochs=3, weights='portrait', rapid=True)
    two = partial(in_processes, 2, distributed_experiment, make_dls, facts, tmp_path/'last.pth',
                  cbs=[Killed(tmp_path)], **options)
    with pytest.raises(RuntimeError, match='a process of 2 ended.*The same call continues'): two()
    assert (tmp_path/'last.pth').exists()
    scores, values, photos = two()
    assert not (tmp_path/'last.pth').exists() and len(values) == 3
    assert (tmp_path/'rank1').read_text().split() == ['0', '1', '2']   # the first epoch was not trained again
    assert (tmp_path/'made').read_text().split() == ['0', '0']   # one process splits, once in each call
    one = run_experiment(make_dls(), **options)
    assert photos.split.equals(one.learn.dls.photos.split)
    assert values[-1][-1] == pytest.approx(scores.share['accuracy'])   # the metric is of all ranks
    low, high = one.scores().loc['accuracy', ['low', 'high']]
    assert scores.n['accuracy'] == len(one.targs) and low <= scores.share['accuracy'] <= high

class Stop(Callback):
    "Ctrl-C in an epoch, or in the first that is trained; `began` are those that were"
    def __init__(self, at=None): self.at, self.began = at, []
    def before_train(self):
        self.began.append(self.epoch)
        if self.at in (None, self.epoch): raise KeyboardInterrupt

def test_another_training_begins_anew(tmp_path, monkeypatch):
    monkeypatch.setattr(distributed, 'num_distrib', lambda: 1)
    photos = sample_portraits(tmp_path/'photos', n=20, size=48)
    def data(faces='no', **kwargs):
        dls = gender_dls(photos, **{**dict(size=32, bs=8, num_workers=0), **kwargs})
        dls.faces = faces
        return dls
    def epochs(stop, options=dict(), **kwargs):
        with pytest.raises(KeyboardInterrupt):
            distributed_experiment(partial(data, **kwargs), None, tmp_path/'last.pth', epochs=2, cbs=[stop],
                                   **{**dict(arch='resnet18', train_bn=False, loss_func=FocalLossFlat()), **options})
        return stop.began
    assert epochs(Stop(1)) == [0, 1] and epochs(Stop()) == [1]   # the same one continues
    for o in (dict(size=48), dict(faces='largest'), dict(crop_p=0.)): assert epochs(Stop(), **o) == [0], o
    for o in (dict(train_bn=True), dict(stem='small'), dict(wd=.1), dict(loss_func=FocalLossFlat(gamma=5))):
        assert epochs(Stop(), o) == [0], o
    assert epochs(Stop()) == [1]

def measured_apart(*args, **kwargs):
    "As `distributed_experiment`, where each process measures another layout as the fastest"
    layout = [torch.contiguous_format, torch.channels_last][rank_distrib()]
    features.fastest_precision = lambda *args: (torch.float32, layout)
    return distributed_experiment(*args, **kwargs)

def test_all_processes_use_the_layout_of_the_first(tmp_path):
    make_dls = partial(gender_dls, sample_portraits(tmp_path/'photos', n=40, size=32), size=32, bs=8, num_workers=0)
    scores, values, photos = in_processes(2, measured_apart, make_dls, facts, tmp_path/'last.pth',
                                          epochs=1, arch='resnet18', rapid=True)
    assert scores.n['accuracy'] == (photos.split == 'valid').sum()

def test_at_the_shell(tmp_path):
    sample_portraits(tmp_path/'photos', n=40, size=64)
    args = ['train', tmp_path/'photos', '-o', tmp_path/'m.safetensors', '--size', 32, '--batch-size', 8, '--epochs', 1,
            '--processes', 2, '--arch', 'resnet18', '--json']
    res = CliRunner().invoke(app, [*map(str, args)])
    assert res.exit_code == 0, res.stderr
    assert json.loads(res.stdout)['scores']['accuracy']['n'] == 8
    assert {o.name for o in tmp_path.iterdir()} == {'photos', 'm', 'm.safetensors'}

@pytest.mark.slow
@pytest.mark.skipif(sys.platform != 'linux', reason='the launcher is the same there')
def test_launched(tmp_path):
    "As the tutorial says it: accelerate starts the processes, and one of them speaks"
    sample_portraits(tmp_path/'photos', n=40, size=64)
    (tmp_path/'own').mkdir()
    (tmp_path/'own'/'sitecustomize.py').write_text(
        "import os; 'RANK' in os.environ and open(f'{os.path.dirname(__file__)}/{os.environ[\"RANK\"]}', 'w')")
    args = ['train', tmp_path/'photos', '-o', tmp_path/'m.safetensors', '--size', 32, '--batch-size', 8, '--epochs', 1,
            '--arch', 'resnet18', '--json']
    launch = [sys.executable, '-m', 'accelerate.commands.accelerate_cli', 'launch', '--multi_gpu', '--num_processes', 2,
              '--num_machines', 1, '--main_process_port', 0, '--mixed_precision', 'no', '--dynamo_backend', 'no',
              '-m', 'genderres']
    res = subprocess.run([*map(str, launch + args)], capture_output=True, text=True,
                         env={**os.environ, 'PYTHONPATH': str(tmp_path/'own')})
    assert res.returncode == 0, res.stderr
    assert {'0', '1'} < {o.name for o in (tmp_path/'own').iterdir()}
    assert json.loads(res.stdout)['scores']['accuracy']['n'] == 8
    assert {o.name for o in tmp_path.iterdir()} == {'own', 'photos', 'm', 'm.safetensors'}
