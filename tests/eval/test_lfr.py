"""The challenge's feature files of drawn images, and its rule."""

import os
import shutil

import cv2
import numpy as np
import pytest
from tiny_network import embed_on_stock_graph, reference_params, tiny_symbol
from vargfacenet.common import flops
from vargfacenet.common.data.listed import read_list
from vargfacenet.common.engine.checkpoint import save_embedding
from vargfacenet.common.engine.mxnet import Embedder
from vargfacenet.common.engine.network import Network
from vargfacenet.eval.lfr import check_budget
from vargfacenet.eval.matrix_file import read_matrix
from vargfacenet.eval.pooling import POOLINGS
from vargfacenet.symbol import get_symbol

IMAGES = 7


@pytest.fixture
def folder(tmp_path, rng):
    symbol = tiny_symbol()
    save_embedding(tmp_path / 'model', 1, Network(symbol, *reference_params(symbol)))
    for index in range(IMAGES):
        path = tmp_path / 'images' / f'v{index // 3}' / f'{index}.jpg'
        path.parent.mkdir(parents=True, exist_ok=True)
        cv2.imwrite(str(path), rng.randint(0, 256, (112, 112, 3), np.uint8))
    (tmp_path / 'images.txt').write_text(
        ''.join(f'v{index // 3}/{index}.jpg\n' for index in range(IMAGES))
    )
    (tmp_path / 'videos.txt').write_text('v0 3\nv1 3\nv2 1\n')
    return tmp_path


def run(folder, run_command, list_name, *more):
    options = ['--model', f'{folder / "model"},1', '--list', folder / list_name]
    options += ['--root', folder / 'images', '--out', folder / 'features.bin']
    options += ['--batch-size', 2, *more]
    return run_command('lfr', *options)


def unit(rows):
    rows = np.asarray(rows, np.float64)
    return rows / np.linalg.norm(rows, axis=1, keepdims=True)


def frame_paths(folder):
    return [folder / 'images' / f'v{index // 3}' / f'{index}.jpg' for index in range(IMAGES)]


def stock_embeddings(folder, flip):
    images = np.stack([cv2.imread(str(path))[:, :, ::-1] for path in frame_paths(folder)])
    images = images[:, :, ::-1] if flip else images
    symbol = tiny_symbol()
    return embed_on_stock_graph(symbol, *reference_params(symbol), images).astype(np.float64)


def test_image_track(folder, run_command):
    code, result, err = run(folder, run_command, 'images.txt')
    assert code == 0, err
    assert (result['rows'], result['columns'], result['missing']) == (IMAGES, 16, 0)
    assert result['within_budget'] is True
    expected = unit(stock_embeddings(folder, False) + stock_embeddings(folder, True))
    assert np.abs(read_matrix(folder / 'features.bin') - expected).max() < 1e-5


def test_video_track(folder, run_command):
    code, _, err = run(folder, run_command, 'videos.txt', '--track', 'video')
    assert code == 0, err
    assert "3 rows; the challenge's own list has 203848" in err
    frames = unit(stock_embeddings(folder, False))
    expected = unit([frames[start : start + 3].sum(axis=0) for start in (0, 3, 6)])
    assert np.abs(read_matrix(folder / 'features.bin') - expected).max() < 1e-5


def test_video_track_with_mirror_images(folder, run_command):
    """The mean of both before a frame's length counts, as the pooling by lengths shows."""
    options = ['--track', 'video', '--pooling', 'norm', '--flip']
    code, result, err = run(folder, run_command, 'videos.txt', *options)
    assert code == 0 and result['flip'], err
    both = stock_embeddings(folder, False) + stock_embeddings(folder, True)
    expected = unit([both[start : start + 3].sum(axis=0) for start in (0, 3, 6)])
    assert np.abs(read_matrix(folder / 'features.bin') - expected).max() < 1e-5


