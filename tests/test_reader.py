"One reader: the same pixels for training and prediction, whatever the file"
import io, subprocess, sys, textwrap
import numpy as np, pandas as pd, pytest, torch
from hypothesis import given, settings, strategies as st
from PIL import Image, features
from genderres.data import PILPhoto, gender_dls
from genderres.portraits import draw_portrait
from genderres.reader import PhotoProblem, image_problem, read_photo, to_pixels

def test_same_pixels_wherever_a_photo_is_read(awkward, tmp_path):
    "Every file that can be read, in training's validation pipeline and as prediction sees it"
    good = [k for k,ok in awkward[1].items() if ok and '\udcff' not in k]   # pandas' strings must be Unicode
    table = pd.DataFrame(dict(file=good, label=['a', 'b']*(len(good)//2) + ['a']*(len(good) % 2)))
    table['split'] = ['train', 'train', 'valid', 'valid']*(len(good)//4) + ['train']*(len(good) % 4)
    dls = gender_dls(table, folder='/', size=48, bs=4, num_workers=0, crop_p=0.)
    mean, std = (torch.tensor(o)[:,None,None] for o in ([.485, .456, .406], [.229, .224, .225]))
    seen = torch.cat([x.as_subclass(torch.Tensor).cpu() for x,_ in dls.valid])
    want = np.stack([to_pixels(read_photo(o), (48, 48)) for o in dls.valid.items.file])
    assert len(want) == len(dls.valid_ds) > 5
    assert np.abs(((seen*std + mean)*255).permute(0, 2, 3, 1).numpy() - want).max() < 1e-2
    for o in good: assert np.array_equal(np.asarray(PILPhoto.create(o)), np.asarray(read_photo(o)))

def test_check_and_reader_agree(awkward):
    "What the check lets pass can be read, and what it refuses cannot"
    for file,ok in awkward[1].items():
        assert (image_problem(file) == '') == ok, file
        if ok: assert read_photo(file).mode == 'RGB'
        else:
            with pytest.raises(ValueError): read_photo(file)

@pytest.mark.parametrize('kind', ['HEIF', 'AVIF', 'WEBP', 'PNG', 'TIFF'])
def test_content_decides_the_format(tmp_path, kind):
    if kind == 'HEIF': pytest.importorskip('pillow_heif')
    if kind == 'AVIF' and not features.check('avif'): pytest.skip('this Pillow was built without AVIF')
    photo = draw_portrait('women', np.random.default_rng(0), 64)
    photo.save(tmp_path/'photo.jpg', format=kind)
    assert image_problem(tmp_path/'photo.jpg') == ''
    assert np.abs(np.asarray(read_photo(tmp_path/'photo.jpg')).astype(int) - np.asarray(photo)).mean() < 8

def test_heic_without_the_extra_says_how(tmp_path):
    "A HEIC photo where pillow-heif is not installed"
    pytest.importorskip('pillow_heif')
    draw_portrait('women', np.random.default_rng(0), 64).save(tmp_path/'photo.jpg', format='HEIF')
    code = ("import sys; sys.modules['pillow_heif'] = None\nfrom genderres.reader import image_problem, read_photo\n"
            "print(image_problem(sys.argv[1]))\n"
            "try: read_photo(open(sys.argv[1], 'rb').read())\nexcept ValueError as e: print(e)")
    out = subprocess.run([sys.executable, '-c', code, tmp_path/'photo.jpg'],
                         capture_output=True, text=True, check=True).stdout
    assert out.count("pip install 'genderres[heic]'") == 2

@pytest.mark.parametrize('turn,back', [(3, Image.Transpose.ROTATE_180), (6, Image.Transpose.ROTATE_90),
                                       (8, Image.Transpose.ROTATE_270), (2, Image.Transpose.FLIP_LEFT_RIGHT)])
def test_upright(tmp_path, turn, back):
    photo, exif = draw_portrait('men', np.random.default_rng(1), 64), Image.Exif()
    exif[0x112] = turn
    photo.transpose(back).save(tmp_path/'a.png', exif=exif)
    assert np.array_equal(np.asarray(read_photo(tmp_path/'a.png')), np.asarray(photo))

def encoded(kind):
    f = io.BytesIO()
    draw_portrait('men', np.random.default_rng(2), 48).save(f, kind)
    return f.getvalue()

kinds = {o: encoded(o) for o in ('JPEG', 'PNG', 'GIF', 'WEBP', 'BMP', 'TIFF', 'PPM')}

@settings(deadline=None, max_examples=300)
@given(st.sampled_from(sorted(kinds)),
       st.lists(st.tuples(st.floats(0, 1, exclude_max=True), st.binary(min_size=1, max_size=4)),
                min_size=1, max_size=8), st.floats(.3, 1))
def test_mutated_bytes_are_a_photo_or_a_problem(tmp_path_factory, kind, changes, keep):
    "Bytes overwritten anywhere, the end cut off: an RGB image, or a `PhotoProblem` with a text; never another error"
    data = bytearray(kinds[kind])
    for where,what in changes: data[int(where*len(data)):int(where*len(data)) + len(what)] = what
    data = bytes(data[:int(keep*len(data))])
    try: assert read_photo(data).mode == 'RGB'
    except PhotoProblem as e: assert str(e)
    file = tmp_path_factory.getbasetemp()/'mutated'
    file.write_bytes(data)
    assert isinstance(image_problem(file), str)

def test_only_formats_of_photos_are_tried(tmp_path):
    """An EPS named .jpg, with a comment of negative length: some versions of Pillow never come back from opening it,
    so it is not tried"""
    (tmp_path/'endless.jpg').write_bytes(b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\n'
                                         b'%%BeginBinary: -20\n' + b' '*99)
    (tmp_path/'page.jpg').write_bytes(b'SIMPLE  =                    T' + b' '*4000)   # FITS
    code = textwrap.dedent("""
        import sys, time
        from PIL import EpsImagePlugin, FitsImagePlugin
        for cls in EpsImagePlugin.EpsImageFile, FitsImagePlugin.FitsImageFile: cls._open = lambda self: time.sleep(99)\
   # as in the versions with the fault
        from genderres.reader import image_problem, read_photo
        for file in sys.argv[1:]:
            print(image_problem(file))
            try: read_photo(open(file, 'rb').read())
            except ValueError as e: print(e)
        """)
    out = subprocess.run([sys.executable, '-c', code, *sorted(tmp_path.iterdir())],
                         capture_output=True, text=True, check=True, timeout=60).stdout
    assert out.splitlines() == ['not an image: a PostScript program, which would have to be run']*2 + ['not an image']*2

@pytest.mark.parametrize('kind', ['PSD', 'SGI', 'SUN', 'MPO', 'ICO', 'TGA', 'QOI', 'PCX'])
def test_formats_that_are_read(tmp_path, kind):
    "Formats with another name in Pillow, without a mark at their beginning, or without a writer in it"
    photo = draw_portrait('women', np.random.default_rng(0), 64)
    if kind == 'SUN': data = (bytes.fromhex('59a66a95')
                              + b''.join(o.to_bytes(4, 'big') for o in (64, 64, 24, 64*64*3, 1, 0, 0))
                              + np.asarray(photo)[...,::-1].tobytes())
    elif kind == 'PSD': data = (b'8BPS\0\1' + bytes(6) + b'\0\3' + b'\0\0\0\x40'*2 + b'\0\x08\0\3' + bytes(12) + b'\0\0'
                                + np.asarray(photo).transpose(2, 0, 1).tobytes())
    else:
        try: photo.save(f := io.BytesIO(), kind)
        except (KeyError, OSError): pytest.skip(f'this Pillow does not write {kind}')
        data = f.getvalue()
    (tmp_path/'photo.jpg').write_bytes(data)
    assert image_problem(tmp_path/'photo.jpg') == ''
    assert np.abs(np.asarray(read_photo(data)).astype(int) - np.asarray(photo)).mean() < 8

def test_an_icon_is_small(tmp_path):
    "Pillow decodes an icon when it opens it, whatever the size of the PNG inside"
    Image.new('1', (1500, 1500)).save(f := io.BytesIO(), 'PNG')
    icon = (b'\0\0\1\0\1\0' + bytes(4) + b'\1\0\x20\0' + len(f.getvalue()).to_bytes(4, 'little')
            + (22).to_bytes(4, 'little') + f.getvalue())
    with pytest.raises(PhotoProblem, match='more than 1024'): read_photo(icon)

@pytest.mark.skipif(sys.platform != 'linux', reason='reads /proc')
def test_memory_of_large_photos_is_given_back(tmp_path):
    "Four photos on four threads, one after the other, need little more memory than one"
    for i in range(4): Image.new('RGBA', (8500, 8500), (40*i, 0, 0, 255)).save(tmp_path/f'{i}.png', compress_level=1)
    code = ("import resource, sys\nfrom concurrent.futures import ThreadPoolExecutor\n"
            "from genderres.reader import read_photo, to_pixels\n"
            "with ThreadPoolExecutor(4) as ex: "
            "[*ex.map(lambda f: read_photo(f, 64, lambda p: to_pixels(p, (32, 32))), sys.argv[1:])]\n"
            "print(resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)")
    peak = lambda n: int(subprocess.run([sys.executable, '-c', code, *[tmp_path/f'{i}.png' for i in range(n)]],
                                        capture_output=True, text=True, check=True).stdout)
    assert peak(4) < 1.4*peak(1)
