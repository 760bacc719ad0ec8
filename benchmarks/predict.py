"""How fast a folder of photos is answered, beside plain fastai:

    python benchmarks/predict.py [--data FOLDER] [--hardware WORDS]

FOLDER holds a folder of photos for each class; `--drawn SIDE` draws square portraits of so many pixels
instead, since decoding rules with large photos. A new head on the portrait body is trained on a fifth of the
photos; the others are answered by plain fastai with the same weights (`learn.predict` on each photo, on the
first 100 only, and `learn.get_preds` with a `test_dl`) and by this library, all in turn, `--turns` times.
Plain fastai has a process of its own, since `to_rapid` calls `keep_memory`, which would speed it up as well.

Seconds run from file names to answers, decoding included. Each row of benchmarks/results/predict.csv is the
median of the turns; JSON with the ratios is printed.

The last way is no way to an answer: the network alone, on noise, so that `limit` says how near its forward
pass comes to the machine's matrix products.

`limit` is the share that the network's arithmetic alone would take, at the rate of this machine's matrix
products in the same precision; `decode` is what decoding alone would. `memory` is the most that the process
held while answering, in MB, the other classifiers among it.
"""
import argparse, json, tempfile, time, warnings
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context, set_start_method
from pathlib import Path
import numpy as np, pandas as pd, torch
from genderres.all import gender_dls, gender_learner, photos_from_source, sample_portraits, set_seed, wilson
from genderres.precision import autocast
from train import Peak, fastai_plain, machine

results = Path(__file__).parent/'results/predict.csv'

plain = None   # in its own process, a learner of plain fastai
def start_plain(weights, table, args):
    global plain
    warnings.simplefilter('ignore')
    set_start_method(None, force=True)   # loaders start their workers as they do in any program
    plain = fastai_plain(table, args, 'frozen')[0]
    plain.model.load_state_dict(torch.load(weights, weights_only=True))

def fastai_answers(way, files):
    with plain.no_bar():
        if way == 'learn.predict': return [int(plain.predict(o)[1]) for o in files]
        return plain.get_preds(dl=plain.dls.test_dl(files))[0].argmax(1).tolist()

def timed(answer, files):
    "Answers, seconds, and the most memory"
    with Peak() as peak:
        start = time.perf_counter()
        said = answer(files)
        seconds = time.perf_counter() - start
    return said, seconds, peak.most

def ways(learn, table, args, folder, alone):
    "Name, number of photos, precision, and what makes `timed` of a function from file names to positions of classes"
    def plainly(way): return lambda: lambda files: alone.submit(timed, partial(fastai_answers, way), files).result()
    vocab, exact, rapid = ([*learn.dls.vocab], learn.to_classifier(),
                           learn.to_classifier().to_rapid(args.photos, batch_size=args.bs))
    noise = torch.rand(args.bs, 3, args.size, args.size, device=rapid.device).to(memory_format=rapid.layout)
    @torch.inference_mode()
    def network(files):
        with autocast(rapid.device, rapid.dtype):
            for i in range(0, len(files), args.bs): out = rapid.net(noise[:len(files)-i])
        out.cpu()
    def ours(clf):
        return partial(timed, lambda files: [vocab.index(o) for o in
                                             clf.predict(files, args.bs, abstain=0., progress=False).label])
    half = str(rapid.dtype).removeprefix('torch.')
    yield 'learn.predict', 100, 'float32', plainly('learn.predict')
    yield 'learn.get_preds', None, 'float32', plainly('learn.get_preds')
    yield 'predict', None, 'float32', lambda: ours(exact)
    yield 'to_rapid', None, half, lambda: ours(rapid)
    yield 'ONNX', None, 'float32', lambda: ours(exact.to_onnx(folder/'full.onnx'))
    some = table[(table.split == 'train') | (table.index.isin(table.index[table.split == 'valid'][:200]))]
    yield ('ONNX, int8', None, 'int8',
           lambda: ours(exact.to_int8(folder/'int8.onnx', some[['file', 'label']], max_drop=.1)))
    yield 'network alone', None, half, lambda: partial(timed, network)

