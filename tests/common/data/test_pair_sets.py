import io
import os
import pickle
import struct

import numpy as np
import pytest
from pictures import jpeg
from vargfacenet.common.data.pair_sets import has_checksum, read_pairs, write_pairs
from vargfacenet.common.errors import InputError


def save(path, content):
    path.write_bytes(content)
    return path


@pytest.fixture
def images(rng):
    return [jpeg(rng) for _ in range(6)]


SAME = [True, False, True]


def test_the_written_file_is_what_insightface_unpickles(tmp_path, images):
    write_pairs(tmp_path / 'x.bin', images, np.array(SAME))
    with open(tmp_path / 'x.bin', 'rb') as handle:
        content = pickle.load(handle, encoding='bytes')
    assert content == (images, SAME)
    assert [type(value) for value in content[1]] == [bool] * 3
    read, issame = read_pairs(tmp_path / 'x.bin')
    assert read == images
    assert issame.dtype == bool and issame.tolist() == SAME


def test_every_flipped_bit_of_a_written_file_is_noticed(tmp_path, images, rng):
    write_pairs(tmp_path / 'x.bin', images, SAME)
    content = (tmp_path / 'x.bin').read_bytes()
    assert has_checksum(tmp_path / 'x.bin')
    ends = [*range(12), *range(len(content) - 30, len(content))]
    for place in [*ends, *rng.randint(0, len(content), 300)]:
        damaged = bytearray(content)
        damaged[place] ^= 1 << rng.randint(8)
        path = save(tmp_path / 'y.bin', damaged)
        with pytest.raises(InputError, match=r'y\.bin was damaged after it was written'):
            read_pairs(path)
    old = save(tmp_path / 'old.bin', content[:-12])  # as others write it
    assert not has_checksum(old) and read_pairs(old)[0] == images


def test_a_picture_in_many_pairs_is_stored_once(tmp_path, images):
    write_pairs(tmp_path / 'once.bin', images[:2], [True])
    write_pairs(tmp_path / 'often.bin', images[:2] * 10, [True] * 10)
    small, large = ((tmp_path / name).stat().st_size for name in ('once.bin', 'often.bin'))
    assert large < small + 200
    assert read_pairs(tmp_path / 'often.bin')[0] == images[:2] * 10


@pytest.mark.parametrize('protocol', range(pickle.HIGHEST_PROTOCOL + 1))
@pytest.mark.parametrize(
    'form',
    [
        lambda images: (images, SAME),
        lambda images: [images, SAME],
        lambda images: ([np.frombuffer(image, np.uint8) for image in images], SAME),
        lambda images: ([np.frombuffer(image, np.uint8).copy() for image in images], SAME),
        lambda images: ([np.frombuffer(image, np.uint8)[:, None] for image in images], SAME),
        lambda images: (images, [1, 0, 1]),
        lambda images: (images, list(np.array(SAME))),
        lambda images: (images, np.array(SAME)),
        lambda images: (tuple(images), tuple(SAME)),
    ],
    ids=['pair', 'list', 'read-only arrays', 'arrays', 'columns', 'ints', 'bool_', 'mask', 'tuple'],
)
def test_every_form_of_python_3_is_read(tmp_path, images, form, protocol):
    path = save(tmp_path / 'x.bin', pickle.dumps(form(images), protocol))
    read, issame = read_pairs(path)
    assert read == images and all(type(image) is bytes for image in read)
    assert issame.tolist() == SAME


def test_an_empty_bytes_object_of_an_old_protocol_is_read(tmp_path):
    path = save(tmp_path / 'x.bin', pickle.dumps(([b'', b'x'], [True]), 2))
    assert read_pairs(path)[0] == [b'', b'x']


def python_2_string(content):
    return b'T' + struct.pack('<i', len(content)) + content


def python_2_array(content):
    """The opcodes that Python 2's cPickle writes at protocol 2 for a uint8 array."""
    dtype = (
        b'cnumpy\ndtype\nU\x02u1K\x00K\x01\x87R(K\x03U\x01|NNNJ\xff\xff\xff\xffJ\xff\xff\xff\xff'
        b'K\x00tb'
    )
    shape = b'J' + struct.pack('<i', len(content)) + b'\x85'
    return (
        b'cnumpy.core.multiarray\n_reconstruct\ncnumpy\nndarray\nK\x00\x85U\x01b\x87R'
        b'(K\x01' + shape + dtype + b'\x89' + python_2_string(content) + b'tb'
    )


