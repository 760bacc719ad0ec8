"Features in eight-bit integers: used where they pay and agree, and never for validation"
import importlib, logging, sys, time, warnings
import numpy as np, onnxruntime, pytest, torch
from fastai.vision.all import load_learner, resnet18, resnet50, set_seed, vgg11_bn
import genderres
from genderres import features, precision
from genderres.data import gender_dls
from genderres.features import view_features
from genderres.learner import gender_learner
from genderres.networks import build_network
from genderres.portraits import sample_portraits
from genderres.precision import disagreement, int8_network

def quiet(source, *args, **kwargs):
    "A learner that prints nothing"
    set_seed(1)
    learn = gender_learner(gender_dls(source, size=64, bs=16, num_workers=0), *args, head='fastai', **kwargs)
    learn.remove_cbs([learn.progress])
    learn.logger = lambda o: None
    return learn

@pytest.fixture(scope='module')
def trained(tmp_path_factory):
    """A learner on the portrait body, whose head was trained on int8 features; the same with float features;
    what was said"""
    path = sample_portraits(tmp_path_factory.mktemp('int8')/'photos', n=160, size=64)
    learners = [quiet(path).to_rapid(dtype=o) for o in (torch.int8, torch.float32)]
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('always')
        for o in learners:
            set_seed(2)
            o.fit_one_cycle(2)
    return *learners, [str(o.message) for o in said]

@pytest.fixture
def small(photos, weights):
    "A frozen learner with a small body, which decides by itself"
    learn = quiet(photos, resnet18, weights=weights).to_rapid(dtype=torch.float32)
    learn.rapid.int8 = None
    return learn

def answers(learn, source='valid'):
    "Probability of the second class, and labels; by the whole network, in float32"
    preds, y = (learn.get_preds(dl=learn.dls.test_dl(learn.dls.photos, with_labels=True)) if source == 'all'
                else learn.get_preds())
    return preds[:,1].numpy(), y.numpy()

def test_a_head_learns_as_much(trained):
    fast, plain, said = trained
    assert fast.rapid.precision == torch.int8 and plain.rapid.precision == torch.float32
    assert fast.rapid.dtype in (torch.float32, torch.bfloat16) and not said
    assert 0 < disagreement(plain.rapid.kept[0][0], fast.rapid.kept[0][0]) < .15
    (p, y), (q, _) = (answers(o, 'all') for o in (fast, plain))
    assert np.corrcoef(p, q)[0,1] > .97
    assert ((p > .5) == y).mean() > ((q > .5) == y).mean() - .03

def test_validation_is_that_of_the_network_which_is_kept(trained):
    fast = trained[0]
    # in the same layout
    assert torch.allclose(fast.rapid.kept[2], view_features(fast, 1, fast.rapid.dtype)[2], atol=1e-4)
    p, y = answers(fast)
    # bfloat16 may turn an answer
    assert fast.recorder.values[-1][-1] == pytest.approx(((p > .5) == y).mean(), abs=1.5/len(y))

def test_once_and_again_only_for_another_precision(trained, monkeypatch):
    fast = trained[0]
    kept = fast.rapid.kept
    monkeypatch.setattr(features, 'int8_network', lambda *args: pytest.fail('int8 is prepared again'))
    fast.fit(1)
    assert fast.rapid.kept is kept
    monkeypatch.setattr(fast.rapid, 'int8', False)
    fast.fit(1)
    assert fast.rapid.kept is not kept and fast.rapid.precision == fast.rapid.dtype

def test_the_learner_is_exported(trained, tmp_path):
    fast = trained[0]
    file = fast.dls.valid_ds.items.file.iloc[0]
    fast.path = tmp_path
    fast.export('learn.pkl')
    with fast.no_bar(): want = fast.predict(file)[0]
    assert (load_learner(tmp_path/'learn.pkl').predict(file)[0] == want
            == fast.to_classifier().predict([file], abstain=0.).label[0])

def spoil(body):
    """Channels that nobody listens to, thousands of times as large as the others: nothing for floats, too much
    for the range of a byte"""
    for block in (m for m in body.modules() if hasattr(m, 'conv2')):
        with torch.no_grad():
            block.bn1.bias[0] = 5000.
            block.conv2.weight[:,0] = 0.

