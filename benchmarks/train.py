"""How fast a validated model is trained, beside plain fastai:

    python benchmarks/train.py [--data FOLDER] [--hardware WORDS]

FOLDER holds a folder of photos for each class; `--drawn SIDE` draws square portraits of so many pixels
instead, since decoding rules with large photos. Plain fastai (`ImageDataLoaders`, `Resize` squished, `Flip`,
`vision_learner`) and this library train the same ResNet34 on the same split, at the same size, with the same
epochs and batch size, in turn, each in a process of its own; the seconds run from the folder of files to the
accuracy on the validation photos, so this library's check of all files is in its seconds.

Each row of benchmarks/results/train.csv is one run; JSON with the ratios is printed.

Modes: frozen (the head alone), unfrozen (the whole network), growing (the same, ours from photos of half the
size), stages (ours: the last two stages, plain fastai: the whole network).

`limit` is the share that the arithmetic alone would take of the seconds, at the rate of this machine's matrix
products in the same precision (`precision`; validation and the last stage are never in int8), and `decode`
what decoding the photos once would.

`accuracy_float32` is that of the finished model in full precision. Memory is the most that process and
loaders held at a time, in MB; on a GPU that of the GPU stands beside it.
"""
import argparse, json, os, tempfile, threading, time, warnings
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context, set_start_method
from pathlib import Path
import numpy as np, pandas as pd, psutil, torch
from fastai.vision.all import (Flip, ImageDataLoaders, Normalize, Resize, ResizeMethod, accuracy, imagenet_stats,
                               resnet34, set_seed, vision_learner)
from torch.utils.flop_counter import FlopCounterMode
from genderres.all import GrowSize, cache_photos, gender_dls, gender_learner, photos_from_source, sample_portraits
from genderres.stats import wilson
from genderres.networks import build_network
from genderres.reader import read_photo

results = Path(__file__).parent/'results/train.csv'

def fastai_plain(table, args, mode):
    "Plain fastai, with the same body"
    dls = ImageDataLoaders.from_df(
        table.assign(valid=table.split == 'valid', file=table.file.map(os.path.abspath))[['file', 'label', 'valid']],
        path='/', valid_col='valid', bs=args.bs, num_workers=args.workers,
        item_tfms=Resize(args.size, ResizeMethod.Squish), batch_tfms=[Flip(), Normalize.from_stats(*imagenet_stats)])
    learn = vision_learner(dls, resnet34, pretrained=False, metrics=accuracy)
    if args.weights: learn.model[0].load_state_dict(build_network(resnet34, 2, args.weights)[0].state_dict())
    if mode == 'frozen': learn.freeze()
    return learn, {}

def ours(rapid=None, cache=None):
    "This library: `rapid` goes to `to_rapid`"
    def make(table, args, mode):
        dls = gender_dls(table, size=args.size, bs=args.bs, num_workers=args.workers)
        if cache: cache_photos(dls, cache)
        learn = gender_learner(dls, resnet34, args.weights, head='fastai')
        if mode != 'frozen': learn.unfreeze(stages=2 if mode == 'stages' else None)
        if rapid is not None: learn.to_rapid(args.views, **rapid)
        return learn, dict(cbs=GrowSize()) if mode == 'growing' else {}
    return make

def steps(mode, cache):
    "What is compared: name and a function that makes the learner; each step adds something to the one before"
    res = [('fastai', fastai_plain)]
    if mode == 'frozen': res.append(('features once', ours(dict(dtype=torch.float32))))
    if mode == 'growing': res.append(('growing photos', ours()))
    if mode == 'stages': res.append(('maps once', ours(dict(dtype=torch.float32))))
    return res + [('+ precision' if len(res) > 1 else 'precision', ours({})),
                  ('+ cache, empty', ours({}, cache)), ('+ cache, filled', ours({}, cache))]