def made(ways, chosen):
    "The ways that can be had; an int8 file that answers worse is refused, and that is said"
    for name,n,precision,make in ways:
        if chosen and name not in chosen: continue
        try: yield name, n, precision, make()
        except ValueError as e: print(json.dumps(dict(way=name, refused=str(e))), flush=True)

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, default=Path('../shared/data/congress'))
    parser.add_argument('--drawn', type=int, help='draw square portraits of so many pixels instead')
    parser.add_argument('--photos', type=int, default=2000, help='so many to answer, at most')
    parser.add_argument('--ways', nargs='+', help='only these, by the names they have in the table')
    parser.add_argument('--size', type=int, default=224)
    parser.add_argument('--bs', type=int, default=64)
    parser.add_argument('--turns', type=int, default=3)
    parser.add_argument('--workers', type=int, default=2)
    parser.add_argument('--hardware', default='unknown', help='the machine, in words')
    parser.add_argument('--out', type=Path, default=results, help='CSV to add the rows to')
    args = parser.parse_args()
    args.weights = 'portrait'
    warnings.simplefilter('ignore')
    source = sample_portraits(n=round(args.photos*1.25), size=args.drawn) if args.drawn else args.data
    photos = photos_from_source(source).query("problem == '' and label != ''")
    photos = photos.sample(min(round(args.photos*1.25), len(photos)), random_state=0)
    set_seed(42)
    dls = gender_dls(photos[['file', 'label']], size=args.size, bs=args.bs, num_workers=args.workers,
                     valid_pct=.8, split='random')
    learn = gender_learner(dls, weights='portrait', head='fastai').to_rapid()
    with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(4)
    table = dls.photos[dls.photos.usable].reset_index(drop=True)
    ask = table[table.split == 'valid']
    files, labels = ask.file.tolist(), [dls.vocab.o2i[o] for o in ask.label]
    forward, rates, decode = machine(ask, argparse.Namespace(size=args.size, workers=args.workers))
    rows = {}
    with (tempfile.TemporaryDirectory() as folder,
          ProcessPoolExecutor(1, get_context('spawn'), start_plain, (f'{folder}/plain.pth', table, args)) as alone):
        torch.save(learn.model.state_dict(), f'{folder}/plain.pth')
        every = [*made(ways(learn, table, args, Path(folder), alone), args.ways)]
        for turn in range(args.turns):
            for name,n,precision,answer in every:
                said, seconds, memory = answer(files[:n])
                n, right = len(files[:n]), np.nan if said is None else sum(a == b for a,b in zip(said, labels))
                row = rows.setdefault(name, dict(
                    set=f'drawn, {args.drawn}' if args.drawn else args.data.name, way=name, n=n, turns=args.turns,
                    size=args.size, bs=args.bs, precision=precision, right=right,
                    **dict(zip(('accuracy', 'low', 'high'), wilson(right, n) if said else [np.nan]*3)),
                    seconds=[], memory=0))
                row['seconds'].append(seconds)
                row['memory'] = max(row['memory'], memory/2**20)
                print(json.dumps(dict(turn=turn, way=name, seconds=round(seconds, 2),
                                      photos_per_second=round(n/seconds, 1))), flush=True)
    res = pd.DataFrame(rows.values())
    res['seconds'] = res.seconds.map(np.median)
    res['speed'] = res.n/res.seconds
    res['limit'] = [r.n*forward/rates.get(r.precision, rates['float32'])/r.seconds for r in res.itertuples()]
    res['decode'] = decode/len(ask)/(1/res.speed)
    old = pd.read_csv(args.out) if args.out.exists() else pd.DataFrame()
    pd.concat([old, res.assign(hardware=args.hardware)]).to_csv(args.out, index=False, float_format='%.5g')
    speed = res.set_index('way').speed
    print(json.dumps(dict(photos=len(ask), times_as_fast={o: (speed/speed[o]).round(2).to_dict() for o in
                                                          ('learn.predict', 'learn.get_preds') if o in speed},
                          operations_per_second=rates, operations_per_photo=forward), default=float))

if __name__ == '__main__': main()
