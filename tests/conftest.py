"Nothing is downloaded and nothing lands in the user's own fastai folder"
import contextlib, gc, io, os, pickle, signal, socket, struct, sys, tempfile, threading, time, zlib
os.environ['FASTAI_HOME'] = tempfile.mkdtemp()
os.environ['TORCH_HOME'] = os.environ['FASTAI_HOME']
os.environ.setdefault('MPLBACKEND', 'agg')

import pytest
from genderres.all import *
from genderres.portraits import draw_portrait
import genderres.reader
from PIL import Image, ImageCms, features
from safetensors.torch import save_file

def pytest_configure(config): config.addinivalue_line('markers', 'slow: takes a minute; make slow runs it')

def pytest_collection_modifyitems(items):
    if 'SLOW' in os.environ: return
    for o in items:
        if o.get_closest_marker('slow'): o.add_marker(pytest.mark.skip(reason='slow'))

@pytest.fixture
def photos(tmp_path):
    "A folder of 20 drawn portraits, in `men` and `women`"
    return sample_portraits(tmp_path/'photos', n=20, size=64)

@pytest.fixture(scope='session')
def weights(tmp_path_factory):
    "Weights for a small body"
    set_seed(0)
    save_file(resnet18(weights=None).state_dict(), file := tmp_path_factory.mktemp('weights')/'w.safetensors')
    return file

@pytest.fixture
def four_lines():
    "What a user types: data, learner, training, answers"
    def run(source, **kwargs):
        dls = gender_dls(source, size=64, num_workers=0, **{'bs':8, **kwargs})
        learn = gender_learner(dls, resnet18, weights=None)
        with learn.no_bar(), learn.no_logging(): learn.fit_one_cycle(1)
        assert learn.recorder.values and np.isfinite(learn.recorder.values[-1]).all()
        interp = GenderInterpretation.from_learner(learn)
        assert interp.scores().n['accuracy'] == len(dls.valid_ds)
        return dls, interp
    return run

@pytest.fixture
def interruptible():
    """Ctrl-C raises KeyboardInterrupt: also where a shell's background job ignores it, and never in a finalizer,
    where Python drops it"""
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    gc.collect(); gc.disable()
    yield
    gc.enable(); signal.signal(signal.SIGINT, before)

@pytest.fixture
def large_photos(tmp_path, monkeypatch):
    """A folder of 16 files of 40 megapixels and 8 of 14; the pixels of a large one; how many were in work at once,
    after each read"""
    files = [tmp_path/'photos'/('men' if i % 2 else 'women')/f'{i:02}.png' for i in range(24)]
    for o in files: o.parent.mkdir(parents=True, exist_ok=True)
    Image.new('1', (4000, 3500)).save(files[0])
    Image.new('1', (8000, 5000)).save(files[1])
    for i in range(2, 24): shutil.copy(files[i % 3 > 0], files[i])
    now, held, lock = set(), [], threading.Lock()
    def decode(im):   # takes its time, but no memory
        me = threading.get_ident()
        with lock: now.add((me, im.size)); held.append(sum(w*h for _,(w,h) in now))
        time.sleep(.02)
        with lock: now.discard((me, im.size))
        return draw_portrait('men', np.random.default_rng(im.height), 64)
    monkeypatch.setattr(genderres.reader, 'to_rgb', decode)
    return tmp_path/'photos', 8000*5000, held

def _jpeg(im, **kwargs):
    f = io.BytesIO(); im.save(f, 'JPEG', **kwargs); return f.getvalue()