def test_frames_of_any_kind_count_and_hidden_files_do_not(folder, run_command):
    run(folder, run_command, 'videos.txt', '--track', 'video')
    expected = np.array(read_matrix(folder / 'features.bin'))
    videos = folder / 'images'
    picture = cv2.imread(str(videos / 'v0' / '1.jpg'))
    (videos / 'v0' / '1.jpg').unlink()
    cv2.imwrite(str(videos / 'v0' / '1.png'), picture)
    (videos / 'v0' / '2.jpg').rename(videos / 'v0' / '2.JPG')
    (videos / 'v0' / '._0.jpg').write_bytes(b'Mac OS X')
    (videos / 'v0' / 'notes.txt').write_text('no frame')
    run(folder, run_command, 'videos.txt', '--track', 'video')
    assert np.abs(read_matrix(folder / 'features.bin') - expected).max() < 1e-6


def quality_network(folder):
    """A small network of one output, beside the model; its qualities of the frames."""
    symbol = tiny_symbol(1)
    weights = reference_params(symbol, seed=7)
    save_embedding(folder / 'quality', 1, Network(symbol, *weights))
    images = np.stack([cv2.imread(str(path))[:, :, ::-1] for path in frame_paths(folder)])
    return embed_on_stock_graph(symbol, *weights, images)[:, 0]


@pytest.mark.parametrize('name', POOLINGS.names())
def test_video_track_with_every_pooling(name, folder, run_command):
    """The qualities of a network, read and batched with the frames."""
    qualities = quality_network(folder)
    options = ['--track', 'video', '--pooling', name, '--quality', f'{folder / "quality"},1']
    code, result, err = run(folder, run_command, 'videos.txt', *options)
    assert code == 0, err
    frames = stock_embeddings(folder, False).astype(np.float32)
    rows = [
        POOLINGS.get(name)(frames[start:end], qualities[start:end])
        for start, end in ((0, 3), (3, 6), (6, 7))
    ]
    assert np.abs(read_matrix(folder / 'features.bin') - unit(rows)).max() < 1e-4
    both = [flops.count(tiny_symbol(size)).flops for size in (16, 1)]
    assert (result['pooling'], result['flops']) == (name, sum(both))


def test_a_quality_network_brings_the_safe_form(folder, run_command):
    quality_network(folder)
    options = ['--track', 'video', '--quality', f'{folder / "quality"},1']
    assert run(folder, run_command, 'videos.txt', *options)[1]['pooling'] == 'qan++-safe'


def test_the_published_form_names_the_video_it_fails_for(folder, run_command):
    for index in (1, 2):  # three frames of equal quality
        shutil.copy(folder / 'images/v0/0.jpg', folder / f'images/v0/{index}.jpg')
    options = ['--track', 'video', '--pooling', 'qan++']
    code, _, err = run(folder, run_command, 'videos.txt', *options)
    assert code == 2 and 'v0: --pooling qan++' in err and 'qan++-safe' in err
    assert not (folder / 'features.bin').exists()
    options[-1] = 'qan++-safe'
    assert run(folder, run_command, 'videos.txt', *options)[0] == 0


@pytest.mark.parametrize(
    ('options', 'message'),
    [
        (['--pooling', 'norm'], '--track video'),
        (['--flip'], 'the image track always mirrors'),
        (['--track', 'video', '--quality', 'model,1'], '16 outputs a picture'),
    ],
)
def test_wrong_pooling_options(folder, run_command, monkeypatch, options, message):
    monkeypatch.chdir(folder)
    code, _, err = run(folder, run_command, 'videos.txt', *options)
    assert code == 2 and message in err


def test_batches_go_over_the_ends_of_videos(folder, run_command, monkeypatch):
    batches = []
    forward = Embedder._forward

    def counted(self, data, rows):
        batches.append(rows)
        return forward(self, data, rows)

    monkeypatch.setattr(Embedder, '_forward', counted)
    code, _, err = run(folder, run_command, 'videos.txt', '--track', 'video')
    assert code == 0, err
    assert batches == [2, 2, 2, 1]  # 3 + 3 + 1 frames, two a batch


def test_videos_without_a_picture_and_frames_that_are_none(folder, run_command, monkeypatch):
    frames = unit(stock_embeddings(folder, False))
    (folder / 'images' / 'v1' / '4.jpg').write_bytes(b'no picture')
    (folder / 'images' / 'v2' / '6.jpg').unlink()
    monkeypatch.setattr('vargfacenet.eval.features._BATCHES_A_PART', 1)  # parts of 3, 3, 0 frames
    code, result, err = run(folder, run_command, 'videos.txt', '--track', 'video')
    assert code == 0, err
    assert result['missing_names'] == ['v2']
    assert '1 of 6 frames are no pictures' in err
    expected = unit([frames[:3].sum(axis=0), frames[3] + frames[5]])
    features = read_matrix(folder / 'features.bin')
    assert np.abs(features[:2] - expected).max() < 1e-5 and not features[2].any()


