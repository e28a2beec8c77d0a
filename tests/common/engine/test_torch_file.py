"""PyTorch files: what PyTorch wrote, what it reads of ours, and what a stranger may put there.

tests/data/torch_*.pth were written by PyTorch 2.13 (see the README there).
"""

import importlib.util
import lzma
import os
import pickle
import shutil
import struct
import subprocess
import sys
import zipfile
import zlib

import numpy as np
import pytest
from conftest import DATA
from vargfacenet.common.engine.torch_file import read_states, write_state
from vargfacenet.common.errors import InputError

RAMP = np.arange(24, dtype=np.float32)
VIEWS = {
    'whole': RAMP,
    'rows': RAMP[4:16].reshape(3, 4),
    'columns': RAMP.reshape(4, 6).T,
    'every second': RAMP[::2],
    'scalar': np.float32(7.5),
    'empty': np.zeros((0, 3), np.float32),
    'half': (RAMP / 8).astype(np.float16),
    'bfloat16': RAMP / 8,
    'double': RAMP.astype(np.float64),
    'long': np.arange(5),
    'bool': np.array([True, False]),
    'int8': np.arange(-2, 2, dtype=np.int8),
    'parameter': RAMP[:3],
}
LAYERS = {
    'conv.weight': (4, 3, 3, 3),
    'bn.weight': (4,),
    'bn.bias': (4,),
    'bn.running_mean': (4,),
    'bn.running_var': (4,),
    'bn.num_batches_tracked': (),
    'act.weight': (4,),
}
FILES = ('torch_zip.pth', 'torch_legacy.pth', 'torch_views.pth', 'torch_views_legacy.pth')


@pytest.mark.parametrize('name', ['torch_views.pth', 'torch_views_legacy.pth'])
def test_every_type_and_view(name):
    (tensors,) = read_states(DATA / name).values()
    assert list(tensors) == list(VIEWS)
    for key, expected in VIEWS.items():
        found = tensors[key].array()
        assert found.dtype == np.asarray(expected).dtype, key
        assert tensors[key].shape == np.shape(expected)
        np.testing.assert_array_equal(found, expected, err_msg=key)


@pytest.mark.parametrize(
    ('name', 'path', 'prefix'),
    [
        ('torch_zip.pth', '', ''),
        ('torch_legacy.pth', '', ''),
        ('torch_nested.pth.tar', 'state_dict', 'module.'),
    ],
)
def test_a_state_dict_of_every_format(name, path, prefix):
    states = read_states(DATA / name)
    assert list(states) == [path]
    tensors = states[path]
    assert {key: tensor.shape for key, tensor in tensors.items()} == {
        prefix + key: shape for key, shape in LAYERS.items()
    }
    for key in ('conv.weight', 'bn.bias'):
        values = tensors[prefix + key].array().ravel()
        np.testing.assert_array_equal(values, np.arange(values.size) / 8 - 1)


def test_what_is_written_is_read_back(tmp_path, rng):
    arrays = {
        'a.weight': rng.randn(3, 2, 5, 1).astype(np.float32),
        'scalar': np.float32(2.5),
        'empty': np.zeros((0, 2), np.float32),
        'count': np.array(7),
        'transposed': rng.randn(4, 6).astype(np.float32).T,
    }
    write_state(tmp_path / 'x.pth', arrays)
    (tensors,) = read_states(tmp_path / 'x.pth').values()
    assert list(tensors) == list(arrays)
    for key, value in arrays.items():
        np.testing.assert_array_equal(tensors[key].array(), value)


def test_the_archive_is_laid_out_as_pytorch_does(tmp_path):
    """Storages uncompressed at multiples of 64 bytes, so that they can be mapped."""
    write_state(tmp_path / 'x.pth', {str(n): np.ones(n, np.float32) for n in range(1, 40)})
    with zipfile.ZipFile(tmp_path / 'x.pth') as archive:
        assert archive.read('archive/version') == b'3\n'
        for entry in archive.infolist():
            assert entry.compress_type == zipfile.ZIP_STORED
            archive.fp.seek(entry.header_offset + 26)
            name, extra = struct.unpack('<HH', archive.fp.read(4))
            assert (entry.header_offset + 30 + name + extra) % 64 == 0


