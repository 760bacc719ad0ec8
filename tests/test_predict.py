"Prediction where things are scarce or shared: memory, and processes that were forked"
import multiprocessing, os, subprocess, sys, textwrap
import numpy as np, pytest
from genderres.predict import Classifier

class First(Classifier):
    "A network without any work: always the first class"
    def logits(self, x): return np.eye(2)[np.zeros(len(x), int)]

def test_large_photos_take_turns(large_photos):
    "No more pixels are in work than the budget says, over all threads; every photo has its row"
    folder, most, held = large_photos
    facts = dict(vocab=['men', 'women'], size=[16, 16], temperature=1., abstain=0.)
    answers = First(facts, '').predict(folder, progress=False)
    assert (answers.problem == '').all() and len(answers) == 24
    assert most < max(held) < 2**26   # several small ones at once, and two large ones never

class Sometimes(Classifier):
    "A network that overflows"
    def logits(self, x): return np.where(x[:, 0, 0, :2] > 200, np.nan, [1., 0])

def test_no_number_is_no_answer():
    facts = dict(vocab=['men', 'women'], size=[16, 16], temperature=1., abstain=0.)
    answers = Sometimes(facts, '').predict([np.full((9, 9, 3), o, np.uint8) for o in (0, 255)], progress=False)
    assert answers.label.tolist() == ['men', ''] and answers.problem.tolist() == ['', 'the network gave no number']

forked = textwrap.dedent('''
    import multiprocessing, sys
    import numpy as np, torch
    from genderres.classifier import GenderClassifier
    from genderres.predict import OnnxClassifier
    noise = [*np.random.default_rng(0).integers(0, 255, (20, 64, 64, 3), np.uint8)]
    def load(): return GenderClassifier.load(sys.argv[1], device='cpu')
    def answer(clf): return clf.predict(noise, progress=False).iloc[:, 2].tolist()
    both = {'plain': load(), 'rapid': load().to_rapid(dtype=torch.float32)}
    both['onnx'] = OnnxClassifier(sys.argv[2])
    here = {k: answer(o) for k,o in both.items()}
    ways = {**{k: lambda o=o: answer(o) for k,o in both.items()}, 'load': lambda: answer(load()),
            'rapid there': lambda: answer(load().to_rapid(dtype=torch.float32)),
            'onnx again': lambda: answer(both.pop('onnx').to('cpu'))}   # the session of the parent ends
    for k,way in ways.items():
        queue = multiprocessing.get_context('fork').SimpleQueue()
        child = multiprocessing.get_context('fork').Process(target=lambda: queue.put(way()), daemon=True)
        child.start()
        child.join(40)
        if child.exitcode != 0: sys.exit(f'{k}: no answer from a forked process, {child.exitcode}')
        assert np.allclose(queue.get(), here[k if k in here else 'plain'], atol=1e-2), k
    ''')

@pytest.mark.skipif('fork' not in multiprocessing.get_all_start_methods(), reason='this system does not fork')
def test_a_forked_process_answers(untrained):
    "After an answer here, a fork answers too, whatever computes, and also with what it loads itself"
    pytest.importorskip('onnxruntime')
    env = {**os.environ, 'OMP_NUM_THREADS': '2', 'OMP_WAIT_POLICY': 'passive'}   # one thread waits for none
    call = [sys.executable, '-W', 'ignore', '-c', forked, untrained, untrained.with_name('a.onnx')]
    run = subprocess.run(call, env=env, capture_output=True, text=True, timeout=250)
    assert run.returncode == 0, run.stderr[-1000:]
