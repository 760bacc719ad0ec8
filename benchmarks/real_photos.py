"""The paper's experiment from scratch on real photos: python benchmarks/real_photos.py [--data FOLDER] [--hardware WORDS]

FOLDER holds `congress/` (men, women; split 80 to 20 at random) and `wild/` (train, valid, test; scored on test). Each run
adds a row to benchmarks/real_photos.csv; runs that stand there already are not repeated, so it can be interrupted.
"""
import argparse, time
from pathlib import Path
import pandas as pd
from genderres.all import GenderInterpretation, gender_dls, run_experiment

results = Path(__file__).with_suffix('.csv')

def measure(folder, epochs, seed):
    "One row of results: `epochs` from scratch on `folder`, scored on its test part, else on its validation part"
    dls = gender_dls(folder)
    start = time.time()
    interp = run_experiment(dls, epochs=epochs, seed=seed)
    seconds = time.time() - start
    if len(dls.loaders) > 2: interp = GenderInterpretation.from_learner(interp.learn, ds_idx=2)
    scores = interp.scores()
    row = dict(set=folder.name, n_train=len(dls.train_ds), part='test' if len(dls.loaders) > 2 else 'validation', epochs=epochs, seed=seed,
               n=scores.n['accuracy'], majority=scores.n[1:].max()/scores.n['accuracy'])
    for name,key in zip(scores.index, ['accuracy', 'recall_men', 'recall_women']):
        row |= {key: scores.share[name], f'{key}_low': scores.low[name], f'{key}_high': scores.high[name]}
    return row | dict(seconds=seconds)

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, default=Path('../shared/data'))
    parser.add_argument('--sets', nargs='+', default=['congress', 'wild'])
    parser.add_argument('--epochs', nargs='+', type=int, default=[4, 16])
    parser.add_argument('--seeds', nargs='+', type=int, default=[42])
    parser.add_argument('--hardware', default='unknown', help='the machine, in words')
    args = parser.parse_args()
    done = pd.read_csv(results) if results.exists() else pd.DataFrame(columns=['set', 'epochs', 'seed'])
    for epochs in args.epochs:
        for name in args.sets:
            for seed in args.seeds:
                if ((done['set'] == name) & (done.epochs == epochs) & (done.seed == seed)).any(): continue
                row = measure(args.data/name, epochs, seed) | dict(hardware=args.hardware)
                done = pd.DataFrame([*done.to_dict('records'), row])
                done.to_csv(results, index=False)
                print(pd.Series(row), flush=True)

if __name__ == '__main__': main()