@pytest.mark.skipif(importlib.util.find_spec('torch') is None, reason='needs PyTorch')
def test_pytorch_reads_it(tmp_path):
    write_state(tmp_path / 'x.pth', {'a.weight': RAMP.reshape(2, 3, 4), 'n': np.array(3)})
    code = (
        'import sys, torch\n'
        'd = torch.load(sys.argv[1], weights_only=True)\n'
        'assert d["a.weight"].flatten().tolist() == list(range(24)) and int(d["n"]) == 3'
    )
    subprocess.run([sys.executable, '-c', code, tmp_path / 'x.pth'], check=True)


def read_changed(path, content):
    path.write_bytes(content)
    for tensors in read_states(path).values():
        for tensor in tensors.values():
            tensor.array()


@pytest.mark.parametrize('name', FILES)
def test_a_file_that_is_cut_off_anywhere(name, tmp_path):
    content = (DATA / name).read_bytes()
    for size in range(0, len(content) - 1, 23):
        with pytest.raises(InputError) as error:
            read_changed(tmp_path / 'cut.pth', content[:size])
        assert '\n' not in str(error.value)


@pytest.mark.parametrize('name', FILES)
def test_a_file_with_a_changed_byte_is_read_or_refused(name, tmp_path, rng):
    content = (DATA / name).read_bytes()
    refused = 0
    for position in rng.choice(len(content), 150, replace=False):
        changed = bytearray(content)
        changed[position] ^= 1 << rng.randint(8)
        try:
            read_changed(tmp_path / 'changed.pth', bytes(changed))
        except InputError as error:
            refused += 1
            assert '\n' not in str(error)
    assert refused > 20


class Bomb:
    def __reduce__(self):
        return (print, ('ran',))


def archive(path, content, **entries):
    with zipfile.ZipFile(path, 'w') as file:
        file.writestr('archive/data.pkl', content)
        for name, value in entries.items():
            file.writestr(f'archive/{name.replace("_", "/")}', value)


def legacy(path, content):
    head = [0x1950A86A20F9469CFC6C, 1001, {'little_endian': True}]
    path.write_bytes(b''.join(pickle.dumps(part, 2) for part in head) + content)


@pytest.mark.parametrize('write', [archive, legacy])
def test_what_a_file_names_is_not_run(write, tmp_path, capsys):
    write(tmp_path / 'x.pth', pickle.dumps({'a': Bomb()}, 2))
    with pytest.raises(InputError, match=r'asks for __builtin__.print, which no tensors need'):
        read_states(tmp_path / 'x.pth')
    assert capsys.readouterr().out == ''


def tensor(key=b'0', length=4, size=b'(K\x04t', stride=b'(K\x01t', kind=b'FloatStorage'):
    """A pickle of {'a': tensor} in which everything can be wrong."""
    identifier = b'(X\x07\0\0\0storagectorch\n' + kind + b'\nX' + struct.pack('<I', len(key)) + key
    identifier += b'X\x03\0\0\0cpu\x8a\x08' + struct.pack('<q', length) + b'tQ'
    call = b'ctorch._utils\n_rebuild_tensor_v2\n(' + identifier + b'K\0' + size + stride
    return b'\x80\x02}X\x01\0\0\0a' + call + b'\x89ccollections\nOrderedDict\n)RtRs.'


def test_the_hand_made_tensor_is_a_good_one(tmp_path):
    archive(tmp_path / 'x.pth', tensor(), data_0=np.arange(4, dtype='f').tobytes())
    (tensors,) = read_states(tmp_path / 'x.pth').values()
    assert tensors['a'].array().tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize(
    ('content', 'message'),
    [
        (tensor(size=b'(K\x05t'), 'reaches beyond its storage'),
        (tensor(stride=b'(K\x02t'), 'reaches beyond its storage'),
        (tensor(size=b'(K\x08t', stride=b'(K\0t'), 'reaches beyond its storage'),  # repeats itself
        (tensor(size=b'(J\xff\xff\xff\xfft'), 'are no counts'),
        (tensor(size=b'(\x88t'), 'are no counts'),
        (tensor(size=b'(K\x02K\x02t'), r'of shape \(2, 2\) and strides \(1,\)'),
        (tensor(size=b'K\x04'), 'without storage or shape'),
        (tensor(length=1 << 40, size=b'(\x8a\x06' + b'\0' * 5 + b'\x01t'), 'its tensors need'),
        (tensor(length=-1), 'without a length'),
        (tensor(key=b'../1'), 'has no entry data/../1'),
        (tensor(kind=b'ComplexFloatStorage'), r'asks for torch.ComplexFloatStorage'),
        (pickle.dumps({'a': 1}, 2), 'holds no dictionary of tensors'),
        (pickle.dumps([1, 2], 2), 'holds no dictionary of tensors'),
        (b'\x80\x02K\x01Q.', 'refers to something that is no storage'),
        (b'\x80\x02', 'no whole pickle'),
    ],
)
def test_what_a_stranger_may_write(content, message, tmp_path):
    archive(tmp_path / 'x.pth', content, data_0=np.arange(4, dtype='f').tobytes())
    with pytest.raises(InputError, match=message):
        for tensors in read_states(tmp_path / 'x.pth').values():
            tensors['a'].array()


