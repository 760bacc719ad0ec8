"A file that takes pixels, as a program without genderres uses it"
import json, subprocess, sys
import numpy as np, pytest
from genderres.classifier import GenderClassifier
from genderres.cli import app
from genderres.export import compare
from genderres.predict import OnnxClassifier
from genderres.portraits import draw_portrait
from typer.testing import CliRunner

alone = '''
import sys, json, numpy as np, onnxruntime
from PIL import Image
session = onnxruntime.InferenceSession(sys.argv[1], providers=['CPUExecutionProvider'])
name = session.get_inputs()[0].name
out = [session.run(['label', 'probabilities'], {name: np.asarray(Image.open(o).convert('RGB'))[None]}) \
for o in sys.argv[2:]]
assert not {'torch', 'fastai', 'genderres'} & {*sys.modules}
print(json.dumps([(a[0], b[0].tolist()) for a,b in out]))
'''

@pytest.fixture(scope='module')
def shapes(tmp_path_factory):
    "Photos of many shapes, far larger and far smaller than what a network sees"
    tmp, photo = tmp_path_factory.mktemp('shapes'), draw_portrait('women', np.random.default_rng(3), 96)
    for i,size in enumerate([(96, 96), (20, 90), (700, 30), (1, 1), (1, 50), (32, 32), (640, 480)]):
        photo.resize(size).save(tmp/f'{i}.png')
    return sorted(tmp.iterdir())

def described(file, **facts):
    "The classifier in `file` with other facts"
    clf = GenderClassifier.load(file, 'cpu')
    return GenderClassifier(clf.model.state_dict(), {**clf.facts, **facts}, 'cpu')

def test_onnxruntime_alone(untrained, shapes, tmp_path):
    "Resize, normalisation, temperature, threshold and class names are inside: the answers are those of `predict`"
    vocab = ['Männer, "alle"', "l'autre\n\\0"]
    clf = described(untrained, size=[24, 40], vocab=vocab, temperature=.2, mean=[.1, .5, .3], std=[.2, .4, .1])
    probs = clf.predict(shapes)[vocab].values
    clf.facts['abstain'] = float(np.sort(probs.max(1))[2:4].mean())   # between two answers
    want = clf.predict(shapes)
    clf.to_onnx(tmp_path/'pixels.onnx', pixels=True)
    run = subprocess.run([sys.executable, '-c', alone, tmp_path/'pixels.onnx', *shapes], capture_output=True, text=True)
    assert run.returncode == 0, run.stderr
    labels, got = zip(*json.loads(run.stdout))
    assert list(labels) == want.label.tolist() and labels.count('unsure') == 3
    assert np.abs(np.array(got) - want[vocab].values).max() < .005

def test_many_at_once_and_other_arrays(untrained, tmp_path):
    clf = GenderClassifier.load(untrained, 'cpu')
    session = clf.to_onnx(tmp_path/'p.onnx', pixels=True)._session
    x = np.stack([np.asarray(draw_portrait('men', np.random.default_rng(i), 50)) for i in range(5)])
    label, probs, logits = session.run(None, {'photos_pixels': x})
    want = clf.predict(list(x))
    assert (label.tolist() == want.label.tolist() and np.abs(probs - want[clf.vocab].values).max() < .005
            and logits.shape == (5, 2))
    # grey, float, one photo, RGBA
    for bad in (x[..., :1], x.astype(np.float32), x[0], np.concatenate([x, x[..., :1]], -1)):
        with pytest.raises(Exception, match='photos_pixels|INVALID_ARGUMENT'): session.run(None, {'photos_pixels': bad})

def test_pixels_of_faces(untrained, shapes, tmp_path):
    "The input says that it wants faces; the classifier's own way with the file still cuts them out"
    clf = described(untrained, faces='largest')
    with pytest.warns(UserWarning, match='f.onnx takes the pixels of faces.*crop_face'):
        new = clf.to_onnx(tmp_path/'f.onnx', pixels=True)
    assert new._session.get_inputs()[0].name == 'faces_pixels'
    photos = [draw_portrait('women', np.random.default_rng(i), 160) for i in range(3)]
    assert compare(clf, new, photos)['largest_difference'] < .02
    a, b = clf.predict(photos), new.predict(photos)
    assert a.label.equals(b.label) and np.abs(a[clf.vocab] - b[clf.vocab]).max(axis=None) < 1e-4

def test_linear_head(untrained, shapes, tmp_path):
    ready = GenderClassifier.ready('cpu')
    clf = GenderClassifier(ready.model.state_dict(), {**ready.facts, 'faces': 'no'}, 'cpu')
    assert compare(clf, clf.to_onnx(tmp_path/'r.onnx', pixels=True), shapes)['largest_difference'] < .005

def test_shell(untrained, photos, tmp_path):
    out = tmp_path/'p.onnx'
    res = CliRunner().invoke(app, ['export', str(untrained), '-o', str(out), '--pixels', '--photos', str(photos),
                                   '--json'])
    assert res.exit_code == 0, res.output
    data = json.loads(res.stdout)
    assert (data['photos'] == data['same_label'] == 20 and data['largest_difference'] < .005
            and OnnxClassifier(out).takes_pixels)
    other = CliRunner().invoke(app, ['predict', str(out), str(photos), '--json'])   # as any other .onnx file
    one = CliRunner().invoke(app, ['predict', str(untrained), str(photos), '--json'])
    assert (other.exit_code == 0
            and [o['label'] for o in json.loads(other.stdout)] == [o['label'] for o in json.loads(one.stdout)])
