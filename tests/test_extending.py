"""Every example of docs/extending.md, from a file outside the tree, through the real commands."""

import csv
import json
import re
import zipfile

import numpy as np
import pytest
from conftest import ROOT, registered_for_now
from curves_drawn import alike_are_drawn_once  # noqa: F401  of all tests here
from deploy_models import export_folder, portraits, write_checkpoint
from pair_sets import pair_images, write_bin
from pictures import decoded, encoded, scene, write_folder
from tiny_network import embed_on_stock_graph, reference_params, tiny_symbol
from vargfacenet.common import plugins
from vargfacenet.common.backend import mx
from vargfacenet.common.data.detectors import DETECTORS
from vargfacenet.common.data.image import decode_rgb, encode_jpeg
from vargfacenet.common.data.pair_lists import PAIR_FORMATS
from vargfacenet.common.data.records import SOURCES
from vargfacenet.common.engine import checkpoint
from vargfacenet.common.engine.engines import ENGINES
from vargfacenet.common.engine.network import Network
from vargfacenet.common.history import read_history
from vargfacenet.common.vectors import unit_rows
from vargfacenet.deploy.quantize import calibration_images
from vargfacenet.deploy.sealing import CODECS
from vargfacenet.eval.matrix_file import read_matrix
from vargfacenet.eval.pooling import POOLINGS
from vargfacenet.eval.report.statistics import METRICS
from vargfacenet.recognition.augmentations import AUGMENTATIONS
from vargfacenet.recognition.distillation import DISTILLATION_LOSSES
from vargfacenet.recognition.losses import LOSSES, Head
from vargfacenet.recognition.schedules import SCHEDULES
from vargfacenet.symbol import NETWORKS

REGISTRIES = (
    LOSSES,
    DISTILLATION_LOSSES,
    NETWORKS,
    PAIR_FORMATS,
    SOURCES,
    AUGMENTATIONS,
    ENGINES,
    DETECTORS,
    SCHEDULES,
    POOLINGS,
    METRICS,
    CODECS,
)
EXAMPLES = dict(
    re.findall(
        r'^```python (\w+\.py)\n(.*?)^```$',
        (ROOT / 'docs' / 'extending.md').read_text(),
        re.M | re.S,
    )
)
SHORT_RUN = (
    *('--steps', 6, '--per-batch-size', 8, '--frequent', 1, '--lr', 0.05, '--warmup-steps', 0),
    *('--network', 'plain', '--network-option', 'width=0.25'),
    *('--network-option', 'emb_size=16', '--network-option', 'bn_mom=0.5'),
)


@pytest.fixture
def plug_in(tmp_path, monkeypatch):
    """Write examples to a folder of their own and name them to all commands of this test."""

    def write(*names):
        folder = tmp_path / 'mine'
        folder.mkdir()
        for name in names:
            (folder / name).write_text(EXAMPLES[name])
        monkeypatch.setenv(plugins.VARIABLE, ':'.join(str(folder / name) for name in names))

    with registered_for_now(*REGISTRIES):
        yield write


@pytest.fixture(scope='module')
def faces(tmp_path_factory):
    """Folder of four people with four crops each."""
    folder = tmp_path_factory.mktemp('faces') / 'faces'
    return write_folder(folder, np.random.RandomState(5), dict.fromkeys('abcd', 4))


@pytest.fixture
def train(faces, tmp_path, run_command):
    """Train a little; returns what every step logged."""

    def run(name, *words, command='train', data=faces):
        place = ('--data-dir', data, '--models-root', tmp_path, '--name', name)
        code, _, errors = run_command(command, *place, *SHORT_RUN, *words)
        assert code == 0, errors
        folder = f'{name}-gen1' if command == 'distill' else name
        rows = read_history(tmp_path / folder)
        assert all(np.isfinite(row['loss']) for row in rows)
        return rows

    return run


def losses(rows):
    return [row['loss'] for row in rows]


def test_twelve_changes_of_one_short_file_each():
    assert len(EXAMPLES) == 12
    assert {
        name: text.count('\n') for name, text in EXAMPLES.items() if text.count('\n') > 40
    } == {}
    text = (ROOT / 'docs' / 'extending.md').read_text()
    assert text.count('```python') == 12  # no example without a name, which nothing would run


def circle_logits(embedding, centres, label, gamma, m):
    """arXiv:2002.10857, Eq. 6 and 8, number by number."""
    logits = np.empty((len(embedding), len(centres)))
    for n, x in enumerate(embedding):
        for c, w in enumerate(centres):
            s = x @ w / np.linalg.norm(x) / np.linalg.norm(w)
            if c == label[n]:
                logits[n, c] = gamma * max(0, 1 + m - s) * (s - (1 - m))
            else:
                logits[n, c] = gamma * max(0, s + m) * (s - m)
    return logits


