"A network without the first reduction, and files from before there was a choice"
import json
import pytest, torch
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from torchvision.models import densenet121, resnet18, resnet50
from genderres.classifier import GenderClassifier
from genderres.export import compare
from genderres.data import gender_dls
from genderres.learner import gender_learner
from genderres.networks import plain34
from genderres.predict import OnnxClassifier

@pytest.fixture
def dls(photos): return gender_dls(photos, size=32, bs=8, num_workers=0)

def facts_of(file):
    with safe_open(file, 'pt') as f: return json.loads(f.metadata()['genderres'])

def test_saved_loaded_and_exported(dls, tmp_path):
    learn = gender_learner(dls, resnet18, None, stem='small')
    with learn.no_bar(), learn.no_logging(): learn.fit(1)
    clf = learn.to_classifier()
    file = clf.save(tmp_path/'a.safetensors')
    assert facts_of(file)['stem'] == 'small'
    back, files = GenderClassifier.load(file), dls.valid.items.file.tolist()
    assert back.model[0][0].kernel_size == (3, 3) and back.model[0](torch.zeros(1, 3, 32, 32)).shape[2:] == (4, 4)
    assert compare(clf, back, files)['largest_difference'] == 0
    clf.to_onnx(tmp_path/'a.onnx')
    onnx = OnnxClassifier(tmp_path/'a.onnx')
    assert onnx.facts == clf.facts and compare(clf, onnx, files)['largest_difference'] < 1e-4

def test_files_without_a_stem(untrained, tmp_path):
    facts = facts_of(untrained)
    assert facts.pop('stem') == 'normal'
    old = GenderClassifier(load_file(untrained), facts, 'cpu')
    old.save(tmp_path/'old.safetensors')
    assert 'stem' not in GenderClassifier.load(tmp_path/'old.safetensors').facts

@pytest.mark.parametrize('stem,says', [('small', 'do not fit resnet18'), ('tiny', 'stem'), (None, 'stem'),
                                       (['small'], 'stem')])
def test_a_stem_that_is_not_so(untrained, tmp_path, stem, says):
    save_file(load_file(untrained), tmp_path/'b.safetensors',
              dict(genderres=json.dumps({**facts_of(untrained), 'stem': stem}), sha256='0'*64))
    with pytest.raises(ValueError, match=says): GenderClassifier.load(tmp_path/'b.safetensors')

@pytest.mark.parametrize('arch,n', [(resnet50, 2048), (plain34, 512)])
def test_other_networks(dls, arch, n):
    learn = gender_learner(dls, arch, None, stem='small')
    assert learn.model[0](torch.zeros(1, 3, 32, 32)).shape == (1, n, 4, 4)
    assert [o.shape for o in learn.splitter(learn.model)[0][:1]] == [(64, 3, 3, 3)]

def test_other_kinds_of_network(dls):
    with pytest.raises(ValueError, match='not for DenseNet'): gender_learner(dls, densenet121, None, stem='small')
