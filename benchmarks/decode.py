"""How fast JPEGs are decoded, and how alike:

    python benchmarks/decode.py [--data FOLDER ...] [--drawn SIDE ...] [--hardware WORDS]

Each FOLDER, with folders in it, holds JPEGs; `--drawn SIDE` draws square portraits of so many pixels. Their
content is in memory; what is timed is the way from there to the pixels that a network sees, decoding and
resizing, in one thread. The decoders take turns with each photo, and of three times the shortest counts.

Pillow decodes as `read_photo` does, at a half, a quarter or an eighth of the size where both sides keep twice
the pixels that are needed; simplejpeg and PyTurboJPEG may do so by eighths. torchvision decodes the whole. A
decoder that is not installed is left out; PyTurboJPEG needs libturbojpeg, see `--turbojpeg`.

Each row of benchmarks/results/decode.csv is a decoder at a size: milliseconds for a photo, of which `decode`
are not resizing; `times` as fast as Pillow; `off`, the mean absolute difference of its pixels from Pillow's,
of 255, and `off_whole` that from pixels of the photo decoded whole.
"""
import argparse, io, tempfile, time, warnings
from importlib.metadata import version
from pathlib import Path
import numpy as np, pandas as pd, torch
from PIL import Image
from genderres.portraits import sample_portraits
from genderres.reader import read_photo, to_pixels, walk

results = Path(__file__).parent/'results/decode.csv'

def with_pillow(data, least): return read_photo(data, least)

def with_simplejpeg():
    "None if it is not installed"
    try: from simplejpeg import decode_jpeg
    except ImportError: return
    return lambda data, least: Image.fromarray(
        decode_jpeg(data, min_height=least, min_width=least, min_factor=1, strict=False))

def with_turbojpeg(library):
    "None if it, or the library it needs, is not installed"
    try:
        from turbojpeg import TJPF_RGB, TurboJPEG
        turbo = TurboJPEG(library)
    except (ImportError, RuntimeError, OSError): return
    factors = sorted((o for o in turbo.scaling_factors if o[0] <= o[1]), key=lambda o: o[0]/o[1])
    def decode(data, least):
        width, height, *_ = turbo.decode_header(data)
        factor = next((o for o in factors if min(width, height)*o[0]/o[1] >= least), None)
        return Image.fromarray(turbo.decode(data, pixel_format=TJPF_RGB, scaling_factor=factor))
    return decode

def with_torchvision():
    "None if it was built without JPEG"
    from torchvision.io import ImageReadMode, decode_jpeg
    def decode(data, least):
        return Image.fromarray(decode_jpeg(torch.frombuffer(data, dtype=torch.uint8), ImageReadMode.RGB)
                               .permute(1, 2, 0).numpy())
    return decode

def contents(folder, most):
    "The RGB JPEGs in a folder that need not be turned, as bytes; at most so many"
    found = []
    for o in walk(folder)[0]:
        data = (Path(folder)/o).read_bytes()
        try: im = Image.open(io.BytesIO(data))
        except OSError: continue
        if (im.format == 'JPEG' and im.mode == 'RGB'
            and im.getexif().get(0x112, 1) == 1 and 'icc_profile' not in im.info): found.append(bytearray(data))
    return [found[i] for i in np.random.default_rng(0).permutation(len(found))[:most]]

def once(decode, data, size):
    "Seconds to decode, and to decode and resize; and the pixels"
    start = time.perf_counter()
    photo = decode(data, 2*size)
    decoded = time.perf_counter() - start
    pixels = to_pixels(photo, (size, size))
    return decoded, time.perf_counter() - start, pixels

def measure(photos, size, decoders):
    "One row for each decoder"
    rows = []
    for data in photos:
        tries = [{k: once(o, data, size) for k,o in decoders.items()} for _ in range(3)]
        whole = to_pixels(read_photo(data), (size, size)).astype(int)
        ours = tries[0]['Pillow'][2].astype(int)
        for k in decoders:
            pixels = tries[0][k][2].astype(int)
            rows.append(dict(decoder=k, decode=1000*min(o[k][0] for o in tries),
                             milliseconds=1000*min(o[k][1] for o in tries),
                             off=abs(pixels - ours).mean(), off_whole=abs(pixels - whole).mean()))
    table = pd.DataFrame(rows).groupby('decoder', sort=False).mean()
    return table.assign(times=table.milliseconds['Pillow']/table.milliseconds).reset_index()

def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument('--data', nargs='*', type=Path, default=[
        Path('../shared/data/congress'), Path('../shared/data/paper'), Path('../shared/data/wild')])
    parser.add_argument('--drawn', nargs='*', type=int, default=[2000])
    parser.add_argument('--sizes', nargs='+', type=int, default=[128, 224])
    parser.add_argument('--photos', type=int, default=200, help='at most so many of each folder')
    parser.add_argument('--turbojpeg', help='file of libturbojpeg, if the system has none')
    parser.add_argument('--hardware', default='unknown', help='the machine, in words')
    parser.add_argument('--out', type=Path, default=results)
    args = parser.parse_args()
    warnings.simplefilter('ignore')
    torch.set_num_threads(1)
    decoders = {'Pillow': with_pillow, 'simplejpeg': with_simplejpeg(),
                'PyTurboJPEG': with_turbojpeg(args.turbojpeg), 'torchvision': with_torchvision()}
    decoders, tables = {k: v for k,v in decoders.items() if v}, []
    with tempfile.TemporaryDirectory() as tmp:
        sets = ({o.name: o for o in args.data}
                | {f'drawn, {o}': sample_portraits(Path(tmp)/str(o), n=20, size=o) for o in args.drawn})
        for name,folder in sets.items():
            photos = contents(folder, args.photos)
            for size in args.sizes:
                table = measure(photos, size, decoders)
                tables.append(table.assign(set=name, photos=len(photos), size=size,
                                           version=table.decoder.map(version), hardware=args.hardware))
                print(tables[-1].drop(columns='hardware').round(3).to_string(index=False), flush=True)
    columns = ['set', 'photos', 'size', 'decoder', 'version',
               'decode', 'milliseconds', 'times', 'off', 'off_whole', 'hardware']
    pd.concat(tables)[columns].to_csv(args.out, index=False, float_format='%.4g')

if __name__ == '__main__': main()