def test_loss(plug_in, train, rng):
    plug_in('circle.py', 'plain.py')
    rows = train('circle', '--loss', 'circle', '--loss-option', 'gamma=64')
    assert losses(rows) != losses(train('arcface', '--loss', 'arcface'))
    embedding, centres = rng.randn(5, 8), rng.randn(4, 8)
    label = np.array([0, 3, 1, 1, 2])
    head = Head(mx.sym.Variable('embedding'), mx.sym.Variable('label'), 4, 8)
    arrays = {'embedding': embedding, 'fc7_weight': centres, 'label': label}
    arrays = {name: mx.nd.array(array) for name, array in arrays.items()}
    output = LOSSES.get('circle')(64.0, 0.25).logits(head).bind(mx.cpu(), arrays).forward()[0]
    expected = circle_logits(embedding, centres, label, 64.0, 0.25)
    np.testing.assert_allclose(output.asnumpy(), expected, rtol=1e-4, atol=1e-3)


def test_distillation_loss_and_network(plug_in, train, run_command, tmp_path):
    plug_in('one_minus_cosine.py', 'plain.py')
    train('teacher', '--loss', 'cosface_small')
    words = ['--teacher', f'{tmp_path / "teacher" / "model"},1', '--no-classification']
    words += ['--generations', 1]
    mine = train('mine', *words, '--distill', 'one_minus_cosine', command='distill')
    l2 = train('l2', *words, command='distill')
    # of unit vectors |t - s|^2 = 2 (1 - cos), and both start from the same weights
    np.testing.assert_allclose(2 * mine[0]['distill_loss'], l2[0]['distill_loss'], rtol=1e-4)
    arg_params, _ = checkpoint.load_params(tmp_path / 'teacher' / 'model-0001.params')
    shapes = [arg_params[f'stage{stage}_weight'].shape for stage in (1, 2, 3, 4)]
    assert shapes == [(8, 3, 3, 3), (16, 8, 3, 3), (32, 16, 3, 3), (64, 32, 3, 3)]
    code, _, errors = run_command('info', 'plain')
    assert code == 0, errors


def test_pair_format(plug_in, faces, run_command, tmp_path):
    plug_in('csv_header.py')
    pairs = [
        (f'{one}/{one}_0001.jpg', f'{two}/{two}_000{n}.jpg', int(one == two))
        for one in 'abcd'
        for two in 'abcd'
        for n in (2, 3)
    ]
    (tmp_path / 'p.tsv').write_text(''.join(f'{a}\t{b}\t{same}\n' for a, b, same in pairs))
    rows = ''.join(f'{a},{b},{same}\n' for a, b, same in pairs)
    (tmp_path / 'p.csv').write_text('first,second,same\n' + rows)
    for kind in ('tsv', 'csv'):
        words = (faces, tmp_path / f'p.{kind}', tmp_path / f'{kind}.bin')
        code, result, errors = run_command('make-bin', *words)
        assert code == 0 and (result['same'], result['different']) == (8, 24), errors
    assert (tmp_path / 'csv.bin').read_bytes() == (tmp_path / 'tsv.bin').read_bytes()
    (tmp_path / 'p.csv').write_text('first,second,same\na,b,2\n')
    code, _, errors = run_command('make-bin', faces, tmp_path / 'p.csv', tmp_path / 'x.bin')
    assert code == 2 and 'line 2' in errors


def test_training_source(plug_in, train, faces, run_command, tmp_path):
    plug_in('zipped.py', 'plain.py')
    with zipfile.ZipFile(tmp_path / 'faces.zip', 'w') as archive:
        for path in faces.rglob('*.jpg'):
            archive.write(path, path.relative_to(faces))
    zipped = losses(train('zip', data=tmp_path / 'faces.zip'))
    assert zipped == losses(train('folder'))  # the same pictures in the same order
    crops = [encode_jpeg(face) for face in portraits(16)]
    with zipfile.ZipFile(tmp_path / 'drawn.zip', 'w') as archive:
        for number, crop in enumerate(crops):
            archive.writestr(f'drawn/{number:02d}.jpg', crop)
    place = ('--model', write_checkpoint(tmp_path), '--out', tmp_path / 'export')
    code, result, errors = run_command('export', *place, '--calibrate', tmp_path / 'drawn.zip')
    assert code == 0 and 'model.int8.onnx' in result['files'], errors
    used = calibration_images(tmp_path / 'drawn.zip', 100)
    np.testing.assert_array_equal(used, [decode_rgb(crop) for crop in crops])


