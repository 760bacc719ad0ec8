"""Train `portrait`: a ResNet34 body and a head for men and women, from FairFace crops and two small sets of photos

    python pretrain/ready/train.py --data DATA --out checkpoints/portrait --start BODY.safetensors --views 600000

DATA holds `fairface/` (unzipped: train/, test/, labels.csv), `congress/` and `wild/`. Ctrl-C or a kill stops the run;
the same command continues from the last checkpoint. `--demo` trains on drawn portraits for about two minutes instead.
Without bfloat16 in the processor, add `--fp32`. `pack.py` turns the result into the file of the package.

The rate stays constant after a short warm-up and falls to zero over the last third (`--decay`), so that a run can be
prolonged, with a larger `--views`, as long as the rate has not begun to fall. Sizes grow with the share of views seen.
A view depends on the seed and its number alone.

The `portrait` in the package is still the distilled body of `distil.py`. This program makes its successor.
"""
import argparse, io, math, os, signal, time, zlib
from pathlib import Path
import numpy as np, pandas as pd, torch, torch.nn.functional as F
from PIL import Image, ImageEnhance
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torch.utils.data import DataLoader, Dataset
from torchvision.models import resnet34

VOCAB = ['men', 'women']
MEAN, STD = (torch.tensor(o).view(1, 3, 1, 1) for o in ([.485, .456, .406], [.229, .224, .225]))
SHARES = dict(fairface=.9, congress=.06, wild=.04)  # of the views; within a source, both classes are seen equally often
SIZES = {0.: 96, .7: 112, .92: 128}                # share of the views from which on a view has this side, in pixels

def held_out(
    name,    # A photo's or a person's name
    share=20 # One in this many is held out
) -> bool:
    "Is this one kept from training? The name alone decides"
    return zlib.crc32(str(name).encode()) % share == 0

def fairface(root) -> pd.DataFrame: # file, label, valid; the whole crop counts as the face with a quarter more on each side
    "The training crops of FairFace; one in twenty is held out, for choices and for the calibration"
    t = pd.read_csv(root/'fairface/labels.csv').query("split == 'train'")
    return pd.DataFrame(dict(source='fairface', file='fairface/' + t.file, label=t.label, valid=t.file.map(held_out)))

def others(root, faces) -> pd.DataFrame: # As `fairface`, and box
    "Portraits of Congress but for one person in five, and the training snapshots in which a face was found"
    lab = pd.read_csv(root/'congress/labels.csv')
    lab = lab[~lab.person.map(lambda o: held_out(o, 5))]
    found = pd.read_csv(faces).set_index('file')
    t = pd.concat([
        pd.DataFrame(dict(source='congress', file='congress/' + lab.file, label=lab.label)),
        pd.DataFrame([dict(source='wild', file=o.relative_to(root).as_posix(), label={'man': 'men', 'woman': 'women'}[o.parent.name])
                      for o in sorted((root/'wild/train').rglob('*.jpg'))])])
    t = t[t.file.isin(found.index)]
    return t.assign(valid=False, box=[found.loc[o, ['x0', 'y0', 'x1', 'y1']].to_list() for o in t.file])

def square_around(
    box,       # Face: x0, y0, x1, y1 in pixels
    margin=.25 # Share of the box's larger side that is added on each side
):             # Centre and side of a square, in pixels
    "The square around a face, as FairFace's crops have it"
    x0, y0, x1, y1 = box
    return (x0+x1)/2, (y0+y1)/2, max(x1-x0, y1-y0)*(1 + 2*margin)

def fill_beyond(r, a, left, top, right, bottom): # An image with these many pixels more on each side
    "What a view shows beyond the photo: its border, its mirror image, or one colour, black and white among them"
    mode = r.choice(['edge', 'symmetric', 'colour', 'black', 'white'], p=[.25, .25, .25, .15, .1])
    if mode in ('edge', 'symmetric'): return Image.fromarray(np.pad(a, ((top, bottom), (left, right), (0, 0)), mode))
    colour = {'black': (0,)*3, 'white': (255,)*3}.get(mode) or tuple(int(o) for o in r.integers(0, 256, 3))
    im = Image.new('RGB', (a.shape[1] + left + right, a.shape[0] + top + bottom), colour)
    im.paste(Image.fromarray(a), (left, top))
    return im