def test_dictionaries_that_hold_each_other_end(tmp_path):
    value = {}
    for _ in range(50):
        value = {f'k{index}': value for index in range(50)}
    archive(tmp_path / 'x.pth', pickle.dumps(value, 2))
    with pytest.raises(InputError, match='no dictionary of tensors'):
        read_states(tmp_path / 'x.pth')


def test_other_archives(tmp_path):
    with zipfile.ZipFile(tmp_path / 'other.zip', 'w') as file:
        file.writestr('readme.txt', 'nothing')
    with zipfile.ZipFile(tmp_path / 'packed.pth', 'w', zipfile.ZIP_DEFLATED) as file:
        file.writestr('archive/data.pkl', b'\0' * 10_000_000)
    archive(tmp_path / 'script.pth', pickle.dumps({}, 2), **{'constants.pkl': b''})
    with zipfile.ZipFile(tmp_path / 'script.pth', 'a', zipfile.ZIP_DEFLATED) as file:
        file.writestr('archive/code/model.py', 'pass\n' * 20)  # as torch.jit.save packs it
    shutil.make_archive(str(tmp_path / 'old'), 'tar', DATA, 'README.md')
    (tmp_path / 'text.pth').write_text('<html>not found</html>')
    (tmp_path / 'empty.pth').write_bytes(b'')
    for name, message in {
        'other.zip': 'has no data.pkl',
        'packed.pth': 'compressed entries',
        'script.pth': 'TorchScript program; save model.state_dict',
        'old.tar': r'before version 0\.1\.10',
        'text.pth': 'is no PyTorch file',
        'empty.pth': 'is empty',
        'none.pth': 'does not exist',
    }.items():
        with pytest.raises(InputError, match=message):
            read_states(tmp_path / name)


def test_a_storage_with_a_wrong_checksum(tmp_path):
    content = (DATA / 'torch_zip.pth').read_bytes()
    values = np.arange(4 * 27, dtype=np.float32) / 8 - 1
    begin = content.index(values.tobytes())
    changed = content[:begin] + b'\x01' + content[begin + 1 :]
    assert zlib.crc32(changed) != zlib.crc32(content)
    with pytest.raises(InputError, match=r'no whole archive .*CRC'):
        read_changed(tmp_path / 'x.pth', changed)


def test_an_archive_whose_entries_lie_before_its_beginning(tmp_path):
    """Found by tests/fuzz.sh: the directory says that it stands later than it does."""
    path = tmp_path / 'a.pth'
    write_state(path, {'w': np.ones(3, np.float32)})
    content = bytearray(path.read_bytes())
    place = content.rindex(b'PK\5\6') + 16  # where the directory begins
    struct.pack_into('<I', content, place, struct.unpack_from('<I', content, place)[0] + 10)
    path.write_bytes(content)
    with pytest.raises(InputError, match='no whole archive'):
        read_states(path)


def test_nothing_is_unpacked_to_find_out_what_a_file_is(tmp_path, monkeypatch):
    """Forty kilobytes of xz that hold 256 MB; a file of a terabyte of holes took minutes so."""
    monkeypatch.setattr(lzma, 'LZMADecompressor', None)
    packer = lzma.LZMACompressor(preset=0)
    block = bytes(1 << 24)
    content = b''.join([*(packer.compress(block) for _ in range(16)), packer.flush()])
    (tmp_path / 'bomb.pth').write_bytes(content)
    os.truncate(tmp_path / 'bomb.pth', 1 << 40)
    with pytest.raises(InputError, match=r'bomb\.pth: is no PyTorch file'):
        read_states(tmp_path / 'bomb.pth')
