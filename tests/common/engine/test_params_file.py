"""`.params` files against MXNet itself, the format's older versions, and damage of every kind."""

import struct

import numpy as np
import pytest
from vargfacenet.common.backend import mx
from vargfacenet.common.engine.params_file import read_arrays, write_arrays
from vargfacenet.common.errors import InputError

TRAILER_BYTES = 12
ARRAYS = {
    'arg:weight': np.arange(24, dtype=np.float32).reshape(2, 3, 4),
    'aux:ü': np.array([[-1.5]], np.float64),
    'half': np.linspace(0, 1, 5).astype(np.float16),
    'bytes': np.arange(8, dtype=np.uint8).reshape(2, 2, 2),
    'signed': np.array([-128, 127], np.int8),
    'int': np.array([-(2**31), 2**31 - 1], np.int32),
    'long': np.array([-(2**63), 2**63 - 1], np.int64),
    'flags': np.array([True, False, True]),
}


def same(arrays, others):
    return list(arrays) == list(others) and all(
        arrays[name].dtype == others[name].dtype and np.array_equal(arrays[name], others[name])
        for name in arrays
    )


def test_mxnet_reads_what_we_write_and_writes_the_same_bytes(tmp_path):
    ours, theirs = tmp_path / 'ours.params', tmp_path / 'theirs.params'
    write_arrays(ours, ARRAYS)
    assert same(ARRAYS, {k: v.asnumpy() for k, v in mx.nd.load(str(ours)).items()})
    mx.nd.save(str(theirs), {k: mx.nd.array(v, dtype=v.dtype) for k, v in ARRAYS.items()})
    assert ours.read_bytes()[:-TRAILER_BYTES] == theirs.read_bytes()
    assert same(ARRAYS, read_arrays(theirs))
    assert same(ARRAYS, read_arrays(ours))


def test_an_array_that_is_a_view_is_written_in_c_order(tmp_path):
    array = np.arange(12, dtype=np.float32).reshape(3, 4).T[::2]
    write_arrays(tmp_path / 'a.params', {'a': array})
    assert np.array_equal(mx.nd.load(str(tmp_path / 'a.params'))['a'].asnumpy(), array)


def one_array(header, values=(1.0, 2.0), name=b'a'):
    elements = np.array(values, '<f4').tobytes()
    names = struct.pack('<QQ', 1, len(name)) + name
    return struct.pack('<QQQ', 0x112, 0, 1) + header + elements + names


V0 = struct.pack('<IIIiii', 2, 1, 2, 1, 0, 0)  # MXNet before 0.12: the axes, then uint32 lengths
V1 = struct.pack('<IiqqIii', 0xF993FAC8, 2, 1, 2, 1, 0, 0)
V3 = struct.pack('<IiiqqIii', 0xF993FACA, 0, 2, 1, 2, 1, 0, 0)
V3_SCALAR = struct.pack('<IiiIii', 0xF993FACA, 0, 0, 1, 0, 0)


@pytest.mark.parametrize('header', [V0, V1], ids=['V0', 'V1'])
def test_versions_of_old_mxnets(tmp_path, header):
    path = tmp_path / 'old.params'
    path.write_bytes(one_array(header))
    assert mx.nd.load(str(path))['a'].asnumpy().tolist() == [[1, 2]]
    assert read_arrays(path)['a'].tolist() == [[1, 2]]


def test_the_version_with_scalars(tmp_path):
    path = tmp_path / 'np.params'
    path.write_bytes(one_array(V3))
    assert read_arrays(path)['a'].tolist() == [[1, 2]]
    with mx.util.np_shape(True):
        assert mx.nd.load(str(path))['a'].asnumpy().tolist() == [[1, 2]]
    path.write_bytes(one_array(V3_SCALAR, [3.0]))
    assert read_arrays(path)['a'] == 3.0


def test_every_flipped_bit_is_noticed(tmp_path):
    path = tmp_path / 'a.params'
    write_arrays(path, {'arg:a': np.ones(3, np.float32), 'aux:b': np.zeros((1, 2), np.uint8)})
    content = path.read_bytes()
    for bit in range(8 * len(content)):
        damaged = bytearray(content)
        damaged[bit // 8] ^= 1 << bit % 8
        path.write_bytes(damaged)
        with pytest.raises(InputError, match=str(path)):
            read_arrays(path)


def test_every_cut_is_noticed_but_that_of_the_checksum(tmp_path):
    path = tmp_path / 'a.params'
    write_arrays(path, {'arg:a': np.ones(3, np.float32)})
    content = path.read_bytes()
    for length in range(len(content)):
        path.write_bytes(content[:length])
        if length == len(content) - TRAILER_BYTES:  # what MXNet writes
            read_arrays(path)
            continue
        with pytest.raises(InputError, match=str(path)):
            read_arrays(path)


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (b'', '24 bytes where 0'),
        (b'x' * 500, 'does not start as one'),
        (struct.pack('<QQQ', 0x112, 0, 1 << 40), 'number of arrays'),
        (struct.pack('<QQQIii', 0x112, 0, 1, 0xF993FAC9, 0, 1 << 30), 'number of axes'),
        (struct.pack('<QQQIii', 0x112, 0, 1, 0xF993FAC9, 0, -1), 'number of axes'),
        (struct.pack('<QQQIii', 0x112, 0, 1, 0xF993FAC9, 1, 2), 'sparse'),
        (one_array(struct.pack('<IiiqqIii', 0xF993FAC9, 0, 2, 1, -2, 1, 0, 0)), r'\(1, -2\)'),
        (one_array(struct.pack('<IiiIii', 0xF993FAC9, 0, 0, 1, 0, 0)), r'shape \(\)'),
        (
            one_array(struct.pack('<IiiqqIii', 0xF993FAC9, 0, 2, 1 << 40, 1 << 40, 1, 0, 0)),
            'where 25 are left',
        ),
        (one_array(struct.pack('<IiiqqIii', 0xF993FAC9, 0, 2, 1, 2, 1, 0, 12)), 'type 12'),
        (one_array(V1, name=b'\xff'), 'utf-8'),
        (one_array(V1, name=b'a' * 2000), 'length of a name'),
        (one_array(V1) + b'more', 'something else follows'),
        (struct.pack('<QQQQQ', 0x112, 0, 0, 1, 1 << 40), 'name each'),
    ],
)
def test_a_file_that_lies_is_refused_before_memory_is_taken(tmp_path, content, message):
    path = tmp_path / 'a.params'
    path.write_bytes(content)
    with pytest.raises(InputError, match=message):
        read_arrays(path)


@pytest.mark.parametrize(
    'array', [np.ones(2, complex), np.ones(()), np.ones((2, 0)), np.ones(2, '>f4')]
)
def test_what_has_no_place_in_the_format(tmp_path, array):
    with pytest.raises(InputError, match='has no place'):
        write_arrays(tmp_path / 'a.params', {'a': array})
    assert not list(tmp_path.iterdir())
