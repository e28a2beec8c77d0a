"""The machine that reads pickles: what it refuses, and that nobody reads one without it."""

import ast
import datetime
import pickle
import tracemalloc
from pathlib import Path

import pytest
from conftest import ROOT
from vargfacenet.common.backend import mx
from vargfacenet.common.errors import InputError
from vargfacenet.common.unpickle import unpickle


def read(path, content):
    path.write_bytes(content)
    return unpickle(path, lambda budget: {}, 'which nothing needs')


@pytest.mark.parametrize('protocol', range(6))
def test_plain_data_of_every_protocol(tmp_path, protocol):
    shared = [1, -2, 3.5, True, None, 'ü', 'x' * 300, 2**70]
    content = [shared, shared, (), (1,), (1, 2), (1, 2, 3), (1, 2, 3, 4), {'a': {3: [[]]}}]
    back = read(tmp_path / 'x', pickle.dumps(content, protocol))
    assert back == content and back[0] is back[1]


def test_a_pickle_that_multiplies_is_not_copied(tmp_path):
    """Twenty levels of pairs of the level below: a million leaves, a hundred bytes."""
    value = [1]
    for _ in range(200):
        value = (value, value)
    tracemalloc.start()
    read(tmp_path / 'x', pickle.dumps(value))
    with pytest.raises(InputError, match='neither numbers nor names'):  # not hashed: for ever
        nested = ()
        for _ in range(200):
            nested = (nested, nested)
        read(tmp_path / 'x', b'\x80\x04}' + pickle.dumps(nested)[2:-1] + b'Ns.')
    assert tracemalloc.get_traced_memory()[1] < 1 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    'content',
    [
        b'',
        b'.',
        b'\x80\x04\x8e' + b'\xff' * 7 + b'\x7f.',  # BINBYTES8 of 2**63 - 1 bytes
        b'N' + b'r\xff\xff\xff\x7f' + b'.',  # LONG_BINPUT at 2**31: a table in Python's own reader
        b'I' + b'9' * 10_000 + b'\n.',
        b'(' * 100_000 + b'.',
        b'N(0.',
        b'\x80\x04K\x01K\x02s.',
        b'}(K\x01u.',
        b'\x82\x01.',
        b'P1\n.',
        b'Nb.',
        b'K\x01)R.',
    ],
)
def test_damage_of_every_kind_is_one_line(tmp_path, content):
    tracemalloc.start()
    if content == b'N' + b'r\xff\xff\xff\x7f' + b'.':
        assert read(tmp_path / 'x', content) is None
    else:
        with pytest.raises(InputError, match='x'):
            read(tmp_path / 'x', content)
    assert tracemalloc.get_traced_memory()[1] < 8 << 20
    tracemalloc.stop()


@pytest.mark.parametrize(
    'value', [datetime.date(2020, 1, 1), {1, 2}, frozenset([1]), print, object]
)
def test_what_is_not_plain_is_refused(tmp_path, value):
    with pytest.raises(InputError):
        read(tmp_path / 'x', pickle.dumps(value))


# --- who unpickles

READERS = {'pickle', '_pickle', 'cPickle', 'marshal', 'shelve', 'dill', 'joblib', 'cloudpickle'}
LOADS = {'load', 'loads', 'Unpickler', 'open'}


def unpickling_calls(source):
    """Lines of a module that could unpickle: load of a pickle module, np.load, allow_pickle."""
    tree = ast.parse(source)
    names = {
        alias.asname or alias.name
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and node.module in READERS
        for alias in node.names
        if alias.name in LOADS
    }
    for node in ast.walk(tree):
        if isinstance(node, ast.keyword) and node.arg == 'allow_pickle':
            if ast.unparse(node.value) != 'False':
                yield node.value.lineno, 'numpy'
        elif isinstance(node, ast.Call):
            owner, _, name = ast.unparse(node.func).rpartition('.')
            if (owner in READERS and name in LOADS) or (not owner and name in names):
                yield node.lineno, 'pickle'
            elif name in ('set_states', 'load_optimizer_states'):
                yield node.lineno, 'mxnet'


def test_nothing_of_ours_unpickles():
    """np.load refuses pickles unless allow_pickle says otherwise; mx.nd.load knows none."""
    folders = ('common', 'symbol', 'eval', 'recognition', 'deploy')
    paths = [path for folder in folders for path in (ROOT / folder).rglob('*.py')]
    assert len(paths) > 80
    assert [
        (str(path.relative_to(ROOT)), *found)
        for path in paths
        for found in unpickling_calls(path.read_text())
    ] == []


@pytest.mark.parametrize(
    'source',
    [
        'import pickle\npickle.load(f)',
        'from pickle import loads as l\nl(b)',
        'import pickle\nclass A(pickle.Unpickler): pass\npickle.Unpickler(f)',
        'np.load(f, allow_pickle=True)',
        'np.load(f, allow_pickle=flag)',
        'module._updater.set_states(b)',
        'module.load_optimizer_states(f)',
    ],
)
def test_the_search_sees_every_form(source):
    assert list(unpickling_calls(source))


# what in MXNet's Python unpickles, and why no file of ours or of a stranger gets there
MXNET = {
    'kvstore/kvstore_server.py': 'a server of a dist kvstore; ours never sends it an optimizer',
    'gluon/data/dataloader.py': 'from its own child processes; no DataLoader is used here',
    'optimizer/optimizer.py': 'Updater.set_states; a resumed run sets the states itself',
}


def test_mxnets_unpicklers_are_known_and_not_reached():
    folder = Path(mx.__file__).parent
    found = {
        path.relative_to(folder).as_posix()
        for path in folder.rglob('*.py')
        if any(kind == 'pickle' for _, kind in unpickling_calls(path.read_text('utf-8')))
    }
    assert found == MXNET.keys()
    used = '\n'.join(
        path.read_text()
        for folder in ('common', 'symbol', 'eval', 'recognition', 'deploy')
        for path in (ROOT / folder).rglob('*.py')
    )
    for reaches in ('DataLoader', 'set_optimizer(', 'set_states(', 'load_optimizer_states('):
        assert reaches not in used
