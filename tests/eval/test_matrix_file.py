"""Feature files: byte for byte those of the reference, and damaged ones."""

import numpy as np
import pytest
from conftest import DATA
from vargfacenet.common.errors import InputError
from vargfacenet.eval.matrix_file import (
    new_matrix,
    read_matrix,
    read_megaface,
    write_matrix,
    write_megaface,
)

LFR = DATA / 'lfr_feature_5x8.bin'


def test_lfr_file_equals_the_reference(tmp_path):
    expected = np.random.RandomState(21).standard_normal((5, 8)).astype(np.float32)
    assert (read_matrix(LFR) == expected).all()
    write_matrix(tmp_path / 'all.bin', expected)
    with new_matrix(tmp_path / 'rows.bin', 5, 8) as matrix:
        for index, row in enumerate(expected):
            matrix[index] = row
    for name in ('all.bin', 'rows.bin'):
        assert (tmp_path / name).read_bytes() == LFR.read_bytes()


def test_megaface_file_equals_the_reference(tmp_path):
    embedding = read_megaface(DATA / 'megaface_raw_512.bin')
    expected = np.random.RandomState(22).standard_normal(512)
    assert np.abs(embedding - expected / np.linalg.norm(expected)).max() < 3e-8
    write_megaface(tmp_path / 'a.bin', embedding)
    assert (tmp_path / 'a.bin').read_bytes() == (DATA / 'megaface_raw_512.bin').read_bytes()


def test_an_interrupted_file_is_not_there(tmp_path):
    with pytest.raises(KeyboardInterrupt), new_matrix(tmp_path / 'a.bin', 5, 8):
        raise KeyboardInterrupt
    assert list(tmp_path.iterdir()) == []


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', '0 bytes'),
        (LFR.read_bytes()[:-1], '175 bytes, but its header announces 5 x 8 float32, 176 bytes'),
        (LFR.read_bytes() + b'\0', '177 bytes, but'),
        (b'\0' * 176, 'header 0, 0, 0, 0'),
        (b'\x89PNG' * 44, 'is not that of a float32 feature file'),
    ],
)
def test_damaged_files(tmp_path, content, message):
    path = tmp_path / 'a.bin'
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_matrix(path)


def test_a_matrix_is_no_megaface_file():
    with pytest.raises(InputError, match='one D x 1 column'):
        read_megaface(LFR)
