"""Embedding files and what is refused in them."""

import numpy as np
import pytest
from vargfacenet.common.errors import InputError
from vargfacenet.eval.embeddings import (
    Embeddings,
    check_embeddings,
    count_duplicates,
    load_embeddings,
    without_rows,
)
from vargfacenet.eval.matrix_file import write_matrix


@pytest.fixture
def rows(rng):
    rows = rng.standard_normal((50, 12))
    return (rows / np.linalg.norm(rows, axis=1, keepdims=True)).astype(np.float32)


def test_every_form_of_file(rows, tmp_path):
    labels = np.arange(50) // 2
    np.save(tmp_path / 'a.npy', rows)
    np.savez(tmp_path / 'a.npz', embeddings=rows, labels=labels)
    write_matrix(tmp_path / 'a.bin', rows)
    (tmp_path / 'a.txt').write_text('\n'.join(f'p{label}' for label in labels))
    np.save(tmp_path / 'l.npy', labels)
    for name in ('a.npy', 'a.bin'):
        loaded = load_embeddings(tmp_path / name, tmp_path / 'l.npy')
        assert isinstance(loaded.rows, np.memmap)
        assert (loaded.rows == rows).all() and (loaded.labels == labels).all()
        assert load_embeddings(tmp_path / name).labels is None
    np.savez_compressed(tmp_path / 'c.npz', embeddings=rows, labels=labels)
    np.savez(tmp_path / 'f.npz', x=labels, embeddings=np.asfortranarray(rows), labels=labels)
    for name, mapped in (('a.npz', True), ('c.npz', False), ('f.npz', True)):
        loaded = load_embeddings(tmp_path / name)
        assert isinstance(loaded.rows, np.memmap) == mapped
        assert (loaded.rows == rows).all() and (loaded.labels == labels).all()
    loaded = load_embeddings(tmp_path / 'a.npz', tmp_path / 'a.txt')
    assert loaded.labels.tolist() == [f'p{label}' for label in labels]


@pytest.mark.parametrize(
    ('save', 'message'),
    [
        (lambda path, rows: np.savez(path, x=rows), r"holds \['x'\]"),
        (lambda path, rows: np.savez(path, embeddings=rows[0]), r'float32 \(12,\)'),
        (lambda path, rows: np.savez(path, embeddings=rows.astype(int)), 'expected float'),
        (lambda path, rows: np.savez(path, embeddings=rows, labels=[1]), r'\(1,\) for 50'),
        (lambda path, rows: np.savez(path, embeddings=np.array([{}], object)), 'no .npz'),
        (lambda path, rows: path.write_bytes(b'x'), 'no .npz'),
    ],
)
def test_wrong_files(rows, tmp_path, save, message):
    path = tmp_path / 'a.npz'
    save(path, rows)
    with pytest.raises(InputError, match=message):
        load_embeddings(path)


def test_objects_are_not_unpickled(tmp_path):
    np.save(tmp_path / 'a.npy', np.array([{}], object))
    with pytest.raises(InputError, match=r'no .npy of a plain array'):
        load_embeddings(tmp_path / 'a.npy')


@pytest.mark.parametrize(
    ('value', 'message'),
    [
        (np.nan, r'probes: NaN or infinite in 2 of 50 rows: 7, 30'),
        (np.inf, r'NaN or infinite'),
        (0, r'2 of 50 rows are zero .*: 7, 30; leave them out with --skip-zero'),
        (0.5, r'2 of 50 rows are not of unit length \(row 7: 1\.7'),
    ],
)
def test_bad_rows_are_named(rows, value, message):
    rows[[7, 30]] = value
    with pytest.raises(InputError, match=message):
        check_embeddings(rows, 'probes')


def test_zero_rows_can_be_left_out(rows):
    rows[[7, 30]] = 0
    check = check_embeddings(rows, 'probes', allow_zero=True)
    assert check.zero.tolist() == [7, 30]
    left = without_rows(Embeddings(rows, np.arange(50)), check.zero)
    assert left.rows.shape == (48, 12) and 7 not in left.labels
    assert (left.rows[:] == np.delete(rows, [7, 30], axis=0)).all()
    assert (left.rows[6:9] == rows[[6, 8, 9]]).all()


def test_duplicates_are_counted(rows, rng):
    others = np.vstack([rows[3:6], -rows, rows[:, ::-1], rows[:2].astype(np.float16)])
    others[0, 5] = np.nextafter(others[0, 5], np.float32(2))  # a single bit makes another row
    keys = check_embeddings(rows, 'a').keys
    assert len(set(keys)) == 50
    assert count_duplicates(keys, check_embeddings(others, 'b').keys) == 2
