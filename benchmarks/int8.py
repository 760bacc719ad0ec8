"""What a frozen body's features cost in each precision, and what a head learns from them:

    python benchmarks/int8.py [--data FOLDER ...] [--hardware WORDS]

FOLDER holds a folder of photos for each class; a number instead of it draws square portraits of so many
pixels. Each photo goes through the body whole, as validation sees it: in float32, in bfloat16, in the faster
of the two compiled by `torch.compile`, and in int8. Each row of benchmarks/results/int8.csv is one body in
one precision:

`prepare` and `each` are CPU seconds, of this process and the compilers that it starts, on one thread, so that
other work on the machine matters little: to prepare the network (compile it; write it down and set the ranges
by 64 photos), and of one photo, the best of five batches of 16. `off` is `disagreement` with float32, on photos
that did not set the ranges. `right` of `photos` are the answers to their features in float32 by logistic
regressions of five folds, each trained on the other folds' features in this precision.

Rows `noise .2` and so on have random noise on the features of float32, of that size as `disagreement`
measures it. JSON of each row is printed.
"""
import argparse, json, os, time, warnings
os.environ.update(TORCHINDUCTOR_COMPILE_THREADS='1',   # `cpu_seconds` counts processes that have ended
                  TORCHINDUCTOR_FORCE_DISABLE_CACHES='1')
from pathlib import Path
import numpy as np, pandas as pd, torch
from fastai.vision.all import imagenet_stats
from sklearn.linear_model import LogisticRegression
from sklearn.model_selection import StratifiedKFold
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from genderres.all import lite0, photos_from_source, resnet34, sample_portraits
from genderres.networks import build_network
from genderres.precision import autocast, disagreement, fold_batchnorm, int8_network
from genderres.predict import normalise
from genderres.reader import read_photo, to_pixels

results = Path(__file__).parent/'results/int8.csv'
cpu = torch.device('cpu')

def cpu_seconds(): return sum(os.times()[:4])   # with the processes that have ended

def read(source, n, size):
    "Normalised photos (n, 3, size, size) and their classes"
    source = sample_portraits(n=n, size=int(source)) if source.isdigit() else source
    table = photos_from_source(source).query("problem == '' and label != ''")
    table = table.sample(min(n, len(table)), random_state=0)
    pixels = np.stack([to_pixels(read_photo(o), (size, size)) for o in table.file])
    return (torch.from_numpy(np.ascontiguousarray(normalise(pixels, dict(zip(('mean', 'std'), imagenet_stats))))),
            table.label.to_numpy())

def ways(body, x, seconds):
    """Name of the precision, and a function that prepares the network and returns it as a function of photos;
    `seconds` has those of a photo in each precision so far"""
    net = fold_batchnorm(body).to(memory_format=torch.channels_last)
    def run(net, dtype):
        def f(x):
            with autocast(cpu, dtype): return net(x.contiguous(memory_format=torch.channels_last)).float()
        return f
    yield 'float32', lambda: run(net, torch.float32)
    yield 'bfloat16', lambda: run(net, torch.bfloat16)
    for name,dtype in (('float32', torch.float32), ('bfloat16', torch.bfloat16)):
        yield f'{name}, compiled', lambda: run(torch.compile(net, dynamic=False, options=dict(freezing=True)), dtype)
    yield 'int8', lambda: int8_network(body, x[:64], getattr(torch, min(('float32', 'bfloat16'), key=seconds.get)))

def features(f, x):
    "Both poolings of what `f` makes of `x`, in batches of 16"
    maps = torch.cat([f(o) for o in x.split(16)])
    return torch.cat([maps.amax((2, 3)), maps.mean((2, 3))], 1)

def right(learned, asked, y):
    "How many of `asked` are answered rightly after learning from the other folds of `learned`"
    res = 0
    for train,test in StratifiedKFold(5, shuffle=True, random_state=0).split(learned, y):
        head = make_pipeline(StandardScaler(), LogisticRegression(C=.001, max_iter=1000)).fit(learned[train], y[train])
        res += int((head.predict(asked[test]) == y[test]).sum())
    return res

@torch.no_grad()
def rows(body, x, y):
    "A row for each precision"
    exact, fastest = None, {}
    for name,make in ways(body, x, fastest):
        if name.endswith('compiled') and name.split(',')[0] != min(fastest, key=fastest.get): continue
        start = cpu_seconds()
        f = make()
        f(x[:16])
        prepare, seconds = cpu_seconds() - start, []
        for i in range(5):
            start = time.process_time()
            f(x[16*i:16*i+16])
            seconds.append((time.process_time() - start)/16)
        fastest[name] = min(seconds)
        found = features(f, x[:len(x)//16*16])
        exact = found if exact is None else exact
        yield dict(precision=name, prepare=max(prepare - 16*min(seconds), 0), each=min(seconds),
                   off=disagreement(exact[64:], found[64:]),
                   right=right(found, exact, y[:len(found)]), photos=len(found))
    torch.manual_seed(0)
    far = (exact - exact.mean(0)).norm(dim=1, keepdim=True)
    for share in (.2, .5, 1, 2, 4):
        noise = torch.randn_like(exact)*exact.std(0)
        noisy = exact + share*far*noise/noise.norm(dim=1, keepdim=True)
        yield dict(precision=f'noise {share:g}', off=disagreement(exact, noisy),
                   right=right(noisy, exact, y[:len(exact)]), photos=len(exact))

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', nargs='+',
                        default=['../shared/data/congress', '../shared/data/paper', '../shared/data/wild'])
    parser.add_argument('--sizes', nargs='+', type=int, default=[128, 224])
    parser.add_argument('--photos', type=int, default=400)
    parser.add_argument('--bodies', nargs='+', default=['resnet34'], choices=['resnet34', 'lite0'])
    parser.add_argument('--hardware', default='unknown', help='the machine, in words')
    parser.add_argument('--out', type=Path, default=results, help='CSV to add the rows to')
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    for name in args.bodies:
        body = build_network(*((resnet34, 2, 'portrait') if name == 'resnet34' else (lite0, 2, 'lite0')))[0].eval()
        for source in args.data:
            for size in args.sizes:
                x, y = read(source, args.photos, size)
                for row in rows(body, x, y):
                    row = (dict(body=name, set=f'drawn, {source}' if source.isdigit() else Path(source).name, size=size)
                           | row | dict(hardware=args.hardware))
                    print(json.dumps(row), flush=True)
                    old = pd.read_csv(args.out) if args.out.exists() else pd.DataFrame()
                    pd.concat([old, pd.DataFrame([row])]).to_csv(args.out, index=False, float_format='%.5g')

if __name__ == '__main__': main()