def crop_view(r, a, square, size): # A PIL image, `size` pixels square
    "A random crop: near the square, or wider, squashed a little, sometimes turned, also across the border of the photo"
    h, w = a.shape[:2]
    cx, cy, s = square
    scale = math.exp(r.uniform(math.log(.7), math.log(1.25)) if r.random() < .75 else r.uniform(math.log(1.2), math.log(2.6)))
    squash = math.exp(r.normal(0, .1))
    cw, ch = s*scale*squash, s*scale/squash
    x, y = cx - cw/2 + r.normal(0, .06)*cw, cy - ch/2 + r.normal(0, .06)*ch
    if r.random() < .5:                                             # inside the photo, as far as there is one
        cw, ch = min(cw, w), min(ch, h)
        x, y = min(max(x, 0), w - cw), min(max(y, 0), h - ch)
    x0, y0, x1, y1 = math.floor(x), math.floor(y), math.ceil(x + cw), math.ceil(y + ch)
    beyond = max(0, -x0), max(0, -y0), max(0, x1 - w), max(0, y1 - h)
    part = a[max(y0, 0):min(y1, h), max(x0, 0):min(x1, w)]
    im = fill_beyond(r, part, *beyond) if any(beyond) else Image.fromarray(part)
    if r.random() < .4: im = im.rotate(r.normal(0, 9), Image.BILINEAR, fillcolor=tuple(int(o) for o in r.integers(0, 256, 3)))
    how = [Image.BILINEAR, Image.BICUBIC, Image.LANCZOS][r.integers(3)]
    return im.resize((size, size), how, box=(x - x0, y - y0, min(x - x0 + cw, im.width), min(y - y0 + ch, im.height)))

def spoil(r, im): # A PIL image of the same size
    "Light, colour, resolution and compression as photos have them, and a part that is hidden"
    size = im.width
    if r.random() < .5: im = im.transpose(Image.FLIP_LEFT_RIGHT)
    if r.random() < .5: im = ImageEnhance.Brightness(im).enhance(r.uniform(.5, 1.5))
    if r.random() < .4: im = ImageEnhance.Contrast(im).enhance(r.uniform(.5, 1.5))
    if r.random() < .3: im = ImageEnhance.Color(im).enhance(r.uniform(.2, 1.8))
    if r.random() < .1: im = im.convert('L').convert('RGB')
    if r.random() < .25:
        s = int(size*r.uniform(.25, .8))
        im = im.resize((s, s), Image.BILINEAR).resize((size, size), Image.BILINEAR)
    if r.random() < .15:
        b = io.BytesIO()
        im.save(b, 'jpeg', quality=int(r.integers(15, 70)))
        im = Image.open(b).convert('RGB')
    if r.random() < .2:
        w, h = (r.uniform(.1, .4, 2)*size).astype(int)
        x, y = r.integers(0, size - w), r.integers(0, size - h)
        im.paste(tuple(int(o) for o in r.integers(0, 256, 3)), (x, y, x + w, y + h))
    return im

class Views(Dataset):
    "Endless views of decoded photos; view `i` is the same whenever it is asked for"
    def __init__(self, photos, images, size_of, seed):
        self.photos, self.images, self.size_of, self.seed, self.start = photos, images, size_of, seed, 0
        self.rows = {(s, c): np.flatnonzero((photos.source == s) & (photos.label == c) & ~photos.valid)
                     for s in photos.source.unique() for c in VOCAB}
        self.shares = np.array([SHARES.get(s, 1.)/2 for s,_ in self.rows])
        self.shares /= self.shares.sum()
        self.boxes = photos.box.to_list()
        self.y = photos.label.map(VOCAB.index).to_numpy()
    def __len__(self): return 10**9
    def __getitem__(self, i):
        i += self.start
        r = np.random.default_rng([self.seed, i])
        rows = [*self.rows.values()][r.choice(len(self.shares), p=self.shares)]
        k = rows[r.integers(len(rows))]
        a = self.images(k)
        square = square_around(self.boxes[k]) if isinstance(self.boxes[k], list) else (a.shape[1]/2, a.shape[0]/2, a.shape[1])
        return torch.from_numpy(np.array(spoil(r, crop_view(r, a, square, self.size_of(i))))), self.y[k]

