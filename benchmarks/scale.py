"""Ray Data against plain `predict`, and memory over many photos:

    python benchmarks/scale.py [--many 100000]

All on this machine, a thread for each worker. `predict` is `predict_to_file` of the ready classifier on whole
photos, with so many threads, and `read` decodes and resizes them on one thread. `ray` is `predict_dataset`
with so many workers on the same photos, the start of the workers included; `start` is that of eight photos,
nearly all of it the start. Two threads and two workers also judge `--long` photos, among which the start weighs
less. `lost` is the number of photos without their row, `different` of rows that are not those of `predict` to
the last digit.

`many` is an untrained ResNet18 at 32 pixels on many small photos, which says what the engine can do when the
network costs next to nothing; `start_mb` and `end_mb` are what the process that asks and all of Ray's hold
together, on average over the second and the last fifth of the run, and `store_mb` is the most that lay in Ray's
object store, which they share. `bytes` is the mean size of a photo or, for `many`, of a row of answers.
"""
import argparse, os, tempfile, threading, time
os.environ.update(OMP_NUM_THREADS='1', RAY_USAGE_STATS_ENABLED='0', RAY_worker_niceness='0')   # as plain predict
from pathlib import Path
import numpy as np, pandas as pd, psutil, ray, torch
from fastai.vision.all import resnet18, set_seed
import genderres.export   # noqa: F401, gives the classifier `to_onnx`
from genderres.classifier import GenderClassifier   # noqa: F401
from genderres.data import gender_dls
from genderres.learner import gender_learner
from genderres.portraits import sample_portraits
from genderres.files import keep_memory
from genderres.predict import predict_to_file
from genderres.ready import ReadyClassifier
from genderres.scale import predict_dataset

def copies(folder, files, n):
    "`n` links to `files`"
    folder.mkdir()
    for i in range(n): os.link(files[i % len(files)], folder/f'{i:07}.jpg')
    return folder

def timed(f, *args, **kwargs):
    start = time.time()
    f(*args, progress=False, **kwargs)
    return time.time() - start

def held():
    "What this process and all below it hold, in MB, without what they share"
    res, me = 0, psutil.Process()
    for o in (me, *me.children(recursive=True)):
        try: m = o.memory_info(); res += m.rss - m.shared
        except psutil.Error: pass   # it has just ended
    return res/2**20

def stored():
    "What lies in Ray's object store, in MB"
    total, free = (o().get('object_store_memory', 0) for o in (ray.cluster_resources, ray.available_resources))
    return (total - free)/2**20

class Memory:
    "`held` and `stored`, every two seconds"
    def __enter__(self):
        self.mb, self.store, self.on = [], [], True
        threading.Thread(target=self.look, daemon=True).start()
        return self
    def __exit__(self, *args): self.on = False
    def look(self):
        while self.on:
            self.mb.append(held())
            self.store.append(stored())
            time.sleep(2)
    def mean(self, fifth):
        n = len(self.mb)
        return round(float(np.mean(self.mb[n*fifth//5:max(n*fifth//5 + 1, n*(fifth+1)//5)])))

def main(tmp, n, long, many, out):
    rows = []
    def add(engine, workers, photos, seconds, **kwargs):
        rows.append(dict(engine=engine, workers=workers, photos=photos, seconds=round(seconds, 1),
                         per_second=round(photos/seconds, 1), **kwargs))
        print(rows[-1], flush=True)
        pd.DataFrame(rows).to_csv(out, index=False)
    files = [*sample_portraits(tmp/'drawn', n=100, size=768).glob('*/*')]
    sets = {o: copies(tmp/f'photos{o}', files, o) for o in (n, long)}
    ray.init('local', num_cpus=2, include_dashboard=False, object_store_memory=400*2**20,
             log_to_driver=False, logging_level='ERROR', _temp_dir=str(tmp/'ray'))
    keep_memory()   # as the command `genderres predict` and Ray's actors do
    near = {}
    for threads,o in ((2, long), (2, n), (1, n)):
        torch.set_num_threads(threads)
        clf = ReadyClassifier().with_faces('no')   # its network takes as many as PyTorch
        file = tmp/f'near{threads}-{o}.parquet'
        add('predict', threads, o, timed(predict_to_file, clf, sets[o], file))
        near[o] = pd.read_parquet(file)
    start = time.time()
    for o in sorted(sets[n].iterdir()): clf.pixels(o)
    add('read', 1, n, time.time() - start, bytes=round(sum(o.stat().st_size for o in files)/len(files)))
    predict_dataset(None, files[:8], tmp/'warm', faces='no', progress=False)
    add('start', 1, 8, timed(predict_dataset, None, files[:8], tmp/'start', workers=1, faces='no'))
    for workers,o in ((1, n), (2, n), (2, long)):
        to = tmp/f'far{workers}-{o}'
        seconds = timed(predict_dataset, None, sets[o], to, workers=workers, faces='no')
        far = pd.read_parquet(to).sort_values('row', ignore_index=True)
        different = (far[[*near[o]]] != near[o]).any(axis=1).sum()
        add('ray', workers, o, seconds, lost=o - len(far), different=int(different))
    set_seed(0)
    learn = gender_learner(gender_dls(sample_portraits(tmp/'small', n=40, size=48), size=32, bs=8, num_workers=0),
                           resnet18, weights=None)
    learn.to_classifier().to_onnx(tmp/'a.onnx')
    photos = copies(tmp/'many', [*(tmp/'small').glob('*/*')], many)
    with Memory() as memory:
        seconds = timed(predict_dataset, tmp/'a.onnx', photos, tmp/'far', batch_size=256, workers=1)
    add('many', 1, many, seconds, lost=many - len(pd.read_parquet(tmp/'far', columns=['row']).row.unique()),
        start_mb=memory.mean(1), end_mb=memory.mean(4), store_mb=round(max(memory.store)),
        bytes=round(sum(o.stat().st_size for o in (tmp/'far').glob('*.parquet'))/many))
    ray.shutdown()

if __name__ == '__main__':
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--photos', type=int, default=6000)
    p.add_argument('--long', type=int, default=20_000, help='with two workers, again so many')
    p.add_argument('--many', type=int, default=100_000)
    p.add_argument('--out', type=Path, default=Path(__file__).parent/'results'/'scale.csv')
    args = p.parse_args()
    with tempfile.TemporaryDirectory(dir='/tmp', ignore_cleanup_errors=True) as tmp:
        main(Path(tmp), args.photos, args.long, args.many, args.out)