def test_missing_images_are_zero_and_counted(folder, run_command):
    (folder / 'images' / 'v0' / '1.jpg').unlink()
    (folder / 'images' / 'v1' / '4.jpg').write_bytes(b'no picture')
    code, result, err = run(folder, run_command, 'images.txt')
    assert code == 0
    assert result['missing_names'] == ['v0/1.jpg', 'v1/4.jpg']
    assert '2 of 7 rows' in err and 'v0/1.jpg' in err
    zero = ~read_matrix(folder / 'features.bin').any(axis=1)
    assert np.flatnonzero(zero).tolist() == [1, 4]


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda folder: (folder / 'images').rename(folder / 'elsewhere'), 'is no folder'),
        (lambda folder: (folder / 'images' / 'v0').rename(folder / 'v0'), None),
        (lambda folder: (folder / 'images.txt').write_text('\n'), 'is empty'),
        (lambda folder: (folder / 'images.txt').write_text('x.jpg\ny.jpg'), 'none of the 2'),
        (
            lambda folder: cv2.imwrite(str(folder / 'images/v0/0.jpg'), np.zeros((90, 112, 3))),
            '112x90 pixels; an aligned crop has 112x112',
        ),
    ],
)
def test_wrong_input(folder, run_command, change, message):
    change(folder)
    code, _, err = run(folder, run_command, 'images.txt')
    assert code == (2 if message else 0)
    if message:
        assert message in err
        assert not (folder / 'features.bin').exists()


def test_the_list_is_not_replaced_by_the_features(folder, run_command):
    before = (folder / 'images.txt').read_bytes()
    code, _, err = run(folder, run_command, 'images.txt', '--out', folder / 'images.txt')
    assert code == 2 and 'images.txt is what is read' in err
    assert (folder / 'images.txt').read_bytes() == before


def test_a_list_of_nothing_is_refused_before_the_model_is_read(folder, run_command):
    (folder / 'no.txt').write_text('x\nx' + 300 * 'y' + '\n')
    for track, what in (('image', 'pictures'), ('video', 'folders')):
        code, _, err = run(folder, run_command, 'no.txt', '--track', track, '--model', 'no.onnx')
        assert code == 2 and f'no.txt: none of the 2 {what} of the list is there, e.g. x;' in err


@pytest.mark.parametrize(
    ('network', 'options', 'budget', 'fits'),
    [
        ('vargfacenet', {}, 'light', True),  # won this track
        ('vargfacenet', {'multiplier': 1.5}, 'light', False),
        ('y2', {}, 'light', True),
        ('r100_se', {}, 'light', False),
        ('r100_se', {}, 'large', True),
    ],
)
def test_budget(network, options, budget, fits):
    rule = check_budget(flops.count(get_symbol(network, **options)), budget)
    assert rule['within_budget'] is fits
    assert rule['flops_limit'] == {'light': 2**30, 'large': 30 * 2**30}[budget]


def test_names_of_lists_may_hold_blanks_and_marks(tmp_path):
    for name in ('A Cook/1 2.jpg', 'b.jpg'):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_bytes(b'')
    path = tmp_path / 'list.txt'
    path.write_bytes(b'\xef\xbb\xbfA Cook/1 2.jpg\r\n\r\nb.jpg who\r\nc d.jpg\tanna bee\r\n')
    names = ['A Cook/1 2.jpg', 'b.jpg', 'c d.jpg']
    assert [name for name, *_ in read_list(path, tmp_path)] == names
    assert [rest for _, *rest in read_list(path, tmp_path)] == [[], ['who'], ['anna bee']]
    path.write_bytes(b'M\xfcller.jpg\n')
    (tmp_path / os.fsdecode(b'M\xfcller.jpg')).write_bytes(b'')
    assert (tmp_path / read_list(path)[0][0]).is_file()