def test_augmentation(plug_in, train, rng):
    plug_in('erase.py', 'plain.py')
    assert losses(train('erase', '--augment', 'erase')) != losses(train('mirror'))
    erase = AUGMENTATIONS.get('erase').change
    crop = rng.randint(0, 127, (112, 112, 3)).astype(np.uint8)
    shares = [(erase(crop, False, rng.rand(8)) == 127).all(axis=2).mean() for _ in range(300)]
    erased = [share for share in shares if share]
    assert 100 < len(erased) < 200 and min(erased) > 0.015 and 0.25 < max(erased) < 0.34
    np.testing.assert_array_equal(erase(crop, True, np.zeros(8)), crop[:, ::-1])


def test_schedule(plug_in, train):
    plug_in('triangle.py', 'plain.py')
    rates = [row['learning_rate'] for row in train('triangle', '--lr-mode', 'triangle')]
    # MXNet counts the first update as 1
    expected = [0.05 * x for x in (0.4, 0.8, 0.8, 0.4, 0, 0)]
    np.testing.assert_allclose(rates, expected, atol=1e-9)


def test_engine(plug_in, run_command, tmp_path):
    plug_in('opencv.py')
    export = export_folder(tmp_path)
    (tmp_path / 'crops').mkdir()
    for number, crop in enumerate(portraits(5)):
        (tmp_path / 'crops' / f'{number}.jpg').write_bytes(encode_jpeg(crop))
    rows = {}
    for engine in ('mxnet', 'opencv'):
        words = ('--model', export, '--engine', engine, '--out', tmp_path / f'{engine}.npz')
        code, _, errors = run_command('embed', tmp_path / 'crops', *words)
        assert code == 0, errors
        rows[engine] = np.load(tmp_path / f'{engine}.npz')['embeddings']
    assert len(rows['opencv']) == 5
    np.testing.assert_allclose(rows['opencv'], rows['mxnet'], atol=1e-5)
    words = (
        '--model',
        export,
        '--engine',
        'opencv',
        '--device',
        'tpu',
        '--out',
        tmp_path / 'x.npz',
    )
    code, _, errors = run_command('embed', tmp_path / 'crops', *words)
    assert code == 2 and 'OpenCV has cpu here' in errors


def test_detector(plug_in, run_command, tmp_path):
    plug_in('haar.py')
    photos = tmp_path / 'photos'
    photos.mkdir()
    for number in range(6):
        (photos / f'{number}.png').write_bytes(encoded(scene(number, size=160), '.png'))
    crops = {}
    for detector in ('haar', 'mtcnn'):
        words = (photos, tmp_path / detector, '--detector', detector, '--min-face', 30)
        code, result, errors = run_command('align', *words)
        assert code == 0 and result['found'] >= 4, errors
        paths = (tmp_path / detector).glob('*.jpg')
        crops[detector] = {path.name: decoded(path.read_bytes()) for path in paths}
    both = crops['haar'].keys() & crops['mtcnn'].keys()
    alike = [
        np.corrcoef(crops['haar'][name].ravel(), crops['mtcnn'][name].ravel())[0, 1]
        for name in both
    ]
    assert len(both) >= 4 and np.median(alike) > 0.7  # one face in one place
    code, _, errors = run_command('align', photos, tmp_path / 'x', '--detector', 'harr')
    assert code == 2 and "did you mean 'haar'" in errors


