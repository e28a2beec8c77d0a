"""The optimizer's state on disk: bit for bit, from MXNet's own pickles too, and without code."""

import pickle

import numpy as np
import pytest
from vargfacenet.common.backend import mx
from vargfacenet.common.engine.optimizer_states import read_states, write_states
from vargfacenet.common.errors import InputError


def same(states, others):
    def equal(a, b):
        if isinstance(a, tuple):
            return len(a) == len(b) and all(map(equal, a, b))
        return a is b if a is None else a.dtype == b.dtype and np.array_equal(a, b)

    return states.keys() == others.keys() and all(equal(states[n], others[n]) for n in states)


def test_what_is_written_is_read(tmp_path, rng):
    states = {
        0: rng.standard_normal((3, 4)).astype(np.float32),
        11: (rng.standard_normal(5).astype(np.float16), rng.standard_normal(5).astype(np.float32)),
        2: (None, np.ones((2, 2), np.float32)),
        7: None,
    }
    write_states(tmp_path / 'a.states', states)
    del states[7]  # MXNet makes such a state anew, None again
    assert same(read_states(tmp_path / 'a.states'), states)


@pytest.mark.parametrize(
    ('dtype', 'momentum'), [('float32', 0.9), ('float16', 0.9), ('float32', 0.0)]
)
@pytest.mark.parametrize('protocol', [3, 4, 5])
def test_pickles_of_mxnets_updater_are_read(tmp_path, dtype, momentum, protocol):
    optimizer = mx.optimizer.SGD(momentum=momentum, multi_precision=True)
    updater = mx.optimizer.get_updater(optimizer)
    for number, shape in enumerate([(2, 3), (4,), (1, 1, 2)]):
        weight = mx.nd.random.normal(shape=shape).astype(dtype)
        updater(number, weight, weight * 2)

    def plain(state):
        if isinstance(state, (tuple, list)):
            return tuple(plain(part) for part in state)
        return None if state is None else state.asnumpy()

    expected = {number: plain(state) for number, state in updater.states.items()}
    path = tmp_path / 'old.states'
    path.write_bytes(pickle.dumps(updater.states, protocol))
    assert same(read_states(path), expected)
    path.write_bytes(updater.get_states())
    assert same(read_states(path), expected)


class Evil:
    def __init__(self, mark):
        self.mark = mark

    def __reduce__(self):
        import os

        return os.system, (f'touch {self.mark}',)


@pytest.mark.parametrize('protocol', [3, 4, 5])
def test_a_pickle_with_a_call_runs_nothing(tmp_path, protocol):
    mark, path = tmp_path / 'mark', tmp_path / 'evil.states'
    for content in (Evil(mark), {0: Evil(mark)}, {0: mx.nd.ones(2), 1: [Evil(mark)]}):
        path.write_bytes(pickle.dumps(content, protocol))
        with pytest.raises(InputError, match=r'asks for posix\.system'):
            read_states(path)
    assert not mark.exists()
    path.write_bytes(pickle.dumps({0: Evil(mark)}))
    pickle.loads(path.read_bytes())
    assert mark.exists()  # the test can see it


@pytest.mark.parametrize('content', [[], {'a': 1}, {0: 1}, {0: (1, 2)}, {(1, 2): None}, 3, {0: {}}])
def test_other_pickles_are_refused(tmp_path, content):
    (tmp_path / 'a.states').write_bytes(pickle.dumps(content))
    with pytest.raises(InputError, match=r'a\.states'):
        read_states(tmp_path / 'a.states')


def test_every_cut_and_flip_is_one_line(tmp_path, rng):
    path = tmp_path / 'a.states'
    updater = mx.optimizer.get_updater(mx.optimizer.SGD(momentum=0.9))
    updater(0, mx.nd.ones((2, 2)), mx.nd.ones((2, 2)))
    pickled = updater.get_states()
    write_states(path, {0: np.ones((2, 2), np.float32)})
    for content, is_ours in ((pickled, False), (path.read_bytes(), True)):
        for position in range(len(content)):
            damaged = bytearray(content)
            damaged[position] ^= 1 << rng.randint(8)
            for case in (content[:position], bytes(damaged)):
                path.write_bytes(case)
                try:
                    read_states(path)
                    assert not is_ours or case == content[:-12], position  # of MXNet's own form
                except InputError as error:
                    assert 'a.states' in str(error)