def test_floats_where_int8_does_not_agree(small, monkeypatch):
    spoil(small.model[0])
    monkeypatch.setattr(features, '_int8_may_pay', lambda *args: True)
    with pytest.warns(UserWarning, match=r'off by \d+%, where 20% is allowed') as said: small.fit(1)
    assert len(said) == 1 and small.rapid.precision == torch.float32
    small.fit(1)   # says nothing, computes nothing

def test_the_last_stage_stays_in_floats(monkeypatch):
    "Its activations may be too large for the range of a byte"
    set_seed(1)
    body, x = build_network(resnet18, 2, None)[0].eval(), torch.randn(32, 3, 64, 64)
    spoil(body[7])
    with torch.no_grad(): whole = body(x).mean((2, 3))
    def off(): return disagreement(whole, int8_network(body, x)(x).mean((2, 3)))
    assert off() < .5
    monkeypatch.setattr(precision, '_before_last_stage', len)
    assert off() > 1   # or else this test would show nothing

def test_without_onnxscript(monkeypatch):
    "It is needed only for what is not written layer by layer"
    monkeypatch.setitem(sys.modules, 'onnxscript', None)
    def small(layer): return int8_network(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), layer).eval(), x)
    x = torch.rand(4, 3, 16, 16)
    assert small(torch.nn.ReLU())(x).shape == (4, 4, 14, 14)
    with pytest.raises(ImportError, match=r"the export needs onnxscript: `pip install 'genderres\[onnx\]'`"):
        small(torch.nn.SiLU())

def test_seconds_decide(small, monkeypatch):
    def stub(net, photos, dtype):
        fold = precision.fold_batchnorm(net)
        return lambda x: fold(x)*1.01
    monkeypatch.setattr(features, 'int8_network', stub)
    judge = features._judge
    def used(*seconds):
        pays, *judges = seconds
        monkeypatch.setattr(features, 'forward_seconds', lambda *args: pays)
        judges = iter(judges)
        monkeypatch.setattr(features, '_judge', lambda f, x: (judge(f, x)[0], next(judges)))
        small.rapid.stamp = None
        small.rapid.features(small)
        return small.rapid.precision
    n, read, some = 2*len(small.dls.train_ds), .01, features._some_photos
    def slow(learn, n, **kwargs): time.sleep(read*min(n, 16)); return some(learn, n, **kwargs)
    monkeypatch.setattr(features, '_some_photos', slow)
    pays = 4*15/n   # of four photos: 15 seconds for all views, of which int8 saves 6
    assert used(pays, 3, 2) == torch.int8
    assert used(pays, 3, 2.5) == torch.float32       # not faster by the margin
    assert used(pays*.7) == torch.float32            # too little work to try
    read = .05
    assert used(pays) == torch.float32               # reading the photos that are needed takes longer

def test_without_onnxruntime(small, monkeypatch):
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    monkeypatch.setattr(features, 'forward_seconds', lambda *args: 10.**6)
    with pytest.raises(ImportError, match=r"dtype=torch.int8 needs onnxruntime: `pip install 'genderres\[onnx\]'`"):
        small.to_rapid(dtype=torch.int8)
    with warnings.catch_warnings():
        warnings.simplefilter('error')
        small.rapid.features(small)
    assert small.rapid.precision == torch.float32

def test_a_body_that_cannot_be_exported(small, monkeypatch):
    def fail(*args): raise RuntimeError('there is no such operator\nand much more')
    monkeypatch.setattr(features, 'int8_network', fail)
    monkeypatch.setattr(features, '_int8_may_pay', lambda *args: True)
    with pytest.warns(UserWarning, match='not computed in int8, because this body cannot be: '
                                         'there is no such operator$'):
        small.fit(1)
    small.rapid.int8, small.rapid.stamp = True, None
    with pytest.raises(RuntimeError, match='no such operator'): small.fit(1)

