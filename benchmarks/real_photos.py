"""The paper's experiment on real photos:

    python benchmarks/real_photos.py [--arch NAME --weights NAME] [--data FOLDER] [--hardware WORDS]

FOLDER holds `congress/` (men, women; split 80 to 20 at random) and `wild/` (train, valid, test; scored on
test). The portrait body has learned from most of congress with its labels, so it runs on wild alone. Each run
adds a row to benchmarks/results/real_photos.csv; runs that stand there already are not repeated, so it can be
interrupted. `--bf16` computes in half precision, which is faster where the processor has instructions for it.
"""
import argparse, time
from pathlib import Path
import pandas as pd
from genderres.all import Autocast, GenderInterpretation, gender_dls, run_experiment

results = Path(__file__).parent/'results/real_photos.csv'
keys = ['network', 'weights', 'class_weights', 'set', 'epochs', 'seed']

def measure(folder, epochs, seed, arch, weights, class_weights, bf16):
    "One row of results: `epochs` on `folder`, scored on its test part, else on its validation part"
    dls = gender_dls(folder, split='random')
    start = time.time()
    interp = run_experiment(dls, epochs=epochs, seed=seed, arch=arch, weights=weights, head='fastai',
                            class_weights=class_weights, cbs=Autocast() if bf16 else None)
    seconds = time.time() - start
    if len(dls.loaders) > 2: interp = GenderInterpretation.from_learner(interp.learn, ds_idx=2)
    scores = interp.scores()
    row = dict(network=arch, weights=weights or 'none', class_weights=class_weights or 'none', set=folder.name,
               n_train=len(dls.train_ds), part='test' if len(dls.loaders) > 2 else 'validation', epochs=epochs,
               seed=seed, n=scores.n['accuracy'], majority=scores.n[1:].max()/scores.n['accuracy'])
    for name,key in zip(scores.index, ['accuracy', 'recall_men', 'recall_women']):
        row |= {key: scores.share[name], f'{key}_low': scores.low[name], f'{key}_high': scores.high[name]}
    return row | dict(seconds=seconds, precision='bfloat16' if bf16 else 'float32')

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, default=Path('../shared/data'))
    parser.add_argument('--sets', nargs='+', default=['congress', 'wild'])
    parser.add_argument('--arch', default='resnet34')
    parser.add_argument('--weights', help='as gender_learner takes them; default: from scratch')
    parser.add_argument('--class-weights', choices=['balanced'], help='default: every photo counts alike')
    parser.add_argument('--epochs', nargs='+', type=int, default=[4, 12])
    parser.add_argument('--seeds', nargs='+', type=int, default=[42])
    parser.add_argument('--hardware', default='unknown', help='the machine, in words')
    parser.add_argument('--bf16', action='store_true')
    args = parser.parse_args()
    done = pd.read_csv(results, keep_default_na=False) if results.exists() else pd.DataFrame(columns=keys)
    for epochs in args.epochs:
        for name in args.sets:
            for seed in args.seeds:
                key = [args.arch, args.weights or 'none', args.class_weights or 'none', name, epochs, seed]
                if (done[keys] == key).all(axis=1).any(): continue
                row = (measure(args.data/name, epochs, seed, args.arch, args.weights, args.class_weights, args.bf16)
                       | dict(hardware=args.hardware))
                done = pd.DataFrame([*done.to_dict('records'), row])
                done.to_csv(results, index=False)
                print(pd.Series(row), flush=True)

if __name__ == '__main__': main()