def decoded(photos, root, cache): # Row number → (h, w, 3), uint8
    "Decode every photo once; crops of one size lie in one file that processes share"
    same = np.flatnonzero(photos.source == 'fairface')
    rest = {k: np.asarray(Image.open(root/photos.file[k]).convert('RGB')) for k in np.flatnonzero(photos.source != 'fairface')}
    if len(same) and not cache.exists():
        part = np.lib.format.open_memmap(cache.with_suffix('.part'), 'w+', np.uint8, (len(same), 160, 160, 3))
        for n,k in enumerate(same): part[n] = np.asarray(Image.open(root/photos.file[k]).convert('RGB'))
        part.flush()
        os.replace(cache.with_suffix('.part'), cache)
    many = np.load(cache, mmap_mode='r') if len(same) else None
    place = dict(zip(same, range(len(same))))
    return lambda k: many[place[k]] if k in place else rest[k]

def normalise(x): # (n, h, w, 3), uint8 → (n, 3, h, w), float32
    return ((x.permute(0, 3, 1, 2).float()/255 - MEAN)/STD).contiguous(memory_format=torch.channels_last)

@torch.no_grad()
def right(net, photos, images, size, fp32): # Share of right answers for each class
    "Accuracy on the held-out crops, as they are"
    net.eval()
    rows = np.flatnonzero(photos.valid)
    ok = []
    for i in range(0, len(rows), 100):
        part = rows[i:i+100]
        x = torch.stack([torch.from_numpy(np.array(Image.fromarray(images(k)).resize((size, size), Image.BILINEAR))) for k in part])
        with torch.autocast('cpu', torch.bfloat16, enabled=not fp32): ok.append(net(normalise(x)).float().argmax(1).numpy())
    y = photos.label[rows].map(VOCAB.index).to_numpy()
    ok = np.concatenate(ok) == y
    return [float(ok[y == c].mean()) for c in range(len(VOCAB))]

def network(
    start,      # Safetensors file of a ResNet34, or None for random weights
    head=False  # Use the head in the file too?
): # A ResNet34 for two classes
    "Random weights, or the body in `start` with a new head or its own"
    net = resnet34(weights=None, num_classes=len(VOCAB))
    if start:
        state = {k: v.float() if v.is_floating_point() else v for k,v in load_file(start).items() if head or not k.startswith('fc.')}
        missing, unknown = net.load_state_dict(state, strict=False)
        if unknown or {*missing} - (set() if head else {'fc.weight', 'fc.bias'}): raise ValueError(f"{start} is no ResNet34: {unknown or missing}")
    return net.to(memory_format=torch.channels_last)

def optimiser(net, lr, wd): # Weights that are matrices decay, the others do not
    "AdamW; the new head learns three times as fast as the body"
    groups = [dict(params=[p for n,p in net.named_parameters() if n.startswith('fc.') == head and (p.ndim > 1) == decays],
                   weight_decay=wd*decays, peak=lr*(3 if head else 1)) for head in (False, True) for decays in (False, True)]
    return torch.optim.AdamW(groups, lr=lr)

def rate(done, total, decay, warm=5000): # Factor for the peak rate
    "A short rise, a long level, and a fall to zero over the last `decay` of the views"
    return min(1, done/warm)*min(1., max(0., (1 - done/total)/decay))

