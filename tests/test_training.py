"The demo and the learning-rate search, as a user meets them"
from copy import deepcopy
import pandas as pd, pytest, torch
from fastai.callback.core import Callback
from fastai.learner import Learner
from torchvision.models import resnet18
from genderres.data import gender_dls
from genderres.portraits import sample_portraits
from genderres.experiment import demo
from genderres.learner import gender_learner

def test_demo_leaves_what_it_promises(tmp_path, capsys):
    out = tmp_path/'out'
    for _ in range(2): demo(out, n=60)   # a second run replaces the first
    names = {o.name for o in out.iterdir()}
    assert names == {'portraits.png', 'report.html', 'loss.png', 'learning_rate.png', 'confusion_matrix.png',
                     'top_losses.png', 'top_losses.csv', 'epochs.csv', 'scores.csv'}
    text = capsys.readouterr().out
    assert str(out) in text and 'of 12)' in text and 'presented gender' in text
    top, scores = pd.read_csv(out/'top_losses.csv'), pd.read_csv(out/'scores.csv', index_col=0)
    assert len(pd.read_csv(out/'epochs.csv')) == 4 and len(top) == 12
    assert scores.right['accuracy'] == (top.label == top.prediction).sum()

@pytest.mark.parametrize('n', [6, 24])
def test_lr_find_gives_a_rate_or_says_why_not(tmp_path, n):
    learn = gender_learner(gender_dls(sample_portraits(tmp_path/'few', n=n, size=32), size=32, bs=8, num_workers=0),
                           resnet18, weights=None)
    try: assert 1e-7 < learn.lr_find(num_it=50, show_plot=False).valley < 10
    except ValueError as e: assert 'so no rate can be suggested' in str(e)

def test_lr_find_on_a_loss_that_is_not_a_number(photos):
    learn = gender_learner(gender_dls(photos, size=32, bs=8, num_workers=0), resnet18, weights=None,
                           loss_func=lambda p,y: p.sum()*torch.nan)
    with pytest.raises(ValueError, match='not finite from the first batch'): learn.lr_find(num_it=12, show_plot=False)

def test_an_interrupted_lr_find_leaves_the_learner_as_it_was(photos, interruptible):
    learn = gender_learner(gender_dls(photos, size=32, bs=8, num_workers=0), resnet18, weights=None)
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    def state(): return deepcopy((learn.model.state_dict(), learn.opt.state_dict()['state']))
    before, hypers = state(), deepcopy(learn.opt.hypers)
    class Stop(Callback):
        def after_backward(self):
            if self.train_iter == 4: raise KeyboardInterrupt
    with pytest.raises(KeyboardInterrupt), learn.no_bar(), learn.added_cbs(Stop()):
        learn.lr_find(start_lr=1., num_it=12, stop_div=False, show_plot=False)
    torch.testing.assert_close(state(), before, rtol=0, atol=0)
    assert learn.opt.hypers == hypers and all(p.grad is None or not p.grad.any() for p in learn.model.parameters())
    learn.opt = None   # as in a learner that was never trained
    with pytest.raises(KeyboardInterrupt), learn.no_bar(), learn.added_cbs(Stop()):
        learn.lr_find(start_lr=1., stop_div=False, show_plot=False)
    torch.testing.assert_close(learn.model.state_dict(), before[0], rtol=0, atol=0)
    assert learn.opt is None

def test_lr_find_is_not_misled_by_an_easy_first_batch(photos, monkeypatch):
    learn = gender_learner(gender_dls(photos, size=32, bs=8, num_workers=0), resnet18, weights=None)
    def found(losses):
        monkeypatch.setattr(Learner, 'lr_find',
                            lambda self, **kwargs: setattr(self.recorder, 'losses', losses) or (1e-3,))
        return learn.lr_find()
    assert found([.6, *[1.2]*20, .9, .7, 3.]) == (1e-3,)
    with pytest.raises(ValueError, match='never fell over 24 batches .it began at 1.20.'):
        found([.6, *[1.2]*20, 1.3, 1.4, 3.])

def test_weights_stay_frozen_under_a_new_head(photos, tmp_path):
    from safetensors.torch import save_file
    save_file(resnet18(weights=None).state_dict(), tmp_path/'w.safetensors')
    learn = gender_learner(gender_dls(photos, size=32, bs=8, num_workers=0), resnet18, tmp_path/'w.safetensors')
    body = learn.model[0][0].weight.clone()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1)
    assert torch.equal(learn.model[0][0].weight, body)
    learn.unfreeze()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1, slice(1e-5, 1e-4))
    assert not torch.equal(learn.model[0][0].weight, body)
