"""Train `portrait`: a ResNet34 body and a head for men and women,
from FairFace crops and two small sets of photos

    python pretrain/train.py --data DATA --faces FACES.csv --out checkpoints/portrait --start BODY.safetensors

DATA holds `fairface/` (unzipped: train/, test/, labels.csv), `congress/` and `wild/`; FACES.csv, from
`faces.py`, has the largest face of each photo of the latter two.

Ctrl-C or a kill stops the run; the same command continues from the last checkpoint. `--demo` trains on drawn
portraits for about two minutes instead. A GPU is used where there is one, bfloat16 unless `--fp32` is given.

The rate stays constant after a short warm-up and falls to zero over the last third (`--decay`), so that a run
can be prolonged, with a larger `--views`, as long as the rate has not begun to fall. Sizes grow with the
share of views seen. On one kind of device, the views of a batch depend on the seed and the batch's number
alone.
"""
import argparse, math, os, signal, time, zlib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
import numpy as np, pandas as pd, torch, torch.nn.functional as F
from PIL import Image
from safetensors.torch import load_file, save_file
from torch.optim.swa_utils import AveragedModel, get_ema_multi_avg_fn
from torchvision.models import resnet34

VOCAB = ['men', 'women']
AGES = ['0-2', '3-9', '10-19', '20-29', '30-39', '40-49', '50-59', '60-69', '70+']
GROUPS = ['Black', 'East Asian', 'Indian', 'Latino Hispanic', 'Middle Eastern', 'Southeast Asian', 'White']
HEADS = dict(label=VOCAB, age=AGES, race=GROUPS)   # What the network learns to tell; only the first is kept
MEAN, STD = [.485, .456, .406], [.229, .224, .225]
SIDE = 160                                         # Photos wait in memory as squares of this side, in pixels
REACH = 2.4                                        # Side of the square around a face that is kept, in faces
SHARES = dict(fairface=.9, congress=.06, wild=.04) # Of the views
SIZES = {0.: 96, .65: 112, .9: 128}                # Share of the views from which on a view has this side, in pixels

## The photos

def held_out(
    name,    # A photo's or a person's name
    share=20 # One in this many is held out
) -> bool:
    "Is this one kept from training? The name alone decides"
    return zlib.crc32(str(name).encode()) % share == 0

def fairface(
    root,    # Folder with `fairface/`
    share=20 # One crop in this many is held out
) -> pd.DataFrame: # source, file, label, age, race, valid
    "The training crops of FairFace; some are held out, for choices and for the calibration"
    t = pd.read_csv(root/'fairface/labels.csv').query("split == 'train'")
    return t.assign(source='fairface', file='fairface/' + t.file,
                    valid=t.file.map(lambda o: held_out(o, share))).drop(columns='split')

def others(root, faces) -> pd.DataFrame: # source, file, label, valid, box; each photo twice: around its face, and whole
    "Portraits of Congress but for one person in five, and the training snapshots in which a face was found"
    lab = pd.read_csv(root/'congress/labels.csv')
    lab = lab[~lab.person.map(lambda o: held_out(o, 5))]
    found = pd.read_csv(faces).set_index('file')
    t = pd.concat([
        pd.DataFrame(dict(source='congress', file='congress/' + lab.file, label=lab.label)),
        pd.DataFrame([
            dict(source='wild', file=o.relative_to(root).as_posix(),
                 label={'man': 'men', 'woman': 'women'}[o.parent.name])
            for o in sorted((root/'wild/train').rglob('*.jpg'))])])
    t = t[t.file.isin(found.index)].assign(valid=False)
    return pd.concat([t.assign(box=[found.loc[o, ['x0', 'y0', 'x1', 'y1']].to_list() for o in t.file]),
                      t.assign(box=None)])

def square_around(
    box,   # Face: x0, y0, x1, y1 in pixels
    size,  # Width and height of the photo
    reach  # Side of the square, in the larger sides of the box
): # x0, y0, x1, y1
    "A square around a face, moved and shrunk until it lies inside the photo"
    s = min(reach*max(box[2]-box[0], box[3]-box[1]), *size)
    x, y = (min(max((a+b)/2 - s/2, 0), n - s) for a,b,n in zip(box[:2], box[2:], size))
    return x, y, x+s, y+s

def read_square(file, box): # (3, side, side), uint8
    "The surroundings of a face, or the whole photo squashed to a square"
    im = Image.open(file).convert('RGB')
    if isinstance(box, list): im = im.crop([round(o) for o in square_around(box, im.size, REACH)])
    return np.asarray(im.resize((SIDE, SIDE), Image.BICUBIC)).transpose(2, 0, 1)

