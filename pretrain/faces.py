"""Find the largest face of every photo and dlib's 128-number descriptor of it: the face teacher's answers, computed once.

dlib's HOG detector finds the face, its five-point landmarks align a 150 px chip, and its 29-convolution network,
read here into torch (many times faster than dlib's own loop), describes it. All three are CC0. The 68-point
landmarks of the same package (trained on photos for non-commercial use) are never opened.
"""
import argparse, multiprocessing as mp, os, re
from pathlib import Path
import numpy as np, torch, torch.nn.functional as F
from PIL import Image

class FaceNet:
    "dlib's face recognition network, from its file: a first convolution and five stages of residual blocks, all in fp32"
    stages = [(32, 3, False), (64, 4, True), (128, 3, True), (256, 3, True), (256, 1, True)]  # channels, blocks, halves the size
    def __init__(self,
        file, # dlib_face_recognition_resnet_model_v1.dat
    ):
        "Read the tensors in their order: each lies behind a marker, a version (2) and its shape as sized integers"
        b, pos, self.w = Path(file).read_bytes(), 0, []
        size = rb'(\x01.|\x02..|\x03...)'
        while m := re.compile(rb'\x01\x02' + size*4, re.S).search(b, pos):
            n = int(np.prod([int.from_bytes(g[1:], 'little') for g in m.groups()]))
            if 32 <= n <= 600_000 and 4*n <= len(b)-m.end():
                w = np.frombuffer(b, np.float32, n, m.end())
                if np.isfinite(w).all() and 1e-6 < np.abs(w).max() < 1e3:
                    self.w.append(torch.from_numpy(w.copy())); pos = m.end()+4*n; continue
            pos = m.start()+1
        if len(self.w) != 59: raise ValueError(f'{file}: {len(self.w)} tensors instead of 59')
    def conv(self, it, x, out, k, stride=1):
        "A convolution with bias (padded where it keeps the size), and the affine layer behind it"
        w, g = next(it), next(it)
        n = out*x.shape[1]*k*k
        x = F.conv2d(x, w[:n].view(out, x.shape[1], k, k), w[n:], stride, k//2 if stride == 1 else 0)
        return x*g[:out].view(1,-1,1,1) + g[out:].view(1,-1,1,1)
    @torch.inference_mode()
    def __call__(self,
        x, # Chips n x 150 x 150 x 3, bytes
    ): # n x 128
        it = iter(self.w)
        x = (x.permute(0,3,1,2).float() - torch.tensor([122.782, 117.001, 104.298]).view(1,3,1,1))/256
        x = F.max_pool2d(F.relu(self.conv(it, x, 32, 7, 2)), 3, 2)
        for out, blocks, halve in self.stages:
            for i in range(blocks):
                down = halve and i == 0
                y = self.conv(it, F.relu(self.conv(it, x, out, 3, 2 if down else 1)), out, 3)
                if down: x = F.avg_pool2d(x, 2)
                h, w = max(x.shape[2], y.shape[2]), max(x.shape[3], y.shape[3])    # dlib adds by padding with zeros
                x, y = (F.pad(o, (0, w-o.shape[3], 0, h-o.shape[2], 0, out-o.shape[1])) for o in (x, y))
                x = F.relu(x+y)
        return x.mean((2,3)) @ next(it).view(256, 128)

def load(
    models,  # Folder of `face_recognition_models`' files
):
    "Detector and landmarks, one set in each process"
    global det, marks
    import dlib
    det, marks = dlib.get_frontal_face_detector(), dlib.shape_predictor(str(models/'shape_predictor_5_face_landmarks.dat'))

def face(
    f,  # A photo's path
):
    "Box of the largest face (left, top, right, bottom as shares of width and height) and its 150 px chip; None without a face"
    import dlib
    a = np.asarray(Image.open(f).convert('RGB')); h,w = a.shape[:2]
    boxes = det(a, 1)                                                # enlarged twice: faces from 40 px
    if not boxes: return None
    b = max(boxes, key=lambda o: o.area())
    return np.array([b.left()/w, b.top()/h, b.right()/w, b.bottom()/h]), dlib.get_face_chip(a, marks(a, b), 150, .25)

def main():
    p = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    p.add_argument('--data', required=True, help='folder with congress/, unlabelled/ and wild/')
    p.add_argument('--models', help='folder of the .dat files; default: the installed face_recognition_models')
    p.add_argument('--out', required=True, help='the .npz file to write')
    p.add_argument('--procs', type=int, default=os.cpu_count())
    a = p.parse_args(); root = Path(a.data)
    if not a.models:
        import importlib.util
        a.models = Path(importlib.util.find_spec('face_recognition_models').submodule_search_locations[0])/'models'
    files = sorted(root.glob('wild/*/*/*.jpg')) + sorted(root.glob('congress/*/*.jpg')) + sorted(root.glob('unlabelled/*.jpg'))
    net = FaceNet(Path(a.models)/'dlib_face_recognition_resnet_model_v1.dat'); torch.set_num_threads(1)
    box, desc = np.zeros((len(files), 4), np.float32), np.zeros((len(files), 128), np.float32)   # zeros: no face
    with mp.get_context('spawn').Pool(a.procs, load, (Path(a.models),)) as pool:
        todo = []
        for i,r in enumerate(pool.imap(face, files, chunksize=8)):
            if r is not None: box[i] = r[0]; todo.append((i, r[1]))
            if todo and (len(todo) == 64 or i == len(files)-1):
                desc[[o[0] for o in todo]] = net(torch.from_numpy(np.stack([o[1] for o in todo]))); todo = []
            if (i+1)%1000 == 0: print(i+1, 'of', len(files), flush=True)
    np.savez(a.out, photo=np.array([str(f.relative_to(root)) for f in files]), box=box, desc=desc)
    print('faces in', int((box[:,2] > 0).sum()), 'of', len(files))

if __name__ == '__main__': main()
