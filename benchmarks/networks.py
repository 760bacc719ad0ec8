"""The paper's comparisons, from scratch:

    python benchmarks/networks.py [--data FOLDER] [--sets drawn congress] [--hardware WORDS]

With shortcuts and without (`resnet34`, `plain34`), by depth (`resnet18`, `resnet34`, `resnet50`), and with
the normal and the small stem: four epochs each, three seeds. `drawn` are 600 drawn portraits, two thirds to
train on; `congress` are all women of FOLDER/congress and as many of the men, three quarters to train on. Each
run adds a row to benchmarks/results/networks.csv; runs that stand there already are not repeated, so it can
be interrupted.

Speeds are images a second of processor time on one core, the network alone, batches of 16, the best of three.
`losses` is the smoothed training loss after each batch.
"""
import argparse, json, time
from pathlib import Path
import pandas as pd, torch
from genderres.all import gender_dls, photos_from_folder, run_experiment, sample_portraits

results = Path(__file__).parent/'results/networks.csv'
keys = ['network', 'stem', 'set', 'size', 'seed']
seeds = [42, 1, 2]
plan = [*((a, 'normal', s, 64) for s in ('drawn', 'congress') for a in ('resnet34', 'plain34')),
        ('resnet18', 'normal', 'drawn', 64), ('resnet50', 'normal', 'drawn', 64), ('resnet18', 'small', 'drawn', 64)]

def photos(name, folder):
    "The labelled photos of a set, as many of each class, and the share to validate on"
    if name == 'drawn': return photos_from_folder(sample_portraits(n=600)), 1/3
    found = photos_from_folder(folder/name).query("problem == ''")
    return found.groupby('label').sample(n=found.label.value_counts().min(), random_state=0), 1/4

def best(f, n):
    "Images a second of processor time"
    times = []
    for _ in range(4):
        start = time.process_time()
        f()
        times.append(time.process_time() - start)
    return n/min(times[1:])   # the first warms up

def speeds(learn, size):
    "Training and answering, without reading photos"
    x, y = torch.randn(16, 3, size, size).to(memory_format=torch.channels_last), torch.arange(16) % 2
    model = learn.model.train()
    def step():
        torch.nn.functional.cross_entropy(model(x), y).backward()
        learn.opt.step()
        learn.opt.zero_grad()
    train = best(step, 16)
    model.eval()
    with torch.inference_mode(): return dict(train_speed=train, speed=best(lambda: model(x), 16))

def measure(network, stem, name, size, seed, folder):
    "One row of results"
    found, valid_pct = photos(name, folder)
    dls = gender_dls(found[['file', 'label']], size=size, bs=16, num_workers=0,
                     split='random', seed=seed, valid_pct=valid_pct)
    interp = run_experiment(dls, seed=seed, arch=network, stem=stem)
    scores, rec = interp.scores(), interp.learn.recorder
    row = dict(network=network, stem=stem, set=name, size=size, seed=seed, n_train=len(dls.train_ds),
               n=scores.n['accuracy'], right=scores.right['accuracy'])
    for key in scores.index:
        row |= {f'{key.replace(" ", "_")}{"" if o == "share" else "_" + o}': scores[o][key]
                for o in ('share', 'low', 'high')}
    row |= dict(parameters=sum(o.numel() for o in interp.learn.model.parameters()),
                losses=json.dumps([round(float(o), 4) for o in rec.losses]),
                valid_losses=json.dumps([round(o[1], 4) for o in rec.values]))
    return row | speeds(interp.learn, size)   # last, since it spoils the network

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', type=Path, default=Path('../shared/data'))
    parser.add_argument('--sets', nargs='+', choices=['drawn', 'congress'], default=['drawn', 'congress'])
    parser.add_argument('--hardware', default='unknown', help='the machine, in words')
    args = parser.parse_args()
    torch.set_num_threads(1)
    done = pd.read_csv(results) if results.exists() else pd.DataFrame(columns=keys)
    for network,stem,name,size,seed in sorted([(*o, seed) for seed in seeds for o in plan],
                                              key=lambda o: o[1] == 'small'):   # the slowest last
        if name not in args.sets or (done[keys] == [network, stem, name, size, seed]).all(axis=1).any(): continue
        if name == 'congress' and not (args.data/name).is_dir():
            print(f'left out, since there is no {args.data/name}: {network}, seed {seed}')
            continue
        row = measure(network, stem, name, size, seed, args.data) | dict(hardware=args.hardware)
        pd.DataFrame([row]).to_csv(results, mode='a', header=not results.exists(), index=False)
        print(pd.Series(row).drop(['losses', 'valid_losses']).to_dict(), flush=True)

if __name__ == '__main__': main()
