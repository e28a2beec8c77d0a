"""`.npy` and `.npz` as NumPy writes them, and archives that unpack to more than they should."""

import hashlib
import io
import pickle
import tracemalloc
import zipfile

import numpy as np
import pytest
from vargfacenet.common import limits
from vargfacenet.common.arrays import digest_of, map_npy, read_npz
from vargfacenet.common.errors import InputError

ARRAYS = {
    'rows': np.arange(12, dtype=np.float32).reshape(3, 4),
    'fortran': np.asfortranarray(np.arange(12.0).reshape(3, 4)),
    'names': np.array(['ada', 'bö']),
    'text': np.array('{"a": 1}'),
    'flags': np.array([True, False]),
    'none': np.empty((0, 4), np.float32),
}


@pytest.mark.parametrize('save', [np.savez, np.savez_compressed])
@pytest.mark.parametrize('mapped', [None, 'rows'])
def test_archives_read_as_numpy_reads_them(tmp_path, save, mapped):
    save(tmp_path / 'a.npz', **ARRAYS)
    arrays = read_npz(tmp_path / 'a.npz', mapped)
    with np.load(tmp_path / 'a.npz') as expected:
        assert arrays.keys() == set(expected.files)
        for name in arrays:
            assert arrays[name].dtype == expected[name].dtype
            np.testing.assert_array_equal(arrays[name], expected[name])
    assert isinstance(arrays['rows'], np.memmap) == (mapped == 'rows' and save is np.savez)


@pytest.mark.parametrize('name', [name for name in ARRAYS if name != 'text'])
@pytest.mark.parametrize('version', [(1, 0), (2, 0), (3, 0)])
def test_arrays_of_every_version_are_mapped(tmp_path, name, version):
    with open(tmp_path / 'a.npy', 'wb') as handle:
        np.lib.format.write_array(handle, ARRAYS[name], version)
    array = map_npy(tmp_path / 'a.npy')
    np.testing.assert_array_equal(array, ARRAYS[name])
    assert isinstance(array, np.memmap) == (array.size > 0)


