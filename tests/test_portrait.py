"The weights that come with the package, and the classifier that is ready"
import time
import numpy as np, pytest, torch
from torchvision.models import resnet18, resnet34
from genderres.classifier import GenderClassifier
from genderres.data import gender_dls
from genderres.learner import gender_learner
from genderres.portraits import draw_portrait
from genderres.ready import ReadyClassifier
from genderres.weights import portrait_file, read_portrait

def test_small_quick_and_says_what_it_is(photos):
    assert portrait_file.stat().st_size < 45e6
    start = time.time()
    state, facts = read_portrait()
    assert time.time() - start < 10   # a fraction of a second where nothing else runs
    trained = facts['trained']
    assert 'CC BY 4.0' in trained['attribution'] and trained['licence'] and trained['views'] and 'presented' in trained['labels']
    scores = trained['scores']
    assert {'FairFace test, all', 'congress, face, all', 'wild, face where found, all'} <= {*scores}
    assert all(o['low'] <= o['right']/o['n'] <= o['high'] for o in scores.values())
    learn = gender_learner(gender_dls(photos, size=64, bs=8, num_workers=0), resnet34, 'portrait')
    assert torch.equal(learn.model[0][0].weight, state['conv1.weight'].float())
    assert not learn.model[0][0].weight.requires_grad and learn.weights == 'portrait'

def test_damage_is_noticed(tmp_path):
    data = portrait_file.read_bytes()
    bad = dict(cut=data[:10**6], altered=data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], empty=b'', facts=data.replace(b'resnet34', b'resnet43'))
    for name,content in bad.items():
        (tmp_path/name).write_bytes(content)
        for read in read_portrait, ReadyClassifier, lambda o: GenderClassifier.ready(file=o):
            with pytest.raises(ValueError, match=f'{name} is missing or damaged .*--force-reinstall'): read(tmp_path/name)
    with pytest.raises(ValueError, match='nowhere is missing or damaged'): read_portrait(tmp_path/'nowhere')

def test_another_network_is_named(photos):
    with pytest.raises(ValueError, match="'portrait' is neither a file nor known for resnet18"):
        gender_learner(gender_dls(photos, size=64, bs=8, num_workers=0), resnet18, 'portrait')

def test_both_ready_classifiers_say_the_same():
    drawn = [draw_portrait(o, np.random.default_rng(i), size=100 + 20*i) for i,o in enumerate(['men', 'women']*3)]
    a, b = (o.predict(drawn, abstain=0.) for o in (ReadyClassifier(), GenderClassifier.ready('cpu')))
    assert np.allclose(a[['men', 'women']], b[['men', 'women']], atol=1e-4) and a.label.tolist() == b.label.tolist()