class Peak:
    "The most memory that this process and its children hold at a time"
    def __enter__(self):
        self.most, self.stop = 0, threading.Event()
        self.thread = threading.Thread(target=self.watch, daemon=True)
        self.thread.start()
        if torch.cuda.is_available(): torch.cuda.reset_peak_memory_stats()
        return self
    def look(self):
        me, held = psutil.Process(), 0
        for o in [me, *me.children(recursive=True)]:
            try: held += o.memory_full_info().uss
            except psutil.Error: pass
        self.most = max(self.most, held)
    def watch(self):
        while not self.stop.wait(2): self.look()
    def __exit__(self, *exc):
        self.stop.set()
        self.thread.join()
        self.look()   # work may take less than two seconds

def run(mode, cache, step, table, args, seed):
    "One row of results"
    warnings.simplefilter('ignore')
    set_start_method(None, force=True)   # loaders start their workers as they do in any program
    make = dict(steps(mode, cache))[step]
    set_seed(seed)
    with Peak() as peak:
        start = time.perf_counter()
        learn, kwargs = make(table, args, mode)
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(args.epochs, args.lr, **kwargs)
        seconds = time.perf_counter() - start
    n, share, rapid = len(learn.dls.valid_ds), learn.recorder.values[-1][2], getattr(learn, 'rapid', None)
    right = round(share*n)
    row = dict(seconds=seconds, right=right, n=n, accuracy=share, low=wilson(right, n)[1], high=wilson(right, n)[2],
               memory=peak.most/2**20,
               memory_gpu=torch.cuda.max_memory_allocated()/2**20 if torch.cuda.is_available() else 0)
    with learn.no_bar(), learn.no_logging(): preds, targs = learn.get_preds()
    row['accuracy_float32'] = float((preds.argmax(1) == targs).float().mean())
    return row | dict(precision=str(rapid.precision if rapid else torch.float32).removeprefix('torch.'),
                      views=rapid.views if rapid and mode in ('frozen', 'stages') else 0)

def shortest(f):
    "Seconds that `f` takes, called for a second"
    best, end = np.inf, time.perf_counter() + 1
    while (start := time.perf_counter()) < end:
        f()
        best = min(best, time.perf_counter() - start)
    return best

def machine(table, args):
    """Operations of a forward pass of one photo, of matrix products a second in each precision,
    and seconds to decode all photos once"""
    device, res = 'cuda' if torch.cuda.is_available() else 'cpu', {}
    net = build_network(resnet34, 2, None)[0].eval().to(device)
    with FlopCounterMode(display=False) as count, torch.no_grad():
        net(torch.zeros(1, 3, args.size, args.size, device=device))
    for dtype in (torch.float32, torch.bfloat16, *[torch.float16]*(device == 'cuda')):
        a = torch.randn(2048, 2048, device=device).to(dtype)
        def product():
            a @ a
            if device == 'cuda': torch.cuda.synchronize()
        res[str(dtype).removeprefix('torch.')] = 2*2048**3/shortest(product)
    if device == 'cpu':
        a = torch.randint(-8, 8, (2048, 2048), dtype=torch.int8)
        res['int8'] = 2*2048**3/shortest(lambda: torch._int_mm(a, a))
    some = table.file.sample(min(len(table), 200), random_state=0)
    start = time.perf_counter()
    for o in some: read_photo(o)
    return count.get_total_flops(), res, (time.perf_counter() - start)/len(some)*len(table)/max(args.workers or 1, 1)

def first_layers(size, n):
    "Operations of the first layers, for one photo; 6: all before the last two stages, 7: before the last"
    with FlopCounterMode(display=False) as count, torch.no_grad():
        build_network(resnet34, 2, None)[0][:n](torch.zeros(1, 3, size, size))
    return count.get_total_flops()