def written(net, x):
    "What onnxruntime computes of the graph that is written layer by layer; None if there is none"
    model = precision._written(precision.fold_batchnorm(net), x.shape[2:])
    if model is None: return
    session = onnxruntime.InferenceSession(model.SerializeToString(), providers=['CPUExecutionProvider'])
    return torch.from_numpy(session.run(None, dict(photos=x.numpy()))[0])

@pytest.mark.parametrize('arch', [resnet50, vgg11_bn])
def test_written_layer_by_layer(arch):
    net, x = build_network(arch, 2, None)[0].eval(), torch.randn(2, 3, 64, 48)
    with torch.no_grad(): assert torch.allclose(written(net, x), net(x), atol=1e-3)

class Twice(torch.nn.Module):
    "What a layer gives, and what it gets"
    def __init__(self, layer):
        super().__init__()
        self.conv, self.layer = torch.nn.Conv2d(3, 4, 3), layer
    def forward(self, x):
        x = self.conv(x)
        return self.layer(x) + x

def test_what_is_not_written_is_exported():
    "Layers that are not known, and those that change what another layer reads"
    x = torch.randn(8, 3, 16, 16)
    with torch.no_grad():
        assert torch.allclose(written(net := Twice(torch.nn.ReLU()).eval(), x), net(x), atol=1e-4)
        for layer in (torch.nn.ReLU(inplace=True), torch.nn.SiLU()):
            net = Twice(layer).eval()
            assert written(net, x) is None
            assert disagreement(*(f(x).flatten(1) for f in (net, int8_network(net, x)))) < .2

def test_not_on_a_gpu(small, monkeypatch):
    monkeypatch.setattr(type(small.dls), 'device', torch.device('cuda'))
    with pytest.raises(ValueError, match='dtype=torch.int8 is for a CPU'): small.to_rapid(dtype=torch.int8)
    assert not features._int8_may_pay(small, None, 10**9)

def test_layers_that_are_trained_stay_in_floats(small):
    small.to_rapid(dtype=torch.int8)
    small.unfreeze()
    small.fit(1)
    assert small.model[0][0].weight.dtype == torch.float32 and np.isfinite(small.recorder.values[-1]).all()

def test_an_interrupt_leaves_the_log_on(monkeypatch):
    def stop(*args): raise KeyboardInterrupt
    monkeypatch.setattr(precision, '_ranges', stop)
    with pytest.raises(KeyboardInterrupt):
        int8_network(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()), torch.rand(4, 3, 16, 16))
    assert logging.root.manager.disable == logging.NOTSET

def test_the_log_is_as_the_user_set_it(monkeypatch):
    def fail(*args): raise RuntimeError
    monkeypatch.setattr(precision, '_ranges', fail)
    logging.disable(logging.ERROR)
    try:
        with pytest.raises(RuntimeError):
            int8_network(torch.nn.Sequential(torch.nn.Conv2d(3, 4, 3), torch.nn.ReLU()), torch.rand(4, 3, 16, 16))
        assert logging.root.manager.disable == logging.ERROR
    finally: logging.disable(logging.NOTSET)

def test_photos_that_are_all_alike(small, monkeypatch):
    black = torch.zeros(4, 5)
    assert disagreement(black, black) == disagreement(black[:1], black[:1]) == 0
    assert 1e6 < disagreement(black, black + 1) < np.inf and np.isnan(disagreement(black, black*np.nan))
    monkeypatch.setattr(features, '_some_photos', lambda learn, n: (torch.zeros(8, 3, 64, 64), torch.zeros(8)))
    monkeypatch.setattr(features, 'int8_network',
                        lambda net, photos, dtype: lambda x: precision.fold_batchnorm(net)(x) + 1)
    small.rapid.int8 = True
    with pytest.warns(UserWarning, match='off by more than the photos differ from each other, where 20% is allowed'):
        small.fit(1)
    assert small.rapid.precision == torch.float32

def test_deprecations_of_torch_do_not_reach_the_user():
    "fastai's use of torch.jit.script is no concern of the user, who asks for all warnings with `python -W default`"
    with warnings.catch_warnings(record=True) as said:
        warnings.simplefilter('default')
        importlib.reload(genderres)   # as after the interpreter has started
        torch.jit.script(torch.nn.ReLU())
    assert not said
