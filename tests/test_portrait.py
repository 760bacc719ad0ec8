"The body that comes with the package"
import json, time
from importlib.resources import files
import pytest, torch
from safetensors import safe_open
from torchvision.models import resnet18, resnet34
from genderres.data import gender_dls
from genderres.learner import gender_learner
from genderres.networks import portrait_weights

file = files('genderres')/'portrait.safetensors'

def test_small_quick_and_says_what_it_is(photos):
    assert file.stat().st_size < 45e6
    start = time.time()
    state = portrait_weights()
    assert time.time() - start < 10   # a fraction of a second where nothing else runs
    with safe_open(file, 'pt') as f: meta = f.metadata()
    assert {'arch', 'preprocessing', 'teachers', 'photos', 'licence', 'date', 'figures', 'trained'} <= set(meta)
    assert {'congress', 'wild_faces', 'test_faces'} <= {o['set'] for o in json.loads(meta['figures'])}
    learn = gender_learner(gender_dls(photos, size=64, bs=8, num_workers=0), resnet34, 'portrait')
    assert torch.equal(learn.model[0][0].weight, state['conv1.weight'].float())
    assert not learn.model[0][0].weight.requires_grad and learn.weights == 'portrait'

def test_damage_is_noticed(tmp_path):
    data = file.read_bytes()
    for name,bad in dict(cut=data[:10**6], altered=data[:-9] + bytes([data[-9] ^ 1]) + data[-8:], empty=b'').items():
        (tmp_path/name).write_bytes(bad)
        with pytest.raises(ValueError, match=f'{name} is missing or damaged .*--force-reinstall'): portrait_weights(tmp_path/name)
    with pytest.raises(ValueError, match='nowhere is missing or damaged'): portrait_weights(tmp_path/'nowhere')

def test_another_network_is_named(photos):
    with pytest.raises(ValueError, match="'portrait' is neither a file nor known for resnet18"): gender_learner(gender_dls(photos, size=64, bs=8, num_workers=0), resnet18, 'portrait')