def operations(mode, step, row, forward, rates, table, args):
    "How many operations the network's work takes at least, in the row's precision"
    n, m = ((table.split == o).sum() for o in ('train', 'valid'))
    train, valid = n*forward, m*forward
    if mode == 'stages' and row['views']:
        return ((row['views']*n + m)*(first := first_layers(args.size, 6))
                + args.epochs*(3*n + m)*(forward - first))
    if row['precision'] == 'int8':   # validation and the last stage are in floats
        slower = rates['int8']/max(v for k,v in rates.items() if k != 'int8')
        early = first_layers(args.size, 7)
        train, valid = n*(early + slower*(forward - early)), valid*slower
    if row['views']: return row['views']*train + valid
    share = np.mean(np.linspace(.5, 1, args.epochs)**2) if mode == 'growing' and step != 'fastai' else 1
    # frozen fastai goes back through the body, too: it trains the batch norm
    return args.epochs*((2 if mode == 'frozen' else 3)*share*train + valid)

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, default=Path('../shared/data/congress'))
    parser.add_argument('--modes', nargs='+', default=['frozen', 'unfrozen', 'growing', 'stages'],
                        choices=['frozen', 'unfrozen', 'growing', 'stages'])
    parser.add_argument('--seeds', nargs='+', type=int, default=[42, 43, 44])
    parser.add_argument('--photos', type=int, help='so many photos, drawn at random; default: all')
    parser.add_argument('--drawn', type=int,
                        help='draw square portraits of so many pixels instead of FOLDER: 1,000, or --photos')
    parser.add_argument('--steps', nargs='+', help='only these, by the names they have in the table')
    parser.add_argument('--size', type=int, default=224)
    parser.add_argument('--epochs', type=int, default=4)
    parser.add_argument('--bs', type=int, default=64)
    parser.add_argument('--lr', type=float, default=1e-3)
    parser.add_argument('--views', type=int, default=2, help='views of each training photo while the body is frozen')
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument('--weights', default='portrait', help='as gender_learner takes them; none: from scratch')
    parser.add_argument('--hardware', default='unknown', help='the machine, in words')
    parser.add_argument('--out', type=Path, default=results, help='CSV to add the rows to')
    args = parser.parse_args()
    args.weights = None if args.weights == 'none' else args.weights
    warnings.simplefilter('ignore')
    photos = photos_from_source(
        sample_portraits(n=args.photos or 1000, size=args.drawn) if args.drawn else args.data
    ).query("problem == '' and label != ''")
    if args.photos: photos = photos.sample(min(args.photos, len(photos)), random_state=0)
    split = gender_dls(photos[['file', 'label']], size=args.size, bs=args.bs, num_workers=0).photos.query('usable')
    table = split[['file', 'label', 'split']].reset_index(drop=True)
    forward, rates, decode = machine(table, args)
    rows = []
    for mode in args.modes:
        for seed in args.seeds:
            with tempfile.TemporaryDirectory() as cache:
                for step in dict(steps(mode, cache)):
                    if args.steps and step not in args.steps: continue
                    with ProcessPoolExecutor(1, get_context('spawn')) as alone:   # to_rapid sets up its whole process
                        row = alone.submit(run, mode, cache, step, table, args, seed).result()
                    limit = operations(mode, step, row, forward, rates, table, args)/rates[row['precision']]
                    rows.append(dict(set=f'drawn, {args.drawn}' if args.drawn else args.data.name, photos=len(table),
                                     mode=mode, step=step, seed=seed, size=args.size, epochs=args.epochs, bs=args.bs)
                                | row | dict(limit=limit/row['seconds'], decode=decode/row['seconds'],
                                             hardware=args.hardware))
                    print(pd.Series(rows[-1]).to_json(), flush=True)
                    old = pd.read_csv(args.out) if args.out.exists() else pd.DataFrame()
                    pd.concat([old, pd.DataFrame(rows[-1:])]).to_csv(args.out, index=False, float_format='%.5g')
    rows = pd.DataFrame(rows)
    mean = rows.groupby(['mode', 'step'], sort=False).seconds.mean()
    ratios = {m: {s: round(mean[m, 'fastai']/mean[m, s], 2) for s in mean[m].index}
              for m in args.modes if 'fastai' in mean[m]}
    print(json.dumps(dict(photos=len(table), times_as_fast=ratios, operations_per_second=rates,
                          operations_per_photo=forward), default=float))

if __name__ == '__main__': main()
