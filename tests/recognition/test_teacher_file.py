"""Embeddings from anywhere: an .npz teaches as a store of the same rows does."""

import contextlib

import numpy as np
import pytest
from tiny_network import reference_params, tiny_symbol
from vargfacenet.common.data.image import decode_rgb
from vargfacenet.common.data.records import open_records
from vargfacenet.common.engine.mxnet import Embedder
from vargfacenet.common.engine.network import Network
from vargfacenet.common.errors import InputError
from vargfacenet.common.history import read_history
from vargfacenet.recognition.teacher import open_teacher
from vargfacenet.recognition.teacher_file import TeacherFile
from vargfacenet.recognition.teacher_store import TeacherStore

SIZE = 32


@pytest.fixture(scope='module')
def people(patterns, tmp_path_factory):
    """The pictures of the record file as a folder of identity folders."""
    folder = tmp_path_factory.mktemp('people')
    with contextlib.closing(open_records(patterns)) as records:
        for position in range(len(records)):
            label, encoded = records.read(position)
            path = folder / f'person{label}' / f'{position:03d}.jpg'
            path.parent.mkdir(exist_ok=True)
            path.write_bytes(encoded)
    return folder


@pytest.fixture(scope='module')
def network():
    symbol = tiny_symbol(SIZE)
    return Network(symbol, *reference_params(symbol))


@pytest.fixture(scope='module')
def rows(patterns, network):
    """(48, 2, D) float32: embeddings of all pictures and of their mirror images."""
    with contextlib.closing(open_records(patterns)) as records:
        images = np.stack([decode_rgb(records.read(n)[1]) for n in range(len(records))])
    embed = Embedder(network).embed
    return np.stack([embed(images), embed(images[:, :, ::-1])], axis=1)


def save(path, **arrays):
    np.savez(path, **arrays)
    return path


def test_rows_go_to_their_pictures_by_number_and_by_name(patterns, people, rows, tmp_path):
    order = np.random.RandomState(0).permutation(48)
    shuffled = {'embeddings': rows[order, 0], 'mirrored': rows[order, 1]}
    by_number = TeacherFile(save(tmp_path / 'a.npz', records=order, **shuffled), patterns)
    names = [f'person{n // 8}/{n:03d}.jpg' for n in order]
    by_name = TeacherFile(save(tmp_path / 'b.npz', names=names, **shuffled), people)
    positions, mirrored = np.array([5, 5, 47, 0]), np.array([False, True, True, False])
    for file in (by_number, by_name):
        np.testing.assert_array_equal(
            file.read(positions, mirrored), rows[positions, mirrored.astype(int)]
        )


def test_without_mirrored_rows_an_image_stands_for_its_mirror_image(
    patterns, rows, tmp_path, caplog
):
    with caplog.at_level('INFO', 'vargfacenet'):
        path = save(tmp_path / 'a.npz', embeddings=rows[:, 0], records=np.arange(48))
        file = TeacherFile(path, patterns)
    assert 'no mirrored embeddings' in caplog.text
    one, other = file.read(np.array([7, 7]), np.array([False, True]))
    np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        ({'records': None}, 'expected embeddings'),
        ({'embeddings': None}, 'expected embeddings'),
        ({'records': np.arange(47)}, '47 names or numbers for 48'),
        ({'records': np.zeros(48, int)}, '47 pictures have two rows'),
        ({'records': np.arange(1, 49)}, 'no embedding of 1 of the 48 pictures.*of them 0'),
        ({'records': np.arange(48.0)}, 'not int'),
        ({'records': None, 'names': np.arange(48).astype(str)}, 'have numbers, not names'),
        ({'mirrored': np.ones((47, SIZE))}, 'expected one shape'),
        ({'embeddings': np.zeros((48, SIZE), np.float32)}, 'row 0 has the length 0'),
        ({'embeddings': np.full((48, SIZE), np.nan)}, 'no direction'),
        ({'embeddings': np.ones((48, SIZE), int)}, 'not float'),
    ],
)
def test_what_is_wrong_with_a_file_is_said(patterns, rows, tmp_path, change, message):
    arrays = {'embeddings': rows[:, 0], 'records': np.arange(48), **change}
    arrays = {name: value for name, value in arrays.items() if value is not None}
    with pytest.raises(InputError, match=message):
        TeacherFile(save(tmp_path / 'a.npz', **arrays), patterns)


def test_a_damaged_file_is_said(patterns, tmp_path):
    (tmp_path / 'a.npz').write_bytes(b'PK\x03\x04 and no more')
    with pytest.raises(InputError, match=r'no \.npz of plain arrays'):
        TeacherFile(tmp_path / 'a.npz', patterns)


@pytest.fixture(scope='module')
def onnx_file(network, tmp_path_factory):
    pytest.importorskip('onnxruntime')
    from vargfacenet.common.engine.fold import fold_batch_norms
    from vargfacenet.common.engine.to_onnx import to_onnx

    path = tmp_path_factory.mktemp('onnx') / 'teacher.onnx'
    path.write_bytes(to_onnx(fold_batch_norms(network)).SerializeToString())
    return path


def test_an_onnx_file_fills_a_store(people, onnx_file, rows, run_command):
    """From a folder of people, without a .rec."""
    code, result, errors = run_command('teach', '--data-dir', people, '--teacher', onnx_file)
    assert code == 0, errors
    header = open_teacher(str(onnx_file)).header(people)
    store = TeacherStore(result['store'], header)
    for mirrored in (0, 1):
        expected = rows[:, mirrored] / np.linalg.norm(rows[:, mirrored], axis=1, keepdims=True)
        given = store.read(np.arange(48), np.full(48, bool(mirrored)))
        assert np.abs(given - expected).max() < 2e-3  # float16 of values below 1


def curve(run_command, folder, *words):
    code, _, errors = run_command('distill', *words, '--models-root', folder)
    assert code == 0, errors
    return [row['distill_loss'] for row in read_history(folder / 'run-gen1')]


def test_file_and_live_engine_teach_alike(
    small_options, patterns, onnx_file, rows, run_command, tmp_path
):
    """No classification, a tiny learning rate: the first steps show what is taught."""
    path = save(
        tmp_path / 'rows.npz',
        embeddings=rows[:, 0],
        mirrored=rows[:, 1],
        records=np.arange(48),
    )
    common = [*small_options, '--generations', 1, '--frequent', 1, '--steps', 4, '--lr', 1e-6]
    common += ['--no-classification']
    file = curve(run_command, tmp_path / 'file', *common, '--teacher', path)
    live = ['--teacher', onnx_file, '--teacher-store', 'live']
    np.testing.assert_allclose(
        curve(run_command, tmp_path / 'live', *common, *live), file, rtol=1e-3
    )
    assert len(file) == 4


def test_a_student_of_another_size_is_told_what_to_do(options, onnx_file, run_command):
    words = [*options, '--network-option', 'emb_size=64', '--teacher', onnx_file]
    code, _, errors = run_command('distill', *words)
    assert code == 2 and '--network-option emb_size=32' in errors