@pytest.fixture
def awkward(tmp_path):
    "A folder of awkward files, and for each whether it can be read as a photo"
    path = tmp_path/'awkward'
    path.mkdir()
    photo = draw_portrait('men', np.random.default_rng(0), 64)
    good, known = _jpeg(photo), {}
    def put(name, data, ok):
        file = Path(os.fsdecode(os.path.join(os.fsencode(path), name if isinstance(name, bytes) else name.encode())))
        file.parent.mkdir(parents=True, exist_ok=True)
        if data is not None: file.write_bytes(data)
        known[str(file)] = ok
        return file
    for mode,ending in [('1','png'), ('L','jpg'), ('L','png'), ('LA','png'), ('P','gif'), ('P','png'), ('RGBA','png'),
                        ('RGBA','webp'), ('CMYK','jpg'), ('YCbCr','jpg'), ('RGB','bmp'), ('RGB','tiff'), ('RGB','ppm'),
                        ('RGB','webp'), ('I;16','png'), ('F','tiff')]:
        im = (Image.fromarray(np.asarray(photo.convert('L')).astype(np.uint16)*256) if mode == 'I;16'
              else photo.convert(mode))
        im.save(put(f'mode {mode.replace(";", "")}.{ending}', None, True))
    for o in range(2, 9):
        exif = Image.Exif(); exif[0x112] = o
        photo.save(put(f'turned {o}.jpg', None, True), exif=exif)
    photo.convert('LAB').save(put('mode LAB.tiff', None, True))
    Image.fromarray(np.asarray(photo.convert('L')).astype(np.int32)*2**8).save(put('mode I.tiff', None, True))
    photo.convert('1').save(put('fax.tiff', None, True), compression='group4')
    photo.save(put('pages.tiff', None, True), save_all=True, append_images=[photo, photo])
    photo.save(put('waves.jpg', None, True), progressive=True)
    photo.save(put('two in one.jpg', None, True), format='MPO', save_all=True, append_images=[photo])
    photo.save(put('moving.webp', None, True), save_all=True, append_images=[photo.rotate(9)])
    photo.save(put('moving.png', None, True), save_all=True, append_images=[photo.rotate(9)])
    for kind in ('ico', 'tga', 'pcx', 'dds'): photo.save(put(f'old.{kind}', None, True))
    if features.check('jpg_2000'): photo.save(put('new.jp2', None, True))
    if features.check('avif'): photo.save(put('new.avif', None, True))
    photo.save(put('no profile.jpg', None, True), icc_profile=b'this is no colour profile')
    Image.new('CMYK', (64, 64)).save(put('wrong profile.jpg', None, True),
                                     icc_profile=ImageCms.ImageCmsProfile(ImageCms.createProfile('sRGB')).tobytes())
    frames = [photo.convert('P')]*3
    frames[0].save(put('moving.gif', None, True), save_all=True, append_images=frames[1:])
    photo.save(put('clear.png', None, True), transparency=(0, 0, 0))
    photo.resize((1, 1)).save(put('one pixel.png', None, True))
    photo.resize((3000, 1)).save(put('wide.png', None, True))
    put('png.jpg', (path/'mode L.png').read_bytes(), True)
    put('no ending', good, True)
    put('x'*251 + '.jpg', good, True)
    put('new\nline.jpg', good, True)
    put('carriage\rreturn, "quoted".jpg', good, True)
    put('carriage\rreturn alone.jpg', good, True)
    put('été 📷.JPEG', good, True)
    put('deep/' + '/'.join('abcdefghijklmnopqrstuvwxyz') + '/a.jpg', good, True)
    put('exif.jpg', good[:2] + b'\xff\xe1\x00\x10Exif\x00\x00broken!!' + good[2:], True)
    put('tail.jpg', good + b'<?php echo 1 ?>', True)
    for i in (1, 3, 20, len(good)//2, len(good)-2): put(f'cut {i}.jpg', good[:i], False)
    put('empty.jpg', b'', False)
    put('text.jpg', b'I am no image', False)
    put('page.jpg', b'<html><img src="a.jpg"></html>', False)
    put('drawing.svg', b'<svg xmlns="http://www.w3.org/2000/svg"/>', False)
    put('zeros.png', bytes(1000), False)
    put('program.jpg', b'%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n(%pipe%touch owned) (w) file\n', False)
    put('paper.jpg', b'%PDF-1.7\n', False)
    put('film.jpg', b'\0\0\0\x18ftypisom' + bytes(500), False)
    put('album.jpg', b'PK\x03\x04' + good, False)
    put('half.gif', (path/'mode P.gif').read_bytes()[:200], False)
    put('half.webp', (path/'mode RGB.webp').read_bytes()[:200], False)
    put('letters.png', b'\x89PNG\r\n\x1a\n' + b''.join(   # unpacks to more than it should
        struct.pack('>I', len(d)) + k + d + struct.pack('>I', zlib.crc32(k + d)) for k,d in [
            (b'IHDR', struct.pack('>IIBBBBB', 8, 8, 8, 2, 0, 0, 0)),
            (b'zTXt', b'a\0\0' + zlib.compress(bytes(2**24), 9)),
            (b'IDAT', zlib.compress(bytes(200))), (b'IEND', b'')]), False)
    with open(put('huge.jpg', None, False), 'wb') as f: f.truncate(2**33)   # eight gigabytes of nothing
    put('-rf.jpg', good, True)
    put(' .jpg', good, True)
    put('%s*[a]?#{0}.jpg', good, True)
    put('e\u0301te\u0301 decomposed.jpg', good, True)
    put('right to left \u202egpj.exe', good, True)
    put('folder.jpg/inside.jpg', good, True)
    put('pickle.jpg', pickle.dumps([1]), False)
    put('bomb.png', b'\x89PNG\r\n\x1a\n' + b''.join(
        struct.pack('>I', len(d)) + k + d + struct.pack('>I', zlib.crc32(k + d)) for k,d in [
            (b'IHDR', struct.pack('>IIBBBBB', 60000, 60000, 8, 2, 0, 0, 0)), (b'IDAT', zlib.compress(bytes(10**6))),
            (b'IEND', b'')]), False)
    if sys.platform != 'win32':
        put(b'not utf8 \xff\xfe.jpg', good, True)
        put('link.jpg', None, True).symlink_to(path/'no ending')
        put('dangling.jpg', None, False).symlink_to(path/'nowhere')
        put('loop.jpg', None, False).symlink_to(path/'loop.jpg')
        put('endless.jpg', None, False).symlink_to('/dev/zero')
        os.link(path/'no ending', put('hard link.jpg', None, True))
        put('case/A.jpg', good, True); put('case/a.jpg', _jpeg(photo.rotate(90)), True)
        os.mkfifo(put('pipe.jpg', None, False))
        with socket.socket(socket.AF_UNIX) as s, contextlib.chdir(path): s.bind('s')   # a whole path may be too long
        put('s', None, False)
    return path, known

@pytest.fixture(scope='session')
def untrained(tmp_path_factory):
    "An untrained classifier in a file, and the same as ONNX"
    tmp = tmp_path_factory.mktemp('untrained')
    set_seed(0)
    learn = gender_learner(gender_dls(sample_portraits(tmp/'photos', n=20, size=64), size=32, bs=8, num_workers=0),
                           resnet18, weights=None)
    clf = learn.to_classifier()
    clf.to_onnx(tmp/'a.onnx')
    return clf.save(tmp/'a.safetensors')
