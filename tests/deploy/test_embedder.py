"""FaceEmbedder on crops and photographs, with every back end and every kind of model."""

import io
import json
import shutil
import struct
import sys
import zlib

import cv2
import numpy as np
import onnx
import pytest
from deploy_models import export_folder, portrait, portraits, write_checkpoint
from PIL import Image, ImageOps
from tiny_network import embed_on_stock_graph
from vargfacenet.common.checked_json import write_checked
from vargfacenet.common.data.detect import FaceDetector, Faces, Wanted
from vargfacenet.common.data.detectors import DETECTORS
from vargfacenet.common.data.image import decode_rgb
from vargfacenet.common.data.warp import TEMPLATE
from vargfacenet.common.engine.checkpoint import load_embedding, save_embedding
from vargfacenet.common.engine.engines import ENGINES
from vargfacenet.common.engine.network import Network
from vargfacenet.common.engine.to_onnx import to_onnx
from vargfacenet.common.errors import InputError
from vargfacenet.deploy import FaceEmbedder


@pytest.fixture(scope='module')
def models(tmp_path_factory):
    """(folder of an export, checkpoint it was made from)."""
    folder = tmp_path_factory.mktemp('models')
    return export_folder(folder), f'{folder}/model,3'


@pytest.fixture(scope='module')
def expected(models):
    rows = embed_on_stock_graph(*load_embedding(models[1]), portraits(5)).astype(np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


@pytest.mark.parametrize('backend', ['auto', 'openvino', 'onnxruntime', 'mxnet'])
@pytest.mark.parametrize('kind', ['folder', 'checkpoint', 'slim checkpoint', 'onnx'])
def test_all_give_mxnets_embeddings(backend, kind, models, expected):
    folder, checkpoint = models
    model = {
        'folder': folder,
        'checkpoint': checkpoint,
        'slim checkpoint': f'{folder}/model,0',
        'onnx': folder / 'model.onnx',
    }[kind]
    if (backend, kind) == ('mxnet', 'onnx'):
        with pytest.raises(InputError, match='MXNet runs no ONNX files'):
            FaceEmbedder(model, backend)
        return
    faces = FaceEmbedder(model, backend, batch_size=4)
    assert faces.backend == ('openvino' if backend == 'auto' else backend)
    result = faces.embed(portraits(5))
    assert result.dtype == np.float32
    np.testing.assert_allclose(result, expected, atol=2e-4)
    # one model, whatever file it comes from
    assert faces.fingerprint == FaceEmbedder(folder).fingerprint


def test_automatic_choice_takes_what_is_there(models, monkeypatch):
    monkeypatch.setitem(sys.modules, 'openvino', None)
    assert FaceEmbedder(models[0]).backend == 'onnxruntime'
    monkeypatch.setitem(sys.modules, 'onnxruntime', None)
    assert FaceEmbedder(models[0]).backend == 'mxnet'
    with pytest.raises(InputError, match=r"'openvino' is not installed.*extra 'deploy'"):
        FaceEmbedder(models[0], 'openvino')


def test_bfloat16_is_near_and_only_openvinos(models, expected):
    with pytest.raises(InputError, match='needs engine openvino'):
        FaceEmbedder(models[0], 'onnxruntime', precision='bfloat16')
    try:
        faces = FaceEmbedder(models[0], precision='bfloat16')
    except InputError:
        pytest.skip('no bfloat16 on this CPU')
    cosine = (faces.embed(portraits(5)) * expected).sum(axis=1)
    assert 0.99 < cosine.min() < 1


@pytest.mark.parametrize(
    ('arguments', 'message'),
    [
        ({'backend': 'tensorrt'}, "unknown engine 'tensorrt'"),
        ({'precision': 'float64'}, "unknown precision 'float64'"),
        ({'batch_size': 0}, 'batch size 0'),
    ],
)
def test_wrong_options(arguments, message, models):
    with pytest.raises(InputError, match=message):
        FaceEmbedder(models[0], **arguments)


@pytest.mark.parametrize(
    ('model', 'message'),
    [
        ('nothing', 'model nothing: no such export folder; expected one'),
        ('nothing,0', r'nothing-symbol\.json does not exist'),
        ('nothing.onnx', r'nothing\.onnx does not exist'),
    ],
)
def test_models_that_are_not_there(model, message, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    with pytest.raises(InputError, match=message):
        FaceEmbedder(model)


def test_one_photograph_is_no_list_of_them(models, tmp_path):
    embedder = FaceEmbedder(models[0])
    size = embedder.embedding_size
    assert repr(embedder) == f"FaceEmbedder('{models[0]}', '{embedder.backend}', {size} values)"
    for one in ('a.jpg', tmp_path / 'a.jpg', b'bytes', np.zeros((40, 40, 3), np.uint8)):
        with pytest.raises(InputError, match='photos is one photograph; expected a list'):
            embedder.embed_photos(one)


def test_a_checkpoint_without_its_number_is_shown_with_it(tmp_path):
    for number in (3, 12):
        (tmp_path / f'model-{number:04d}.params').touch()
    for given in (tmp_path, tmp_path / 'model'):
        with pytest.raises(InputError, match=f'did you mean {tmp_path}/model,12'):
            FaceEmbedder(given)


def test_a_file_that_is_no_model_is_called_so(tmp_path):
    for name in ('a.jpg', 'model-0012.params', 'model-symbol.json'):
        (tmp_path / name).touch()
    with pytest.raises(InputError, match=r'a\.jpg is a file that ends in no \.onnx; .*EPOCH$'):
        FaceEmbedder(tmp_path / 'a.jpg')
    for part in ('model-0012.params', 'model-symbol.json'):
        with pytest.raises(InputError, match=f'did you mean {tmp_path}/model,12'):
            FaceEmbedder(tmp_path / part)


def test_a_replaced_file_is_noticed(models, tmp_path):
    folder = export_folder(tmp_path)
    (folder / 'model.onnx').write_bytes((models[0] / 'model.onnx').read_bytes() + b'\0')
    with pytest.raises(InputError, match=r'not the file that export\.json|does not load'):
        FaceEmbedder(folder)
    (folder / 'export.json').write_text('[]')
    with pytest.raises(InputError, match='no record of an export'):
        FaceEmbedder(folder)


@pytest.fixture
def drawn_faces(monkeypatch):
    """The detector finds one face where we put one: portraits at (x, y) pasted on a background."""

    def photograph(*places, height=300, width=400):
        image = np.full((height, width, 3), 128, np.uint8)
        for number, (x, y) in enumerate(places):
            image[y : y + 112, x : x + 112] = portrait(number)
        return image

    def put(places):
        boxes = np.array([(x, y, 112, 112) for x, y in places], np.float64).reshape(-1, 4)
        marks = np.array([TEMPLATE + np.array([x, y]) for x, y in places]).reshape(-1, 5, 2)
        found = Faces(boxes, np.linspace(1, 0.9, len(places)), marks)

        def wanted(self, image, which, exact):
            shown = slice(None if which == 'all' else 1)
            return Wanted(Faces(*(part[shown] for part in found)), len(places))

        monkeypatch.setattr(FaceDetector, 'wanted', wanted)

    return photograph, put


def test_photographs_with_faces(models, drawn_faces, expected):
    photograph, put = drawn_faces
    places = [(20, 30), (200, 100)]
    put(places)
    image = photograph(*places)
    found = FaceEmbedder(models[0]).embed_photos([image, image], which='all')
    assert len(found) == 2
    assert found[0].boxes.tolist() == [[20, 30, 112, 112], [200, 100, 112, 112]]
    assert found[0].scores.tolist() == [1.0, 0.9] and found[0].crops.shape == (2, 112, 112, 3)
    # landmarks on the template: the crop is the pasted portrait
    np.testing.assert_array_equal(found[0].crops, portraits(2))
    np.testing.assert_allclose(found[1].embeddings, expected[:2], atol=2e-4)
    largest = FaceEmbedder(models[0]).embed_photos([image])[0]
    assert len(largest.scores) == 1
    np.testing.assert_allclose(largest.embeddings, expected[:1], atol=2e-4)


def test_large_photographs_are_cut_out_at_full_size(models, drawn_faces, monkeypatch):
    photograph, _ = drawn_faces
    x, y = 1000, 500
    image = photograph((x, y), height=2400, width=3200)

    def find(self, small, times):
        assert small.shape == (1200, 1600, 3)  # what the detector sees is half as large
        points = (TEMPLATE + (x, y)) / 2  # noqa: RUF005
        return Faces(np.array([(x / 2, y / 2, 56, 56)]), np.ones(1), points[None])

    monkeypatch.setattr(DETECTORS.get('mtcnn'), 'find_larger', find)
    found = FaceEmbedder(models[0]).embed_photos([image])[0]
    np.testing.assert_array_equal(found.crops[0], portrait(0))
    assert found.boxes.tolist() == [[x, y, 112, 112]]


def test_photographs_without_a_face(models):
    blank = np.full((200, 300, 3), 90, np.uint8)
    for photo in (blank, blank[:1, :1], blank[:5]):
        found = FaceEmbedder(models[0]).embed_photos([photo], which='all')[0]
        assert found.embeddings.shape == (0, 32) and found.boxes.shape == (0, 4)
        assert found.crops.shape == (0, 112, 112, 3)
    assert FaceEmbedder(models[0]).embed_photos([]) == []


def test_what_is_no_photograph(models, tmp_path):
    faces = FaceEmbedder(models[0])
    path = tmp_path / 'x.jpg'
    with pytest.raises(InputError, match=r'x\.jpg does not exist'):
        faces.embed_photos([path])
    path.write_bytes(b'not a picture')
    with pytest.raises(InputError, match=r'x\.jpg: 13 bytes are no picture'):
        faces.embed_photos([path])
    with pytest.raises(InputError, match=r'expected uint8 \(H, W, 3\)'):
        faces.embed_photos([np.zeros((10, 10), np.uint8)])
    with pytest.raises(InputError, match='choice of faces'):
        faces.embed_photos([], which='smallest')


# --- kinds of pictures, written with Pillow and nothing of ours


def saved(image, kind, **options):
    buffer = io.BytesIO()
    image.save(buffer, kind, **options)
    return buffer.getvalue()


def reference():
    """Pillow image with smooth colours, all corners different."""
    y, x = np.mgrid[0:60, 0:80]
    return Image.fromarray(np.stack([3 * x, 4 * y, 255 - 2 * x], axis=-1).astype(np.uint8))


def close(content, expected, tolerance=3):
    result = decode_rgb(content)
    assert result.dtype == np.uint8 and result.shape == (*expected.shape[:2], 3)
    assert np.abs(result.astype(int) - expected.astype(int)).mean() < tolerance


@pytest.mark.parametrize('mode', ['L', 'RGBA', 'CMYK', 'P', '1', 'LA'])
def test_colour_modes(mode):
    image = reference().convert(mode)
    content = saved(
        image, 'JPEG' if mode == 'CMYK' else 'PNG', **({'quality': 95} if mode == 'CMYK' else {})
    )
    close(content, np.asarray(image.convert('RGB')), tolerance=4)


def test_16_bit():
    grey = np.asarray(reference().convert('L'))
    content = cv2.imencode('.png', grey.astype(np.uint16) * 257)[1].tobytes()
    close(content, np.repeat(grey[..., None], 3, axis=2), tolerance=1)


@pytest.mark.parametrize('orientation', range(1, 9))
@pytest.mark.parametrize(
    'kind, options, tolerance',
    [
        ('JPEG', {'quality': 95}, 3),
        ('WEBP', {'lossless': True}, 1e-9),
        ('PNG', {}, 1e-9),
        ('TIFF', {}, 1e-9),
    ],
)
def test_exif_orientation(kind, options, tolerance, orientation):
    exif = Image.Exif()
    exif[0x0112] = orientation
    content = saved(reference(), kind, exif=exif, **options)
    upright = ImageOps.exif_transpose(Image.open(io.BytesIO(content))).convert('RGB')
    assert upright.size == ((60, 80) if orientation > 4 else (80, 60))
    close(content, np.asarray(upright), tolerance)


def test_what_is_no_picture_of_bytes(capfd):
    grey, colour = np.ones((20, 20), np.float32), np.ones((20, 20, 3), np.float32)
    plain = [cv2.IMWRITE_TIFF_COMPRESSION, 1]
    webp = saved(reference(), 'WEBP')
    for content, words in (
        (saved(Image.fromarray(grey), 'TIFF'), 'unknown range'),
        (cv2.imencode('.tiff', colour)[1].tobytes(), 'unknown range'),  # logarithms, signed
        (cv2.imencode('.tiff', colour, plain)[1].tobytes(), 'unknown range'),
        (saved(reference(), 'PNG')[:-20], 'PNG of .* is cut off'),
        (webp[: len(webp) // 2], 'no picture|cannot be decoded'),
        (saved(reference(), 'ICO'), 'are no picture'),
        (cv2.imencode('.hdr', colour)[1].tobytes(), 'are no picture'),
        (b'II*\0 and no more', 'are no picture'),
        (b'', 'are no picture'),
    ):
        with pytest.raises(InputError, match=words):
            decode_rgb(content)
    assert capfd.readouterr().err == ''  # what libraries print there is no message of ours


@pytest.mark.parametrize('exif', [b'Exif\0\0II*\0', b'garbage', b'Exif\0\0II*\0\x08\0\0\0\xff\0'])
def test_damaged_exif_is_no_matter(exif, recwarn):
    content = saved(reference(), 'WEBP', lossless=True, exif=exif)
    np.testing.assert_array_equal(decode_rgb(content), reference())


def test_a_large_tiff_that_pillow_does_not_open():
    deep = cv2.imencode('.tiff', np.ones((40, 60, 3), np.uint16))[1].tobytes()
    assert decode_rgb(deep).shape == (40, 60, 3)
    with pytest.raises(InputError, match='of 60x40 has more than'):
        decode_rgb(deep, max_pixels=2000)


def png_header(width, height):
    """A PNG that announces a size and holds next to nothing."""

    def chunk(kind, data):
        body = kind + data
        return struct.pack('>I', len(data)) + body + struct.pack('>I', zlib.crc32(body))

    header = struct.pack('>IIBBBBB', width, height, 8, 2, 0, 0, 0)
    return b'\x89PNG\r\n\x1a\n' + chunk(b'IHDR', header) + chunk(b'IDAT', zlib.compress(b''))


@pytest.mark.parametrize('side', [20_000, 2_000_000_000])
def test_huge_pictures_are_refused_by_their_header(side):
    with pytest.raises(InputError, match='more than 100 million pixels; make it smaller'):
        decode_rgb(png_header(side, side))


def test_one_pixel():
    assert decode_rgb(saved(Image.new('RGB', (1, 1), (9, 8, 7)), 'PNG')).tolist() == [[[9, 8, 7]]]


def test_the_record_tells_of_its_own_files_only(models, tmp_path):
    write_checkpoint(tmp_path)
    (tmp_path / 'export.json').write_text(json.dumps({'files': {}}))
    assert FaceEmbedder(f'{tmp_path}/model,3').record == {}
    assert FaceEmbedder(models[0] / 'model.onnx').record['flops'] > 0


@pytest.mark.parametrize(
    'change',
    [
        lambda record: record.pop('source_sha256'),
        lambda record: record.update(files=None),
        lambda record: record.update(files={'model.onnx': 5}),
        lambda record: record.update(source_sha256=['model-0003.params']),
        lambda record: record.update(
            verification=[{'file': 'x', 'engine': 'y', 'thresholds': 'z'}]
        ),
        *(
            lambda record, rates=rates: record.update(
                verification=[{'file': 'x', 'engine': 'y', 'thresholds': rates}]
            )
            for rates in ({'nan': 0.3}, {'0': 0.3}, {'low': 0.3}, {'0.1': 10**400}, {'2': 0.3})
        ),
        lambda record: record.update(verification=[{'thresholds': {}}]),
    ],
)
def test_a_damaged_record_is_said(change, tmp_path):
    out = export_folder(tmp_path)
    record = json.loads((out / 'export.json').read_text())
    change(record)
    write_checked(out / 'export.json', record)
    with pytest.raises(InputError, match='no record of an export'):
        FaceEmbedder(out)


@pytest.mark.parametrize('value', [np.nan, np.inf, 0])
def test_a_model_without_a_direction(value, tmp_path):
    """Weights that are not finite are found when they are read, an ONNX file's when it runs."""
    model = write_checkpoint(tmp_path)
    symbol, arg_params, aux_params = load_embedding(model).in_mxnet()
    for name in ('fc1_gamma', 'fc1_beta'):
        arg_params[name] *= value
    onnx.save(to_onnx(Network(symbol, arg_params, aux_params)), str(tmp_path / 'model.onnx'))
    with pytest.raises(InputError, match='no usable embedding for 2 of 2 images'):
        FaceEmbedder(tmp_path / 'model.onnx').embed(portraits(2))
    if value != 0:
        save_embedding(tmp_path / 'model', 3, Network(symbol, arg_params, aux_params))
        with pytest.raises(InputError, match='32 of the 32 values of fc1_'):
            FaceEmbedder(model)


def test_what_is_no_export_folder(models, tmp_path):
    with pytest.raises(InputError, match=r'no export folder; expected .* PREFIX,EPOCH such as'):
        FaceEmbedder(tmp_path)


def test_an_export_without_onnx_files_runs_in_every_engine(models, tmp_path):
    for name in ('export.json', 'model-symbol.json', 'model-0000.params'):
        shutil.copy(models[0] / name, tmp_path)  # as without the packages of the extra
    faces = portraits(3)
    expected = FaceEmbedder(models[0]).embed(faces)
    for engine in ENGINES.names():
        embedder = FaceEmbedder(tmp_path, engine)
        assert embedder.backend == engine
        np.testing.assert_allclose(embedder.embed(faces), expected, atol=1e-5)


def test_faces_that_are_too_small_to_find(models):
    with pytest.raises(InputError, match='--min-face 11'):
        FaceEmbedder(models[0], min_face=11)
