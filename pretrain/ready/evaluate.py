"""Judge a body with its head on photos that it was not trained on

    python pretrain/ready/evaluate.py checkpoints/portrait/portrait.safetensors --data DATA --faces FACES.csv --out ready.csv

Scored are FairFace's test crops as they are, whole and by group and age band; the portraits of Congress of the persons whom
`train.py` held out, and the snapshots of `wild/valid` and `wild/test`, whole and cut around the largest face in the table
FACES.csv (file, x0, y0, x1, y1, in pixels). A cut stays inside the photo. A snapshot without a face is judged whole.
Writes one row for each part: right, n, accuracy and its 95% interval, and the recall of each class.
"""
import argparse
from pathlib import Path
import numpy as np, pandas as pd, torch
from PIL import Image, ImageOps
from genderres.stats import wilson
from train import VOCAB, held_out, network, normalise, square_around

def cut(
    im,        # PIL image
    box,       # Face: x0, y0, x1, y1 in pixels
    margin=.25 # See `square_around`
) -> Image.Image:
    "The square around a face, moved and shrunk until it lies inside the photo"
    cx, cy, s = square_around(box, margin)
    s = min(s, *im.size)
    x, y = (min(max(c - s/2, 0), size - s) for c,size in zip((cx, cy), im.size))
    return im.crop([round(o) for o in (x, y, x+s, y+s)])

def sets(root, faces) -> dict: # Name → table with `file`, `label` and perhaps `box`, `race`, `age`
    "The photos of each set"
    fair = pd.read_csv(root/'fairface/labels.csv').query("split == 'test'").assign(file=lambda t: 'fairface/' + t.file)
    box = pd.read_csv(faces).set_index('file')[['x0', 'y0', 'x1', 'y1']].apply(list, axis=1)
    lab = pd.read_csv(root/'congress/labels.csv')
    lab = lab[lab.person.map(lambda o: held_out(o, 5))]
    congress = pd.DataFrame(dict(file='congress/' + lab.file, label=lab.label))
    wild = pd.DataFrame([dict(file=o.relative_to(root).as_posix(), label={'man': 'men', 'woman': 'women'}[o.parent.name])
                         for part in ('valid', 'test') for o in sorted((root/'wild'/part).rglob('*.jpg'))])
    with_box = lambda t: t.assign(box=[box.get(o) for o in t.file])
    return {'FairFace test': fair, 'congress, whole photo': congress, 'congress, face': with_box(congress),
            'wild, whole photo': wild, 'wild, face where found': with_box(wild), 'wild, photos with a face': with_box(wild[wild.file.isin(box.index)])}

@torch.inference_mode()
def answers(net, root, table, size) -> np.ndarray: # (n, 2) logits
    "What the network says of each photo"
    res = []
    for part in np.array_split(np.arange(len(table)), max(1, len(table)//100)):
        ims = [ImageOps.exif_transpose(Image.open(root/table.file.iloc[i])).convert('RGB') for i in part]
        if 'box' in table: ims = [cut(im, table.box.iloc[i]) if isinstance(table.box.iloc[i], list) else im for i,im in zip(part, ims)]
        x = normalise(torch.stack([torch.from_numpy(np.array(im.resize((size, size), Image.BILINEAR))) for im in ims]))
        res.append(net(x).numpy())
    return np.concatenate(res)

def row(name, part, right, label) -> dict:
    "Accuracy with its interval, and the recall of each class"
    share, low, high = wilson(int(right.sum()), len(right))
    return dict(set=name, part=part, n=len(right), right=int(right.sum()), accuracy=share, low=low, high=high,
                **{f'recall_{o}': right[label == o].mean() for o in VOCAB})

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('weights')
    p.add_argument('--data', type=Path, required=True)
    p.add_argument('--faces', required=True)
    p.add_argument('--out', required=True)
    p.add_argument('--size', type=int, default=128)
    a = p.parse_args()
    net = network(a.weights, head=True).eval()
    rows = []
    for name,t in sets(a.data, a.faces).items():
        right = pd.Series(answers(net, a.data, t, a.size).argmax(1) == t.label.map(VOCAB.index).to_numpy(), t.index)
        rows.append(row(name, 'all', right, t.label))
        if 'race' in t:
            adult = ~t.age.isin(['0-2', '3-9', '10-19'])
            rows += [row(name, f'group: {o}, age 20 and over', right[m], t.label[m]) for o in sorted(t.race.unique()) for m in [adult & (t.race == o)]]
            rows += [row(name, f'age: {o}', right[m], t.label[m]) for o in sorted(t.age.unique()) for m in [t.age == o]]
        print(pd.DataFrame(rows)[-17 if 'race' in t else -1:].round(3).to_string(), flush=True)
    pd.DataFrame(rows).round(4).to_csv(a.out, index=False)

if __name__ == '__main__': main()
