"""Distil EfficientNet-Lite0's ImageNet features into a ResNet34 body, by function matching on unlabelled photos.

Teacher and student see the same crop, flip, brightness, greyscale and mix of two photos; the student learns the
teacher's standardised features: pooled, final map, and hints at strides 8 and 16. No gender label is read.
Stop it with Ctrl-C or a kill and start it again with the same command: it goes on from the last checkpoint.
"""
import argparse, json, math, os, time, zlib
from pathlib import Path
import numpy as np, pandas as pd, torch, torch.nn.functional as F
from PIL import Image, ImageEnhance
from safetensors.torch import load_file, save_file
from torch import nn
from torch.utils.data import DataLoader, Dataset
from torchvision.models import resnet34

MEAN, STD = torch.tensor([.485, .456, .406]).view(1,3,1,1), torch.tensor([.229, .224, .225]).view(1,3,1,1)
HINTS = {'layer2': (2, 40), 'layer3': (4, 112)}  # student stage -> (teacher block, its channels): strides 8 and 16

def held_out(person, share=5):
    "One person in `share` is kept from the training of the body, for evaluation; by name, so it never changes"
    return zlib.crc32(str(person).encode()) % share == 0

def photos(root):
    "Every photo that may be seen: all of `unlabelled`, `wild/train`, and `congress` without the held-out persons"
    root = Path(root)
    lab = pd.read_csv(root/'congress/labels.csv')
    return ([root/'congress'/f for f,p in zip(lab.file, lab.person) if not held_out(p)]
            + sorted((root/'unlabelled').glob('*.jpg')) + sorted((root/'wild/train').rglob('*.jpg')))

class Views(Dataset):
    "Endless views of photos kept decoded at `keep` px (short side); view `i` is the same whenever it is asked for"
    def __init__(self, files, size, n, start=0, keep=200, bs=64, seed=0):
        self.size, self.n, self.start, self.seed, self.bs = size, n, start, seed, bs
        self.ims = []
        for f in files:
            im = Image.open(f); im.draft('RGB', (keep, keep)); im = im.convert('RGB'); s = keep/min(im.size)
            if s < 1: im = im.resize([round(o*s) for o in im.size], Image.BILINEAR)
            self.ims.append(np.asarray(im))
    def __len__(self): return self.n
    def __getitem__(self, i):
        r = np.random.default_rng([self.seed, self.start + i])
        im = Image.fromarray(self.ims[r.integers(len(self.ims))])
        w, h = im.size
        if r.random() < .25: box = (0, 0, w, h)                      # the whole photo, squashed, as it is used later
        else:
            area, ratio = r.uniform(.25, 1)*w*h, math.exp(r.uniform(-math.log(4/3), math.log(4/3)))
            cw, ch = min(w, math.sqrt(area*ratio)), min(h, math.sqrt(area/ratio))
            x, y = r.uniform(0, w-cw), r.uniform(0, h-ch)
            box = (x, y, x+cw, y+ch)
        im = im.resize((self.size, self.size), Image.BILINEAR, box=box)
        if r.random() < .5: im = im.transpose(Image.FLIP_LEFT_RIGHT)
        if r.random() < .5: im = ImageEnhance.Brightness(im).enhance(r.uniform(.6, 1.4))
        if r.random() < .3: im = ImageEnhance.Contrast(im).enhance(r.uniform(.6, 1.4))
        if r.random() < .1: im = im.convert('L').convert('RGB')
        return torch.from_numpy(np.array(im))

class Teacher(nn.Module):
    def __init__(self, weights):
        super().__init__()
        import timm
        m = timm.create_model('tf_efficientnet_lite0', pretrained=False)
        src = torch.load(weights, weights_only=True, map_location='cpu')
        m.load_state_dict(dict(zip(m.state_dict(), src.values())), strict=True)
        self.m = m.eval().requires_grad_(False)
    @torch.no_grad()
    def forward(self, x):                                            # x: 0..255
        x = self.m.bn1(self.m.conv_stem((x-127)/128)); hints = []
        for i,b in enumerate(self.m.blocks):
            x = b(x)
            if i in (2, 4): hints.append(x)
        x = self.m.bn2(self.m.conv_head(x))
        return [*hints, x, x.mean((2,3))]

class Student(nn.Module):
    def __init__(self):
        super().__init__()
        self.body = resnet34(weights=None); self.body.fc = nn.Identity()
        self.h2, self.h3, self.map, self.pool = (nn.Conv2d(128, 40, 1), nn.Conv2d(256, 112, 1),
                                                 nn.Conv2d(512, 1280, 1), nn.Linear(512, 1280))
    def forward(self, x):
        b = self.body
        x = b.maxpool(b.relu(b.bn1(b.conv1((x/255-MEAN)/STD)))); x = b.layer1(x)
        l2 = b.layer2(x); l3 = b.layer3(l2); l4 = b.layer4(l3)
        return [self.h2(l2), self.h3(l3), self.map(l4), self.pool(l4.mean((2,3)))]

