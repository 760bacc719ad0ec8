"The weights that come with the package, and the classifier that is ready"
import sys, time
import numpy as np, pytest, torch
from torchvision.models import resnet18, resnet34
from genderres.classifier import GenderClassifier
from genderres.data import gender_dls
from genderres.learner import gender_learner
from genderres.portraits import draw_portrait
from genderres.reader import read_photo, to_pixels
from genderres.ready import ReadyClassifier
from genderres.weights import portrait_file, read_portrait

def test_small_quick_and_says_what_it_is(photos):
    assert portrait_file.stat().st_size < 45e6
    start = time.time()
    state, facts = read_portrait()
    assert time.time() - start < 10   # a fraction of a second where nothing else runs
    trained = facts['trained']
    assert ('CC BY 4.0' in trained['attribution'] and trained['licence'] and trained['views']
            and 'presented' in trained['labels'])
    scores = trained['scores']
    assert {'FairFace test, all', 'congress, face, all', 'wild, face where found, all'} <= {*scores}
    assert all(o['low'] <= o['right']/o['n'] <= o['high'] for o in scores.values())
    learn = gender_learner(gender_dls(photos, size=64, bs=8, num_workers=0), resnet34, 'portrait')
    assert torch.equal(learn.model[0][0].weight, state['conv1.weight'].float())
    assert not learn.model[0][0].weight.requires_grad and learn.weights == 'portrait'

def test_a_learner_begins_with_its_answers(photos, tmp_path):
    """Before any training, the learner answers as the ready classifier does to the same pixels;
    and its file keeps the head"""
    learn = gender_learner(gender_dls(photos, size=128, bs=8, num_workers=0))
    ready = GenderClassifier.ready('cpu')
    ready.facts['temperature'] = 1.
    files = learn.dls.valid_ds.items.file.tolist()
    mine = learn.get_preds(dl=learn.dls.test_dl(files))[0].numpy()
    assert np.allclose(mine, ready.probabilities(np.stack([to_pixels(read_photo(o), (128, 128)) for o in files])),
                       atol=1e-3)
    clf = learn.to_classifier()
    assert clf.facts['head'] == 'linear'
    kept = GenderClassifier.load(clf.save(tmp_path/'mine.safetensors'), 'cpu').predict(files, abstain=0.)
    assert np.allclose(kept[clf.vocab], mine, atol=1e-3)

def test_other_classes_and_other_heads_begin_anew(photos):
    named = {'men': 'Female', 'women': 'Male'}   # nonsense, and in another order
    learn = gender_learner(gender_dls(photos, size=64, bs=8, num_workers=0, classes=named))
    assert (torch.equal(learn.model[1][-1].weight, read_portrait()[0]['fc.weight'].float()[[1, 0]])
            and learn.head == 'linear')
    for learn in (gender_learner(gender_dls(photos, size=64, bs=8, num_workers=0,
                                            classes=dict(men='old', women='young'))),
                  gender_learner(gender_dls(photos, size=64, bs=8, num_workers=0), head='fastai')):
        assert learn.head == 'fastai' and len(learn.model[1]) > 5
    assert gender_learner(gender_dls(photos, size=64, bs=8, num_workers=0), resnet18, None).head == 'fastai'

def test_damage_is_noticed(tmp_path):
    data = portrait_file.read_bytes()
    bad = dict(cut=data[:10**6], altered=data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], empty=b'',
               facts=data.replace(b'resnet34', b'resnet43'))
    for name,content in bad.items():
        (tmp_path/name).write_bytes(content)
        for read in read_portrait, ReadyClassifier, lambda o: GenderClassifier.ready(file=o):
            with pytest.raises(ValueError, match=f'{name} is missing or damaged .*--force-reinstall'):
                read(tmp_path/name)
    with pytest.raises(ValueError, match='nowhere is missing or damaged'): read_portrait(tmp_path/'nowhere')

def test_another_network_is_named(photos):
    with pytest.raises(ValueError, match="'portrait' is neither a file nor known for resnet18"):
        gender_learner(gender_dls(photos, size=64, bs=8, num_workers=0), resnet18, 'portrait')

@pytest.mark.parametrize('onnx', [True, False])
def test_both_ready_classifiers_say_the_same(onnx, monkeypatch):
    "With onnxruntime, and without"
    if not onnx: monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    drawn = [draw_portrait(o, np.random.default_rng(i), size=100 + 20*i) for i,o in enumerate(['men', 'women']*3)]
    a, b = (o.predict(drawn, abstain=0.) for o in (ReadyClassifier(), GenderClassifier.ready('cpu')))
    assert np.allclose(a[['men', 'women']], b[['men', 'women']], atol=1e-4) and a.label.tolist() == b.label.tolist()