def read_all(photos, root, cache) -> torch.Tensor: # (n, 3, side, side), uint8
    "Decode every photo once"
    if not cache.exists():
        part = np.lib.format.open_memmap(cache.with_suffix('.part'), 'w+', np.uint8, (len(photos), 3, SIDE, SIDE))
        def put(k): part[k] = read_square(root/photos.file[k], photos.box[k])
        with ThreadPoolExecutor() as pool: [*pool.map(put, range(len(photos)))]
        part.flush()
        os.replace(cache.with_suffix('.part'), cache)
    return torch.from_numpy(np.load(cache, mmap_mode='c'))

def chances(photos) -> np.ndarray: # For each photo, the chance to be the next view
    """Each source has its share; in it, each class of each group of people has the same; few of one age are seen
    somewhat more often. A held-out photo is never seen"""
    t = photos[~photos.valid]
    w = 1/t.groupby(['source', 'label', 'race'], dropna=False).label.transform('size')
    w *= t.groupby(['source', 'age'], dropna=False).label.transform('size')**-.25
    w *= t.source.map(lambda o: SHARES.get(o, 1))/w.groupby(t.source).transform('sum')
    return (w/w.sum()).reindex(photos.index, fill_value=0.).to_numpy()

## Views: on a batch, on the device

def crop_views(
    x,    # (n, 3, side, side), values from 0 to 1
    face, # Does the square hold a face's surroundings, `REACH` faces wide? (n,)
    size, # Side of a view, in pixels
    g     # Random generator on the device
) -> torch.Tensor: # (n, 3, size, size)
    "Near the face or wider, squashed a little, sometimes turned or mirrored, also across the border of the photo"
    n, dev = len(x), x.device
    rand = lambda *s: torch.rand(*s, generator=g, device=dev)
    normal = lambda *s: torch.randn(*s, generator=g, device=dev)
    between = lambda lo, hi: torch.exp(math.log(lo) + math.log(hi/lo)*rand(n))
    scale = torch.where(rand(n) < .75, between(.7, 1.25), between(1.2, 2.6))*torch.where(face, 1.5/REACH, 1.)
    squash = torch.exp(.1*normal(n))
    half = torch.stack([scale*squash, scale/squash], 1)          # of the canvas, which reaches from -1 to 1
    centre = .12*half*normal(n, 2)
    inside = (rand(n) < .5)[:, None]
    half = torch.where(inside, half.clamp(max=1), half)
    centre = torch.where(inside, torch.minimum(torch.maximum(centre, half-1), 1-half), centre)
    turn = torch.where(rand(n) < .4, .16*normal(n), 0.)
    mirror = torch.where(rand(n) < .5, -1., 1.)
    at = (torch.arange(2*size, device=dev) + .5)/size - 1  # twice as fine as the view, averaged below
    v, u = torch.meshgrid(at, at, indexing='ij')
    u, v = (half[:, :1, None]*mirror[:, None, None]*u, half[:, 1:, None]*v)
    c, s = turn.cos()[:, None, None], turn.sin()[:, None, None]
    grid = torch.stack([c*u - s*v, s*u + c*v], -1) + centre[:, None, None]
    beyond = (grid.abs().amax(-1, keepdim=True) > 1).permute(0, 3, 1, 2)
    how = rand(n)[:, None, None, None]                     # beyond the photo: its border, its mirror image, or a colour
    grid = torch.where((how >= .25) & (how < .5), ((grid + 1) % 4 - 2).abs().neg() + 1, grid)
    y = F.grid_sample(x, grid, padding_mode='border', align_corners=False)
    colour = torch.where(how < .75, rand(n, 3, 1, 1), torch.where(how < .9, 0., 1.))
    return F.avg_pool2d(torch.where(beyond & (how >= .5), colour, y), 2)

def relight(x, g): # As `x`
    "Brightness, contrast, saturation, tint, grey, and light that falls from one side"
    n, size, dev = len(x), x.shape[-1], x.device
    rand = lambda *s: torch.rand(*s, 1, 1, generator=g, device=dev)
    some = lambda p, y: torch.where(rand(n, 1) < p, y, x)
    grey = lambda: x.mean(1, keepdim=True)
    x = some(.4, x*torch.exp2(rand(n, 1)*1.7 - .95))
    x = some(.15, x.clamp(0, 1)**torch.exp2(rand(n, 1)*1.4 - .7))
    x = some(.25, (m := grey().mean((2, 3), keepdim=True)) + (x - m)*(.5 + rand(n, 1)))
    x = some(.2, (m := grey()) + (x - m)*(.2 + 1.6*rand(n, 1)))
    x = some(.1, x*(.8 + .4*rand(n, 3)))
    x = some(.08, grey().expand_as(x))
    at = torch.linspace(-1, 1, size, device=dev)
    x = some(.15, x*torch.exp((rand(n, 1) - .5)*2*at + (rand(n, 1) - .5)*2*at[:, None]))
    return x.clamp(0, 1)