def train(a, photos, images):
    "Go on from `out`'s checkpoint, or begin"
    out = Path(a.out)
    size_of = lambda i: next(s for at,s in reversed(SIZES.items()) if (i//a.bs*a.bs)/a.views >= at)
    torch.manual_seed(a.seed)
    net = network(a.start)
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(a.ema), use_buffers=True)
    opt = optimiser(net, a.lr, a.wd)
    done, spent, file = 0, 0., out/'state.pt'
    if file.exists():
        kept = torch.load(file, map_location='cpu', weights_only=True)
        net.load_state_dict(kept['net']); ema.load_state_dict(kept['ema']); opt.load_state_dict(kept['opt'])
        done, spent = kept['done'], kept['spent']
        print(f'continuing after {done:,} views', flush=True)
    stop = []
    for s in (signal.SIGINT, signal.SIGTERM): signal.signal(s, lambda *_: stop.append(True))

    def keep():
        torch.save(dict(net=net.state_dict(), ema=ema.state_dict(), opt=opt.state_dict(), done=done, spent=spent), out/'state.part')
        os.replace(out/'state.part', file)

    views = Views(photos, images, size_of, a.seed)
    views.start = done
    dl = DataLoader(views, a.bs, sampler=range(max(0, a.views - done)), num_workers=a.workers, prefetch_factor=4 if a.workers else None)
    losses, seen, began = [], done, time.time()
    for x, y in dl:
        net.train()
        for g in opt.param_groups: g['lr'] = g['peak']*rate(done + a.bs, a.views, a.decay)
        with torch.autocast('cpu', torch.bfloat16, enabled=not a.fp32):
            loss = F.cross_entropy(net(normalise(x)).float(), y, label_smoothing=a.smooth)
        opt.zero_grad()
        loss.backward()
        opt.step()
        ema.update_parameters(net)
        losses.append(loss.item())
        done += len(y)
        if done//a.every > seen//a.every or done >= a.views or stop:
            spent += time.time() - began
            acc = right(ema, photos, images, 128, a.fp32) if photos.valid.any() and not stop else [float('nan')]*2
            row = dict(views=done, size=x.shape[1], lr=f"{opt.param_groups[0]['lr']:.2e}", loss=round(np.mean(losses), 4),
                       **{c: round(o, 4) for c,o in zip(VOCAB, acc)}, minutes=round(spent/60, 1))
            pd.DataFrame([row]).to_csv(out/'curve.csv', mode='a', header=not (out/'curve.csv').exists(), index=False)
            print(row, flush=True)
            keep()
            losses, seen, began = [], done, time.time()
        if stop: return print('stopped; the same command continues', flush=True)
    save_file({k: v.contiguous() for k,v in ema.module.state_dict().items()}, out/'portrait.safetensors')

def drawn(n=400): # Table of photos, and a function that gives the pixels of one
    "Drawn portraits instead of photos, to try the program"
    from genderres.portraits import draw_portrait
    photos = pd.DataFrame(dict(source='drawn', label=[VOCAB[i % 2] for i in range(n)], valid=[i % 10 < 2 for i in range(n)], box=None))
    ims = [np.asarray(draw_portrait(photos.label[i], np.random.default_rng(i), size=160)) for i in range(n)]
    return photos, ims.__getitem__

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', type=Path, help='folder with fairface/, congress/ and wild/')
    p.add_argument('--faces', type=Path, help='table of faces: file, x0, y0, x1, y1; without it, only FairFace is used')
    p.add_argument('--out', required=True, help='folder for checkpoint, curve and result')
    p.add_argument('--start', help='body to start from; random weights otherwise')
    p.add_argument('--views', type=int, default=600_000)
    p.add_argument('--bs', type=int, default=64)
    p.add_argument('--lr', type=float, default=1e-3)
    p.add_argument('--wd', type=float, default=.05)
    p.add_argument('--smooth', type=float, default=.05)
    p.add_argument('--ema', type=float, default=.998)
    p.add_argument('--decay', type=float, default=.35, help='share of the views over which the rate falls')
    p.add_argument('--every', type=int, default=20_000, help='views between two checkpoints')
    p.add_argument('--workers', type=int, default=2)
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--fp32', action='store_true')
    p.add_argument('--demo', action='store_true', help='drawn portraits, 3,000 views')
    a = p.parse_args()
    Path(a.out).mkdir(parents=True, exist_ok=True)
    if a.demo: a.views, a.every, (photos, images) = 3000, 1500, drawn()
    else:
        if not a.data: p.error('--data is missing')
        photos = pd.concat([fairface(a.data), others(a.data, a.faces)] if a.faces else [fairface(a.data).assign(box=None)], ignore_index=True)
        images = decoded(photos, a.data, Path(a.out)/'fairface.npy')
    print(photos.groupby(['source', 'label', 'valid']).size().to_string(), flush=True)
    train(a, photos, images)

if __name__ == '__main__': main()
