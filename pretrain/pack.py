"""Put a trained body and head into the package

    python pretrain/pack.py checkpoints/portrait --data DATA --figures ready.csv

The folder is `train.py`'s, ready.csv comes from `evaluate.py`. The crops that `train.py` held out give the
temperature, and the probability below which the answer is "unsure", so that at most 5% of the answers given
are wrong, with 95% confidence.
"""
import argparse, json, os
from datetime import date
from pathlib import Path
import numpy as np, pandas as pd, torch
from safetensors.torch import load_file, save_file
from genderres.calibrate import choose_threshold, fit_temperature
from genderres.weights import classifier_digest
from genderres.photos import presented
from train import VOCAB, fairface, logits_of, network, read_square

SIZE, RISK = 128, .05

def held_out_logits(net, root) -> tuple: # (n, 2) logits and (n,) labels
    "What the network says of the held-out crops"
    t = fairface(root).query('valid')
    x = torch.from_numpy(np.stack([read_square(root/o, None) for o in t.file]))
    return logits_of(net, x, SIZE), t.label.map(VOCAB.index).to_numpy()

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('run', type=Path)
    p.add_argument('--data', type=Path, required=True)
    p.add_argument('--figures', required=True)
    p.add_argument('--out', type=Path, default=Path(__file__).parents[1]/'genderres'/'portrait.safetensors')
    a = p.parse_args()
    state = {k: v.half().contiguous() if v.is_floating_point() else v
             for k,v in load_file(a.run/'portrait.safetensors').items()}
    save_file(state, a.run/'half.safetensors')
    net = network(a.run/'half.safetensors', head=True).eval()
    logits, targs = held_out_logits(net, a.data)
    probs = torch.tensor(logits).softmax(1).numpy()
    temperature = fit_temperature(probs, targs)
    tempered = torch.tensor(logits/temperature).softmax(1).numpy()
    chosen = choose_threshold(tempered.max(1), tempered.argmax(1) == targs, RISK)
    curve = pd.read_csv(a.run/'curve.csv').iloc[-1]
    facts = dict(
        format=1, arch='resnet34', head='linear', faces='largest', vocab=VOCAB, size=[SIZE]*2,
        mean=[.485, .456, .406], std=[.229, .224, .225],
        temperature=temperature, abstain=float(chosen.threshold), trained_on='',
        trained=dict(
            photos='FairFace (Kärkkäinen and Joo, WACV 2021, CC BY 4.0): 37,472 face crops; '
                   'official portraits of members of the US Congress (public domain): 1,901; '
                   'Open Images V4 training snapshots (CC BY 2.0): 727. It began from a body that had been distilled '
                   "without labels from EfficientNet-Lite0's ImageNet features and dlib's descriptors of faces",
            attribution='FairFace: Face Attribute Dataset for Balanced Race, Gender, and Age, '
                        'Kimmo Kärkkäinen and Jungseock Joo, WACV 2021, CC BY 4.0',
            views=int(curve.views), minutes=float(curve.minutes), program='pretrain/train.py', labels=presented,
            calibration=dict(photos=len(targs), temperature=temperature, risk=RISK, chosen=chosen.to_dict()),
            scores={f'{r.set}, {r.part}': dict(n=r.n, right=r.right, low=r.low, high=r.high)
                    for r in pd.read_csv(a.figures).itertuples()},
            date=date.today().isoformat(), licence='Apache-2.0'))
    out = a.out
    save_file(state, out, dict(format='pt', sha256=classifier_digest(state, facts),
                               genderres=json.dumps(facts, sort_keys=True)))
    os.chmod(out, 0o644)   # safetensors makes it readable for its owner alone
    print(json.dumps({k: facts[k] for k in ('temperature', 'abstain')}), chosen.to_dict(), out.stat().st_size)

if __name__ == '__main__': main()