@pytest.mark.parametrize('element', [python_2_string, python_2_array])
def test_files_of_python_2_are_read(tmp_path, images, element):
    listed = b'](' + b''.join(element(image) for image in images) + b'e'
    content = b'\x80\x02' + listed + b'](\x88\x89\x88e\x86.'
    path = save(tmp_path / 'x.bin', content)
    expected = pickle.loads(content, encoding='bytes')  # the stock reader agrees on the bytes
    assert [bytes(image) for image in expected[0]] == images
    read, issame = read_pairs(path)
    assert read == images and issame.tolist() == SAME


# --- what is refused


class Evil:
    def __init__(self, function, *arguments):
        self.call = (function, arguments)

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize(
    ('function', 'name'),
    [(os.system, 'system'), (eval, 'eval'), (io.open, 'open'), (getattr, 'getattr')],
)
@pytest.mark.parametrize('protocol', [0, 2, 4])
def test_a_pickle_that_asks_for_code_is_refused(tmp_path, function, name, protocol):
    mark = tmp_path / 'mark'
    evil = Evil(function, f'touch {mark}' if function is os.system else str(mark), 'w')
    if function is os.system:
        evil = Evil(function, f'touch {mark}')
    path = save(tmp_path / 'x.bin', pickle.dumps(([b'a', evil], [True]), protocol))
    with pytest.raises(InputError, match=rf'x\.bin: .*asks for [a-z_]+\.{name}\b.*refused'):
        read_pairs(path)
    assert not mark.exists()


def test_other_codecs_and_array_types_are_refused(tmp_path):
    import codecs

    path = save(tmp_path / 'x.bin', pickle.dumps(([Evil(codecs.encode, 'a', 'zlib')], []), 2))
    with pytest.raises(InputError, match="codec 'zlib'"):
        read_pairs(path)
    for kind, code in ((np.float32, 'f4'), (object, 'O8')):
        arrays = [np.zeros(3, kind)] * 2
        path = save(tmp_path / 'x.bin', pickle.dumps((arrays, [True]), 4))
        with pytest.raises(InputError, match=f"array of type '{code}'"):
            read_pairs(path)


@pytest.mark.parametrize(
    ('content', 'reason'),
    [
        (([b'a'] * 3, [True, False]), '3 images for 2 pairs; expected 4'),
        (([b'a'] * 2, [True, False]), '2 images for 2 pairs; expected 4'),
        (([], []), 'holds no pairs'),
        (([b'a', 'text'], [True]), 'image 1 is str'),
        (([b'a', None], [True]), 'image 1 is NoneType'),
        (([b'a', b'b'], [2]), 'issame of pair 0 is 2'),
        (([b'a', b'b'], [None]), 'issame of pair 0 is None'),
        (([b'a', b'b'], [True], 1), 'expected a pickled pair'),
        ({1: 2}, 'expected a pickled pair'),
        ((b'ab', [True]), 'must be lists'),
    ],
)
def test_other_contents_are_refused(tmp_path, content, reason):
    path = save(tmp_path / 'x.bin', pickle.dumps(content))
    with pytest.raises(InputError, match=rf'x\.bin.*{reason}'):
        read_pairs(path)


def test_any_cut_off_file_is_refused(tmp_path, images):
    write_pairs(tmp_path / 'x.bin', images, SAME)
    content = (tmp_path / 'x.bin').read_bytes()
    for end in (0, 1, 5, 30, len(content) // 2, len(content) - 1):
        path = save(tmp_path / 'cut.bin', content[:end])
        with pytest.raises(
            InputError, match=r'cut\.bin(: the file is empty| is no whole pickle| was damaged)'
        ):
            read_pairs(path)


def test_random_bytes_and_missing_files_are_refused(tmp_path, rng):
    for _ in range(200):
        path = save(tmp_path / 'x.bin', rng.bytes(60))
        with pytest.raises(InputError, match=r'x\.bin'):
            read_pairs(path)
    with pytest.raises(InputError, match=r'pair set .* does not exist'):
        read_pairs(tmp_path / 'y.bin')


def test_writing_checks_the_counts_first(tmp_path, images):
    with pytest.raises(InputError, match='5 images for 3 pairs'):
        write_pairs(tmp_path / 'x.bin', images[:5], SAME)
    assert list(tmp_path.iterdir()) == []


def test_a_set_of_make_pairs_is_called_so(tmp_path):
    """And no damaged pickle, which would be copied again."""
    np.savez(tmp_path / 'people.npz', people=np.arange(4))
    with pytest.raises(InputError, match=r'no verification \.bin.*`export --people` takes'):
        read_pairs(tmp_path / 'people.npz')