def bomb(path, compression, size=limits.UNPACKED_BYTES + (1 << 20)):
    """An array of as many bytes of zeros as is too much, in less than a megabyte."""
    head = io.BytesIO()
    np.lib.format.write_array_header_1_0(
        head, {'descr': '<f4', 'fortran_order': False, 'shape': (size // 4,)}
    )
    with zipfile.ZipFile(path, 'w', compression) as archive, archive.open('a.npy', 'w') as member:
        member.write(head.getvalue())
        for _ in range(size >> 20):
            member.write(bytes(1 << 20))


@pytest.mark.parametrize('compression', [zipfile.ZIP_DEFLATED, zipfile.ZIP_BZIP2])
def test_what_unpacks_to_gigabytes_is_refused_before_it_does(tmp_path, compression):
    bomb(tmp_path / 'a.npz', compression)
    assert (tmp_path / 'a.npz').stat().st_size < 1 << 20
    tracemalloc.start()
    with pytest.raises(InputError, match=r'a\.npz .*unpacked size'):
        read_npz(tmp_path / 'a.npz')
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


def test_what_shrinks_as_data_do_is_read(tmp_path, monkeypatch):
    monkeypatch.setattr(limits, 'UNPACKED_BYTES', 1000)
    np.savez_compressed(tmp_path / 'a.npz', labels=np.arange(10_000) // 10)
    assert len(read_npz(tmp_path / 'a.npz')['labels']) == 10_000


@pytest.mark.parametrize(
    'header',
    [
        "{'descr': '<f4', 'fortran_order': False, 'shape': (1000000000000,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (-1,), }",
        "{'descr': '<f4', 'fortran_order': False, 'shape': (True,), }",
        "{'descr': '<f4', 'fortran_order': 1, 'shape': (1,), }",
        "{'descr': '|O', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<U-1', 'fortran_order': False, 'shape': (2,), }",  # found by tests/fuzz.sh
        "{'descr': [('a', '<f4')], 'fortran_order': False, 'shape': (1,), }",
        "{'descr': 'ham', 'fortran_order': False, 'shape': (1,), }",
        "{'descr': '<f4'}",
        "__import__('os').system('true')",
        '(' * 5000,
        '',
    ],
)
def test_headers_that_lie(tmp_path, header):
    content = b'\x93NUMPY\x01\x00' + len(header).to_bytes(2, 'little') + header.encode() + bytes(4)
    (tmp_path / 'a.npy').write_bytes(content)
    with pytest.raises(InputError, match=r'a\.npy'):
        map_npy(tmp_path / 'a.npy')
    with zipfile.ZipFile(tmp_path / 'a.npz', 'w') as archive:
        archive.writestr('a.npy', content)
    for mapped in (None, 'a'):
        with pytest.raises(InputError, match=r'a\.npz'):
            read_npz(tmp_path / 'a.npz', mapped)


@pytest.mark.parametrize('order', '<>')
def test_texts_that_hold_no_characters_are_refused(order, tmp_path):
    """Python fails with a SystemError as soon as it looks at one."""
    numbers = np.array([[ord('a'), 0x10FFFF], [ord('b'), 0]], f'{order}u4')
    for last, is_text in ((0x10FFFF, True), (0x110000, False)):
        numbers[0, 1] = last
        np.savez(tmp_path / 'a.npz', names=numbers.view(f'{order}U2'))
        if is_text:
            assert read_npz(tmp_path / 'a.npz')['names'].ravel().tolist() == ['a\U0010ffff', 'b']
        else:
            with pytest.raises(InputError, match='its texts are damaged'):
                read_npz(tmp_path / 'a.npz')


def test_pickled_arrays_are_refused(tmp_path):
    np.save(tmp_path / 'a.npy', np.array([{'a': 1}], object))
    with pytest.raises(InputError, match='no plain numbers'):
        map_npy(tmp_path / 'a.npy')
    (tmp_path / 'b.npy').write_bytes(pickle.dumps([1]))
    with pytest.raises(InputError, match='no array of NumPy'):
        map_npy(tmp_path / 'b.npy')


def test_every_flipped_bit_of_an_array_in_an_archive_is_noticed(tmp_path, rng):
    """zipfile compares the CRC-32 of every member that is read to its end."""
    path = tmp_path / 'a.npz'
    np.savez(path, rows=rng.rand(4, 4))
    content = path.read_bytes()
    with zipfile.ZipFile(path) as archive:
        start = archive.getinfo('rows.npy').header_offset + 30 + len('rows.npy') + 20
    for position in range(start + 128, start + 128 + 100):
        damaged = bytearray(content)
        damaged[position] ^= 1 << rng.randint(8)
        path.write_bytes(damaged)
        with pytest.raises(InputError):
            read_npz(path)


@pytest.mark.parametrize('kind', ['uint8', '>i2', '<i4', '>i8'])
def test_digests_are_those_of_kept_results(kind):
    """Whatever type the numbers have in memory: they were and are little-endian int64."""
    pictures, people = bytes(range(24)), [0, 0, 1, 2]
    images = np.frombuffer(pictures, np.uint8).reshape(4, 2, 1, 3)
    whole = b''.join(number.to_bytes(8, 'little') for number in (*people, 0, 2, 3, 1))
    drawn = np.array([[0, 2], [3, 1]], kind)
    found = digest_of(images, np.array(people, kind), drawn)
    assert found == hashlib.sha256(pictures + whole).hexdigest()
    found = digest_of(images[:, ::-1][:, ::-1], np.array(people, kind), None)
    assert found == hashlib.sha256(pictures + whole[:32]).hexdigest()
    found = digest_of(images, np.array([True, False]))
    assert found == hashlib.sha256(pictures + b'\x01\x00').hexdigest()
