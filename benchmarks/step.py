"""Where the time of a training step goes, by PyTorch's profiler:

    python benchmarks/step.py [--hardware WORDS]

A ResNet34 is trained on a batch of random pixels as plain fastai trains it, in the fastest precision and
layout, and with its last two stages on maps of the rest. Each row of benchmarks/results/step.csv is a kind of
work in one of these steps, in seconds for a batch: the shortest of three. A processor is needed, no GPU.
"""
import argparse
from pathlib import Path
import pandas as pd, torch
from fastai.vision.all import Adam, nn, params, resnet34, set_seed
from torch.profiler import ProfilerActivity, profile
from genderres.networks import build_network
from genderres.precision import autocast, fastest_precision

results = Path(__file__).parent/'results/step.csv'
kinds = {'aten::convolution_backward': 'convolutions, gradient', 'aten::mkldnn_convolution': 'convolutions',
         'aten::native_batch_norm': 'batch norm', 'aten::native_batch_norm_backward': 'batch norm',
         'optimizer': 'optimizer'}

def step(net, opt, x, y, dtype):
    "One step of training"
    with autocast(x.device, dtype): pred = net(x)
    nn.functional.cross_entropy(pred.float(), y).backward()
    with torch.profiler.record_function('optimizer'): opt.step()
    opt.zero_grad()

def seconds(net, x, dtype):
    "Seconds of a step by kind of work"
    opt, y = Adam(params(net), lr=1e-4), torch.arange(len(x)) % 2
    step(net, opt, x, y, dtype)
    best = None
    for _ in range(3):
        with profile(activities=[ProfilerActivity.CPU]) as prof: step(net, opt, x, y, dtype)
        table = pd.DataFrame([(o.key, o.self_cpu_time_total/1e6, o.cpu_time_total/1e6) for o in prof.key_averages()],
                             columns=['key', 'own', 'whole'])
        within = table[table.key == 'optimizer'].whole.sum()   # its single operations are among "the rest"
        found = table.assign(kind=table.key.map(kinds)).groupby('kind').own.sum().to_dict() | {'optimizer': within}
        found['the rest'] = table.own.sum() - sum(found.values())
        if best is None or sum(found.values()) < sum(best.values()): best = found
    return best

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--size', type=int, default=224)
    parser.add_argument('--bs', type=int, default=64)
    parser.add_argument('--hardware', default='unknown', help='the machine, in words')
    parser.add_argument('--out', type=Path, default=results)
    args = parser.parse_args()
    set_seed(0)
    net, x = build_network(resnet34, 2), torch.randn(args.bs, 3, args.size, args.size)
    dtype, layout = fastest_precision(net[0], min(args.size, 128))
    rows = [('plain fastai', torch.float32, seconds(net, x, torch.float32))]
    net, x = net.to(memory_format=layout), x.to(memory_format=layout)
    rows.append(('fastest precision', dtype, seconds(net, x, dtype)))
    with torch.no_grad(): maps = net[0][:6].eval()(x)
    rows.append(('last two stages, on maps', dtype, seconds(nn.Sequential(net[0][6:], net[1]), maps, dtype)))
    table = pd.DataFrame([dict(step=s, precision=str(p).removeprefix('torch.'), kind=k, seconds=v, size=args.size,
                               bs=args.bs, threads=torch.get_num_threads(), hardware=args.hardware)
                          for s,p,found in rows for k,v in sorted(found.items())])
    table.to_csv(args.out, index=False, float_format='%.4g')
    print(table.pivot_table(index='kind', columns='step', values='seconds', sort=False).round(3).to_string())

if __name__ == '__main__': main()