LUMA = torch.tensor([[.299, .587, .114], [-.1687, -.3313, .5], [.5, -.4187, -.0813]])
_k = torch.arange(8.)
COSINES = torch.cos((2*_k + 1)*_k[:, None]*math.pi/16)*torch.where(_k[:, None] == 0, .125**.5, .5)
STEPS = 10 + 4*(_k + _k[:, None]) + 3*torch.maximum(_k, _k[:, None])   # near the table of the JPEG standard

def compress(
    x,     # (n, 3, h, w), values from 0 to 1, sides that 8 divides
    coarse # Factor for the steps in which a JPEG file keeps its cosines
): # As `x`
    "What JPEG leaves of an image: cosines of blocks of 8×8, rounded"
    n, _, h, w = x.shape
    m, c, steps = LUMA.to(x), COSINES.to(x), STEPS.to(x)*coarse/255
    b = torch.einsum('oc,nchw->nohw', m, x).view(n, 3, h//8, 8, w//8, 8).transpose(3, 4)
    b = ((c@b@c.T)/steps).round()*steps
    y = (c.T@b@c).transpose(3, 4).reshape(n, 3, h, w)
    return torch.einsum('oc,nchw->nohw', torch.linalg.inv(m), y)

def spoil(x, g): # As `x`
    "Low resolution, noise and compression in parts of the batch, and a rectangle that is hidden"
    n, _, size, _ = x.shape
    dev = x.device
    rand = lambda *s: torch.rand(*s, generator=g, device=dev)
    draw = np.random.default_rng(int(torch.randint(2**31, (1,), generator=g, device=dev)))
    parts = [*torch.arange(n, device=dev).chunk(16)]
    for k in parts[:3]:
        s = int(size*draw.uniform(.18, .8))
        x[k] = F.interpolate(F.interpolate(x[k], (s, s), mode='area'), (size, size), mode='bilinear')
    for k in parts[2:4]: x[k] = compress(x[k], draw.uniform(.8, 4.))
    for k in parts[4:5]: x[k] += .1*rand(len(k), 1, 1, 1)*torch.randn(x[k].shape, generator=g, device=dev)
    at = torch.arange(size, device=dev)/size
    lo = rand(n, 2)*1.1 - .2
    hi = lo + .1 + .35*rand(n, 2)
    cover = [(at >= lo[:, i:i+1]) & (at < hi[:, i:i+1]) for i in (0, 1)]
    hide = (cover[0][:, :, None] & cover[1][:, None] & (rand(n) < .15)[:, None, None])[:, None]
    return torch.where(hide, rand(n, 3, 1, 1), x).clamp(0, 1)

def normalise(x): # (n, 3, h, w), values from 0 to 1; the same for the network
    m, s = (torch.tensor(o, device=x.device).view(1, 3, 1, 1) for o in (MEAN, STD))
    return ((x - m)/s).contiguous(memory_format=torch.channels_last)

class Views:
    "Batches of views of decoded photos; batch `i` is the same whenever it is asked for"
    def __init__(self, photos, pixels, a, device):
        self.pixels, self.a, self.device = pixels.to(device), a, device
        self.p = torch.tensor(chances(photos), dtype=torch.float32, device=device)
        self.face = torch.tensor([isinstance(o, list) for o in photos.box], device=device)
        self.y = torch.stack([
            torch.tensor(photos[c].map({o: i for i,o in enumerate(v)}).fillna(-1).astype(int).to_numpy())
            for c,v in HEADS.items()], 1).to(device)
    def __call__(self, i, size): # (bs, 3, size, size), for the network, and (bs, heads); -1 where a label is missing
        g = torch.Generator(self.device).manual_seed(self.a.seed*1_000_003 + i)
        k = torch.multinomial(self.p, self.a.bs, replacement=True, generator=g)
        with torch.no_grad():
            x = crop_views(self.pixels[k].float()/255, self.face[k], size, g)
            if np.random.default_rng([self.a.seed, i]).random() < self.a.spoiled: x = spoil(relight(x, g), g)
            return normalise(x), self.y[k]

## The network

def network(
    start,      # Safetensors file of a ResNet34, or None for random weights
    head=False, # Use the head in the file too, the one for two classes?
    out=len(VOCAB)
): # A ResNet34
    "Random weights, or the body in `start` with a new head or its own"
    net = resnet34(weights=None, num_classes=out)
    if start:
        state = {k: v.float() if v.is_floating_point() else v
                 for k,v in load_file(start).items() if head or not k.startswith('fc.')}
        missing, unknown = net.load_state_dict(state, strict=False)
        if unknown or {*missing} - (set() if head else {'fc.weight', 'fc.bias'}):
            raise ValueError(f"{start} is no ResNet34: {unknown or missing}")
    return net.to(memory_format=torch.channels_last)

def optimiser(net, lr, wd, fused): # Weights that are matrices decay, the others do not
    "AdamW; the new head learns three times as fast as the body"
    groups = [dict(params=[p for n,p in net.named_parameters()
                           if n.startswith('fc.') == head and (p.ndim > 1) == decays],
                   weight_decay=wd*decays, peak=lr*(3 if head else 1))
              for head in (False, True) for decays in (False, True)]
    return torch.optim.AdamW(groups, lr=lr, fused=fused)

def rate(done, total, decay, warm): # Factor for the peak rate
    "A short rise, a long level, and a fall to zero over the last `decay` of the views"
    return min(1, done/warm)*min(1., max(0., (1 - done/total)/decay))

def loss_of(
    out,    # (n, sum of classes) logits of all heads
    y,      # (n, heads)
    smooth, # Label smoothing
    aux     # Weight of the heads but the first
): # A number
    "Cross-entropy of men and women, and of age and group, which help the body along"
    parts = out.split([len(o) for o in HEADS.values()], 1)
    losses = [F.cross_entropy(o, y[:, i], label_smoothing=smooth, ignore_index=-1, reduction='sum')
              /(y[:, i] >= 0).sum().clamp(min=1) for i,o in enumerate(parts[:None if aux else 1])]
    return losses[0] + aux*sum(losses[1:])

@torch.no_grad()
def logits_of(net, x, size, fp32=True) -> np.ndarray: # (n, classes), from (n, 3, h, w), uint8
    "Answers for photos as they are"
    net.eval()
    res = []
    for o in x.split(250):
        o = o.to(next(net.parameters()).device).float()/255
        if o.shape[-1] != size: o = F.interpolate(o, (size, size), mode='bilinear', antialias=True)
        with torch.autocast(o.device.type, torch.bfloat16, enabled=not fp32):
            res.append(net(normalise(o))[:, :len(VOCAB)].float().cpu())
    return torch.cat(res).numpy()

def train(a, photos, pixels, device):
    "Go on from `out`'s checkpoint, or begin"
    out = Path(a.out)
    torch.manual_seed(a.seed)
    net = network(a.start, out=sum(map(len, HEADS.values()))).to(device)
    ema = AveragedModel(net, multi_avg_fn=get_ema_multi_avg_fn(a.ema), use_buffers=True)
    opt = optimiser(net, a.lr, a.wd, device.type == 'cuda')
    views = Views(photos, pixels, a, device)
    held = np.flatnonzero(photos.valid)
    truth = photos.label[held].map(VOCAB.index).to_numpy()
    step, spent, file = 0, 0., out/'state.pt'
    if file.exists():
        kept = torch.load(file, map_location=device, weights_only=True)
        net.load_state_dict(kept['net']); ema.load_state_dict(kept['ema']); opt.load_state_dict(kept['opt'])
        step, spent = kept['step'], kept['spent']
        print(f'continuing after {step*a.bs:,} views', flush=True)
    stop = []
    for s in (signal.SIGINT, signal.SIGTERM): signal.signal(s, lambda *_: stop.append(True))

    def keep():
        torch.save(dict(net=net.state_dict(), ema=ema.state_dict(), opt=opt.state_dict(), step=step, spent=spent),
                   out/'state.part')
        os.replace(out/'state.part', file)

    steps, every = a.views//a.bs, max(1, a.every//a.bs)
    losses, began = [], time.time()
    while step < steps:
        share = step/steps
        x, y = views(step, next(s for at,s in reversed(SIZES.items()) if share >= at))
        net.train()
        for group in opt.param_groups: group['lr'] = group['peak']*rate(step*a.bs, a.views, a.decay, 5000*a.bs/64)
        mix = np.random.default_rng([a.seed, step]).beta(a.mixup, a.mixup) if a.mixup and share < .9 else 1.
        if mix < 1: x = mix*x + (1 - mix)*x.flip(0)
        with torch.autocast(device.type, torch.bfloat16, enabled=not a.fp32): o = net(x).float()
        loss = loss_of(o, y, a.smooth, a.aux)
        if mix < 1: loss = mix*loss + (1 - mix)*loss_of(o, y.flip(0), a.smooth, a.aux)
        opt.zero_grad()
        loss.backward()
        opt.step()
        ema.update_parameters(net)
        losses.append(loss.detach())
        step += 1
        if step % every == 0 or step == steps or stop:
            mean = torch.stack(losses).mean().item()
            spent += time.time() - began
            ok = (logits_of(ema, pixels[held], 128, a.fp32).argmax(1) == truth if len(held) and not stop
                  else np.full(len(held), np.nan))
            row = dict(views=step*a.bs, size=x.shape[-1], lr=f"{opt.param_groups[0]['lr']:.2e}", loss=round(mean, 4),
                       **{c: round(float(ok[truth == i].mean()), 4) for i,c in enumerate(VOCAB)},
                       minutes=round(spent/60, 2))
            pd.DataFrame([row]).to_csv(out/'curve.csv', mode='a', header=not (out/'curve.csv').exists(), index=False)
            print(row, flush=True)
            keep()
            losses, began = [], time.time()
        if stop: return print('stopped; the same command continues', flush=True)
    state = {k: v.cpu().contiguous() for k,v in ema.module.state_dict().items()}
    save_file(state | {k: state[k][:len(VOCAB)].clone() for k in ('fc.weight', 'fc.bias')}, out/'portrait.safetensors')
    return ema

def drawn(n=400): # Table of photos, and their pixels
    "Drawn portraits instead of photos, to try the program"
    from genderres.portraits import draw_portrait
    photos = pd.DataFrame(dict(source='drawn', label=[VOCAB[i % 2] for i in range(n)],
                               valid=[i % 10 < 2 for i in range(n)], age=None, race=None, box=None))
    ims = [np.asarray(draw_portrait(photos.label[i], np.random.default_rng(i), size=SIDE)) for i in range(n)]
    return photos, torch.from_numpy(np.stack(ims)).permute(0, 3, 1, 2).contiguous()

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', type=Path, help='folder with fairface/, congress/ and wild/')
    p.add_argument('--faces', type=Path, help='table of faces: file, x0, y0, x1, y1; without it, only FairFace is used')
    p.add_argument('--out', type=Path, required=True, help='folder for checkpoint, curve and result')
    p.add_argument('--start', help='body to start from; random weights otherwise')
    p.add_argument('--views', type=int, help='photos to look at; default: 600,000, or 3,000 with --demo')
    p.add_argument('--bs', type=int, default=64)
    p.add_argument('--lr', type=float, default=1e-3)
    p.add_argument('--wd', type=float, default=.05)
    p.add_argument('--smooth', type=float, default=.05, help='label smoothing')
    p.add_argument('--mixup', type=float, default=0.,
                   help="parameter of the beta distribution; 0: no two photos are mixed")
    p.add_argument('--aux', type=float, default=.2, help='weight of age and group in the loss')
    p.add_argument('--ema', type=float, default=.998)
    p.add_argument('--decay', type=float, default=.35, help='share of the views over which the rate falls')
    p.add_argument('--every', type=int, default=20_000, help='views between two checkpoints')
    p.add_argument('--hold', type=int, default=20, help='one FairFace crop in this many is held out')
    p.add_argument('--seed', type=int, default=0)
    p.add_argument('--fp32', action='store_true')
    p.add_argument('--spoiled', type=float, default=.5,
                   help='share of the batches with other light and resolution, and parts hidden')
    p.add_argument('--demo', action='store_true', help='drawn portraits instead of photos')
    a = p.parse_args()
    a.out.mkdir(parents=True, exist_ok=True)
    a.views = a.views or (3000 if a.demo else 600_000)
    if a.demo: photos, pixels = drawn()
    else:
        if not a.data: p.error('--data is missing')
        photos = pd.concat([fairface(a.data, a.hold)] + ([others(a.data, a.faces)] if a.faces else []),
                           ignore_index=True)
        if not a.faces: photos['box'] = None
        pixels = read_all(photos, a.data, a.out/'pixels.npy')
    device = torch.device('cuda' if torch.cuda.is_available() else 'cpu')
    print(photos.groupby(['source', 'label', 'valid']).size().to_string(), flush=True)
    train(a, photos, pixels, device)

if __name__ == '__main__': main()
