"""What a frozen body knows: a logistic regression on its 512 pooled features, five-fold, with intervals.

Sets: `wild_faces` (close-ups, 1.6 times dlib's box, of wild/valid), `choose_faces` (the same of wild/valid and
wild/train, whose photos the bodies saw without labels: for choosing between recipes), `congress` (whole photos of the
persons held out by `distil.held_out`) and `wild_whole` (wild/valid). `--final` adds the same of wild/test.
A photo or crop is squashed to `--size` px. `explained.py` measures without labels.
"""
import argparse, math, sys
from pathlib import Path
import numpy as np, pandas as pd, torch
from PIL import Image
from safetensors.torch import load_file
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import balanced_accuracy_score, roc_auc_score
from sklearn.model_selection import StratifiedKFold, cross_val_predict
from sklearn.pipeline import make_pipeline
from sklearn.preprocessing import StandardScaler
from torchvision.models import resnet34
sys.path.insert(0, str(Path(__file__).parent))
import distil

def wilson(
    k,       # Right answers
    n,       # Photos
    z=1.96,
)-> tuple:   # 95% interval of the share
    "Wilson's interval"
    p, d = k/n, 1+z*z/n
    m, h = (p+z*z/2/n)/d, z*math.sqrt(p*(1-p)/n+z*z/4/n/n)/d
    return m-h, m+h

def close_ups(
    root,    # Data folder
    npz,     # `faces.py`'s file
    files,   # Photos
    crop=True, # Cut the face out; photos without one are left out
    grow=1.6,# Size of a close-up in face boxes
)-> tuple:   # images, 1 for a woman, descriptors
    "Crops or photos, in the size they have"
    z = np.load(npz); face = {f: (b, d) for f,b,d in zip(z['photo'], z['box'], z['desc'])}
    ims, ys, ds = [], [], []
    for f in files:
        b, d = face[str(f.relative_to(root))]
        if crop and b[2] <= 0: continue
        im = Image.open(f).convert('RGB'); w,h = im.size
        if crop:
            x, y, s = (b[0]+b[2])/2*w, (b[1]+b[3])/2*h, grow*((b[2]-b[0])*w+(b[3]-b[1])*h)/4
            im = im.crop([round(o) for o in (max(0, x-s), max(0, y-1.1*s), min(w, x+s), min(h, y+.9*s))])
        ims.append(im); ys.append(f.parent.name in ('woman', 'women')); ds.append(d)
    return ims, np.array(ys, int), np.stack(ds)

def sets(
    root,    # Data folder
    npz,     # `faces.py`'s file
    final,   # wild/test too
    only=(), # Names of the sets; default: all
)-> dict:    # name -> what `close_ups` gives
    "The photos to be told"
    wild = lambda s: sorted((root/'wild'/s).rglob('*.jpg'))
    lab = pd.read_csv(root/'congress/labels.csv')
    r = dict(wild_faces=(wild('valid'), True), choose_faces=(wild('valid')+wild('train'), True),
             congress=([root/'congress'/f for f,p in zip(lab.file, lab.person) if distil.held_out(p)], False), wild_whole=(wild('valid'), False))
    if final: r |= dict(test_faces=(wild('test'), True), test_whole=(wild('test'), False))
    return {k: close_ups(root, npz, *v) for k,v in r.items() if not only or k in only}

@torch.inference_mode()
def features(
    net,     # Bytes as floats n x 3 x h x w to features
    ims,     # PIL images
    size,    # Pixels
    half,    # Compute in bfloat16
)-> np.ndarray:
    "The features of every image, squashed to a square"
    xs = torch.from_numpy(np.stack([np.asarray(i.resize((size, size), Image.BILINEAR)) for i in ims])).permute(0,3,1,2)
    with torch.autocast('cpu', torch.bfloat16, enabled=half):
        return torch.cat([net(x.float().contiguous(memory_format=torch.channels_last)).float() for x in xs.split(64)]).numpy()

def network(
    what,    # `random`, `lite0`, or a safetensors body
    teacher, # Lite0's file
):
    "From bytes to pooled features"
    if what == 'lite0':
        m = distil.Lite0(teacher).to(memory_format=torch.channels_last)
        return lambda x: m(x)[-1]
    torch.manual_seed(0); m = resnet34(weights=None); m.fc = torch.nn.Identity()
    if what != 'random': m.load_state_dict({k: v.float() if v.is_floating_point() else v for k,v in load_file(what).items()})
    m = m.eval().to(memory_format=torch.channels_last)
    return lambda x: m((x/255-distil.MEAN)/distil.STD)

def probe(
    x,       # Features
    y,       # Labels
)-> dict:    # Figures in per cent
    "Five-fold figures of a frozen representation"
    cv = StratifiedKFold(5, shuffle=True, random_state=0)
    p = cross_val_predict(make_pipeline(StandardScaler(), LogisticRegression(max_iter=3000)), x, y, cv=cv, method='predict_proba')[:,1]
    ok = ((p > .5) == y).sum(); lo, hi = wilson(ok, len(y))
    r = dict(acc=ok/len(y), lo=lo, hi=hi, balanced=balanced_accuracy_score(y, p > .5), auc=roc_auc_score(y, p))
    return dict(n=len(y), **{k: round(100*float(v), 1) for k,v in r.items()})

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('bodies', nargs='+', help='safetensors files, or random, lite0')
    p.add_argument('--data', required=True); p.add_argument('--faces', required=True); p.add_argument('--teacher')
    p.add_argument('--out', required=True, help='CSV file, appended to'); p.add_argument('--size', type=int, nargs='+', default=[128])
    p.add_argument('--name', help='in the table, instead of the path'); p.add_argument('--final', action='store_true')
    p.add_argument('--sets', help='only these, with commas'); p.add_argument('--fp32', action='store_true', help='for a processor without bfloat16')
    a = p.parse_args(); rows = []
    ss = sets(Path(a.data), a.faces, a.final, a.sets.split(',') if a.sets else ())
    for b in a.bodies:
        net = network(b, a.teacher)
        for s in a.size:
            for n,(ims,y,_) in ss.items():
                rows.append(dict(body=a.name or b, size=s, set=n, **probe(features(net, ims, s, not a.fp32), y)))
                print(rows[-1], flush=True)
    pd.DataFrame(rows).to_csv(a.out, mode='a', index=False, header=not Path(a.out).exists())

if __name__ == '__main__': main()