def standardise(fs, st): return [(f.float()-m)/s for f,(m,s) in zip(fs, st)]

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', required=True); p.add_argument('--teacher', required=True)
    p.add_argument('--out', required=True, help='folder for checkpoints and the log')
    p.add_argument('--start', help='safetensors body to start from'); p.add_argument('--size', type=int, default=128)
    p.add_argument('--views', type=int, default=500_000); p.add_argument('--lr', type=float, default=1e-3)
    p.add_argument('--bs', type=int, default=64); p.add_argument('--every', type=int, default=200)
    p.add_argument('--decay', type=float, default=.4, help='last share of the views over which the rate falls to 0')
    p.add_argument('--ema', type=float, default=.998); p.add_argument('--threads', type=int, default=2)
    a = p.parse_args(); out = Path(a.out); out.mkdir(parents=True, exist_ok=True)
    torch.manual_seed(0); torch.set_num_threads(a.threads)
    dev = 'cuda' if torch.cuda.is_available() else 'cpu'
    global MEAN, STD; MEAN, STD = MEAN.to(dev), STD.to(dev)
    teacher, student = Teacher(a.teacher).to(dev, memory_format=torch.channels_last), Student()
    if a.start: student.body.load_state_dict(load_file(a.start), strict=False)
    student = student.to(dev, memory_format=torch.channels_last)
    ema = torch.optim.swa_utils.AveragedModel(student, multi_avg_fn=torch.optim.swa_utils.get_ema_multi_avg_fn(a.ema), use_buffers=True)
    decay = [w for n,w in student.named_parameters() if w.ndim > 1]
    plain = [w for n,w in student.named_parameters() if w.ndim == 1]
    opt = torch.optim.AdamW([dict(params=decay, weight_decay=.02), dict(params=plain, weight_decay=0.)], lr=a.lr)
    step, steps, ck = 0, a.views//a.bs, out/'last.pt'
    ds = Views(photos(a.data), a.size, a.views)
    print(len(ds.ims), 'photos,', steps, 'steps', flush=True)
    if ck.exists():
        s = torch.load(ck, weights_only=True)
        student.load_state_dict(s['student']); ema.load_state_dict(s['ema']); opt.load_state_dict(s['opt']); step = s['step']; st = s['stats']
        print('going on from step', step, flush=True)
    else:
        xs = torch.stack([ds[i] for i in range(512)]).permute(0,3,1,2).float()
        fs = [torch.cat(o) for o in zip(*[teacher(x.to(dev)) for x in xs.split(64)])]
        st = [(f.mean([d for d in range(f.ndim) if d != 1], keepdim=True), f.std([d for d in range(f.ndim) if d != 1], keepdim=True)+1e-3) for f in fs]
    ds.start = step*a.bs; ds.n = (steps-step)*a.bs
    dl = DataLoader(ds, batch_size=a.bs, num_workers=1, prefetch_factor=4)
    t0, run = time.time(), []
    for x in dl:
        g = torch.Generator().manual_seed(step)
        x = x.to(dev).permute(0,3,1,2).float()
        if torch.rand((), generator=g) < .5:
            lam = torch.rand(len(x),1,1,1, generator=g).to(dev); x = lam*x + (1-lam)*x.roll(1,0)
        x = x.contiguous(memory_format=torch.channels_last)
        lr = a.lr*min(1, (step+1)/100)*min(1, (steps-step)/(a.decay*steps))
        for gr in opt.param_groups: gr['lr'] = lr
        with torch.autocast(dev, torch.bfloat16):
            target = standardise(teacher(x), st); pred = student(x)
        parts = [F.mse_loss(q.float(), t) for q,t in zip(pred, target)]
        loss = .25*parts[0] + .5*parts[1] + parts[2] + parts[3]
        opt.zero_grad(); loss.backward()
        nn.utils.clip_grad_norm_(student.parameters(), 5.); opt.step(); ema.update_parameters(student)
        run.append([o.item() for o in parts]); step += 1
        if step % a.every == 0 or step == steps:
            m = np.mean(run, 0).round(4).tolist(); rate = len(run)*a.bs/(time.time()-t0); t0, run = time.time(), []
            with open(out/'log.jsonl', 'a') as f: f.write(json.dumps(dict(step=step, views=step*a.bs, size=a.size, lr=lr, hint8=m[0], hint16=m[1], map=m[2], pool=m[3], rate=round(rate,1)))+'\n')
            tmp = out/'last.tmp'; torch.save(dict(student=student.state_dict(), ema=ema.state_dict(), opt=opt.state_dict(), step=step, stats=st), tmp); os.replace(tmp, ck)
            save_file({k: v.half().contiguous() if v.is_floating_point() else v for k,v in ema.module.body.state_dict().items()}, out/'body.tmp'); os.replace(out/'body.tmp', out/'body.safetensors')
    print('done', flush=True)

if __name__ == '__main__': main()
