"""Checksums of files whose formats have no place for one."""

import contextlib
import json
import zlib

import numpy as np
import pytest
from vargfacenet.common import checksums
from vargfacenet.common.checksums import CHECKSUMS, check, forget, noted
from vargfacenet.common.data.pair_lists import read_pair_list
from vargfacenet.common.data.recordio import RecordFile, write_face_records
from vargfacenet.common.errors import InputError
from vargfacenet.deploy.checks import find
from vargfacenet.eval.matrix_file import new_matrix, read_matrix


def entries(folder):
    return json.loads((folder / CHECKSUMS).read_text())


def test_the_list_tells_of_each_file(tmp_path):
    first, second = tmp_path / 'a', tmp_path / 'b'
    with noted(first, tmp_path / 'never written'):
        first.write_bytes(b'one')
    with noted(second):
        second.write_bytes(b'two' * 1_000_000)
    assert entries(tmp_path) == {'a': zlib.crc32(b'one'), 'b': zlib.crc32(b'two' * 1_000_000)}
    for path in (first, second, tmp_path / 'never written', tmp_path / 'of others'):
        check(path)
    first.write_bytes(b'onE')
    check(second)
    with pytest.raises(InputError, match='a was changed or damaged after it was written'):
        check(first)
    forget(first)
    check(first)
    assert list(entries(tmp_path)) == ['b']


def test_an_error_brings_the_old_entry_back(tmp_path):
    path = tmp_path / 'a'
    with noted(path):
        path.write_bytes(b'one')
    with pytest.raises(ZeroDivisionError), noted(path):
        assert entries(tmp_path) == {}  # a kill here leaves a file that is not checked
        1 / 0  # noqa: B018
    check(path)
    assert list(entries(tmp_path)) == ['a']


@pytest.mark.parametrize('content', ['[]', '{"a": "x"}', '{"a": true}', '{"a": 1', '\0'])
def test_a_damaged_list_is_one_line_and_written_anew(content, tmp_path):
    (tmp_path / CHECKSUMS).write_text(content)
    with pytest.raises(InputError, match=CHECKSUMS):
        check(tmp_path / 'a')
    with noted(tmp_path / 'a'):
        (tmp_path / 'a').write_bytes(b'one')
    check(tmp_path / 'a')


def test_another_tools_list_of_that_name_is_no_reason_to_refuse(tmp_path, caplog):
    (tmp_path / CHECKSUMS).write_text('{"a.jpg": "d41d8cd9"}')
    (tmp_path / 'pairs.txt').write_text('a/1.jpg a/2.jpg 1\na/1.jpg b/1.jpg 0\n')
    assert len(read_pair_list(tmp_path / 'pairs.txt').pairs) == 2
    assert 'pairs.txt is not compared: ' in caplog.text
    assert f'{CHECKSUMS} is no list of checksums' in caplog.text


@pytest.mark.parametrize('name', ['train.idx', 'property'])
def test_every_bit_beside_the_records_is_looked_at(name, tmp_path, rng, caplog):
    """Training says so and goes on, where it can: people edit these files. `check` finds fault."""
    write_face_records(tmp_path / 'train', [[b'one', b'two'], [b'three']])
    RecordFile(tmp_path / 'train.rec').close()
    content = (tmp_path / name).read_bytes()
    for bit in rng.choice(8 * len(content), 40, replace=False):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        (tmp_path / name).write_bytes(damaged)
        caplog.clear()
        with contextlib.suppress(InputError):
            RecordFile(tmp_path / 'train.rec').close()
        assert f'{name} was changed or damaged' in caplog.text
        (item,) = find(tmp_path)[0]
        assert any(f'{name} was changed or damaged' in line for line in item.check().problems)
    (tmp_path / CHECKSUMS).unlink()  # as of a set that others wrote
    (tmp_path / name).write_bytes(content)
    RecordFile(tmp_path / 'train.rec').close()


def test_every_bit_of_features_is_looked_at(tmp_path, rng):
    path = tmp_path / 'features.bin'
    with new_matrix(path, 5, 3) as rows:
        rows[:] = rng.standard_normal((5, 3))
    content = path.read_bytes()
    assert np.array_equal(read_matrix(path), rows)
    for bit in rng.choice(range(8 * 16, 8 * len(content)), 40, replace=False):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=r'features\.bin was changed or damaged'):
            read_matrix(path)


def test_a_list_is_read_in_blocks(tmp_path, monkeypatch):
    monkeypatch.setattr(checksums, '_BLOCK', 3)
    (tmp_path / 'a').write_bytes(b'0123456789')
    assert checksums.crc32(tmp_path / 'a') == zlib.crc32(b'0123456789')