def test_pooling(plug_in, run_command, tmp_path):
    plug_in('median.py')
    frames = write_folder(tmp_path / 'videos', np.random.RandomState(5), {'a': 3, 'b': 4})
    (tmp_path / 'list.txt').write_text('a\nb\n')
    symbol = tiny_symbol()
    weights = reference_params(symbol)
    checkpoint.save_embedding(tmp_path / 'model', 1, Network(symbol, *weights))
    words = ('--model', f'{tmp_path / "model"},1', '--list', tmp_path / 'list.txt')
    words += ('--root', frames, '--track', 'video', '--out', tmp_path / 'features.bin')
    code, result, errors = run_command('lfr', *words, '--pooling', 'median')
    assert code == 0 and result['pooling'] == 'median', errors
    for row, name in zip(read_matrix(tmp_path / 'features.bin'), 'ab'):
        crops = np.stack([decode_rgb(path.read_bytes()) for path in (frames / name).iterdir()])
        units = unit_rows(embed_on_stock_graph(symbol, *weights, crops))
        # the middle one, or the mean of the two in the middle
        middle = np.sort(units, axis=0)[(len(crops) - 1) // 2 : len(crops) // 2 + 1].mean(axis=0)
        np.testing.assert_allclose(row, middle / np.linalg.norm(middle), atol=1e-5)


def test_metric_in_the_report(plug_in, run_command, tmp_path):
    plug_in('d_prime.py')
    images, issame = pair_images(np.random.RandomState(3))
    write_bin(tmp_path / 'set.bin', images, issame)
    symbol = tiny_symbol()
    checkpoint.save_embedding(tmp_path / 'model', 1, Network(symbol, *reference_params(symbol)))
    words = ('--model', f'{tmp_path / "model"},1', '--target', tmp_path / 'set.bin')
    assert run_command('verify', *words, '--save', tmp_path / 'v.npz')[0] == 0
    words = (tmp_path / 'v.npz', '--out', tmp_path / 'r.html', '--files', tmp_path / 'files')
    code, _, errors = run_command('report', *words)
    assert code == 0, errors
    (table,) = (tmp_path / 'files').glob('*metrics*.csv')
    head, row = csv.reader(table.open())
    assert head == ['run', "d'", "d' low", "d' high"]
    value, low, high = map(float, row[1:])
    saved = np.load(tmp_path / 'v.npz')
    cosine = 1 - saved['set/distances'] / 2
    genuine, impostor = cosine[saved['set/issame']], cosine[~saved['set/issame']]
    spread = np.sqrt((genuine.var() + impostor.var()) / 2)
    assert value == pytest.approx((genuine.mean() - impostor.mean()) / spread, abs=6e-4)
    assert low < value < high


def test_encrypted_gallery(plug_in, run_command, tmp_path, monkeypatch):
    plug_in('chacha.py')
    export = export_folder(tmp_path)
    people = portraits(3)
    for number, crop in enumerate(people):
        (tmp_path / f'{number}.png').write_bytes(encode_jpeg(crop))
    for key in ('key', 'other'):
        (tmp_path / key).write_bytes(np.random.bytes(32))
    monkeypatch.setenv('GALLERY_KEY', str(tmp_path / 'key'))

    def gallery(action, folder, *words):
        model = () if action == 'list' else ('--model', export)
        return run_command('gallery', action, *words, '--gallery', tmp_path / folder, *model)

    for folder, codec in (('sealed', ('--codec', 'chacha')), ('plain', ())):
        for number in range(3):
            code, _, errors = gallery(
                'enrol', folder, f'p{number}', tmp_path / f'{number}.png', '--keep-crops', *codec
            )
            assert code == 0, errors
    found = [gallery('identify', folder, tmp_path / '1.png')[1] for folder in ('sealed', 'plain')]
    assert found[0]['matches'] == found[1]['matches'] and found[0]['matches'][0]['name'] == 'p1'
    plain = (tmp_path / 'plain' / 'embeddings.f32').read_bytes()[: 3 * 4 * 32]
    sealed = b''.join(path.read_bytes() for path in (tmp_path / 'sealed').iterdir())
    assert not any(plain[start : start + 16] in sealed for start in range(0, len(plain), 16))
    assert b'JFIF' not in sealed and b'JFIF' in (tmp_path / 'plain/gallery.sqlite').read_bytes()
    code, _, errors = gallery(
        'enrol', 'plain', 'p9', tmp_path / '0.png', '--force', '--codec', 'chacha'
    )
    assert code == 2 and 'was made without a codec' in errors
    monkeypatch.setenv('GALLERY_KEY', str(tmp_path / 'other'))
    code, _, errors = gallery('list', 'sealed')
    assert code == 2 and 'another key' in errors
    monkeypatch.setattr(CODECS, '_items', {})
    code, _, errors = gallery('list', 'sealed')
    assert code == 2 and "unknown gallery codec 'chacha'" in errors


@pytest.mark.parametrize(
    'text, message',
    [
        ('raise ValueError("no\\nway")', 'ValueError: no way'),
        ('x = 1', 'registers nothing'),
        (None, 'does not exist'),
    ],
)
def test_a_plugin_that_does_not_load_is_one_line(text, message, run_command, tmp_path, monkeypatch):
    path = tmp_path / 'bad.py'
    if text:
        path.write_text(text)
    monkeypatch.setenv(plugins.VARIABLE, str(path))
    code, _, errors = run_command('info')
    assert code == 2 and message in errors and str(path) in errors
    assert len(errors.splitlines()) == 1


def test_one_plugin_runs_once_a_process(tmp_path, run_command, monkeypatch):
    text = f"""
from vargfacenet.eval.matrix_file import read_matrix
from vargfacenet.eval.pooling import POOLINGS
from vargfacenet.eval.report.statistics import METRICS
METRICS.register('none')(None)
open({json.dumps(str(tmp_path / 'ran'))}, 'a').write('x')
"""
    (tmp_path / 'mine.py').write_text(text)
    monkeypatch.setenv(plugins.VARIABLE, str(tmp_path / 'mine.py'))
    with registered_for_now(METRICS):
        assert [run_command('info')[0] for _ in range(2)] == [0, 0]
    assert (tmp_path / 'ran').read_text() == 'x'
