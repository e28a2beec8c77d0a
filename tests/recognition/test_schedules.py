"""The learning rate at every step against its closed form."""

import math
import pickle
import subprocess
import sys

import pytest
from vargfacenet.common.errors import RunError
from vargfacenet.recognition.schedules import SCHEDULES, learning_rate


def closed_form(mode, step, lr, total, warmup, steps=(), factor=0.1):
    if step < warmup:
        return lr * step / (warmup - 1)
    share = min(1.0, (step - warmup) / (total - warmup - 1))
    return {
        'cosine': lambda: lr * (1 + math.cos(math.pi * share)) / 2,
        'poly': lambda: lr * (1 - share) ** 2,
        'constant': lambda: lr,
        'step': lambda: lr * factor ** sum(step >= at for at in steps),
    }[mode]()


@pytest.mark.parametrize('mode', ['cosine', 'poly', 'constant', 'step'])
@pytest.mark.parametrize('warmup', [0, 10])
def test_every_step(mode, warmup):
    steps = (30, 60) if mode == 'step' else ()
    lr_at = learning_rate(mode, 0.1, 100, warmup, steps)
    for step in range(100):
        expected = closed_form(mode, step, 0.1, 100, warmup, steps)
        assert lr_at(step) == pytest.approx(expected, abs=1e-12), step


def test_a_function_of_the_step_alone():
    """Asked in any order, and as a copy that a parameter server would hold."""
    lr_at = learning_rate('cosine', 0.1, 50, 5)
    forward = [lr_at(step) for step in range(50)]
    assert [lr_at(step) for step in reversed(range(50))] == forward[::-1]
    assert [pickle.loads(pickle.dumps(lr_at))(step) for step in range(50)] == forward


@pytest.mark.parametrize('total, warmup', [(1, 0), (1, 1), (2, 1), (3, 2), (5, 100)])
def test_very_short_runs(total, warmup):
    lr_at = learning_rate('cosine', 0.1, total, warmup)
    assert all(0 <= lr_at(step) <= 0.1 for step in range(total + 2))


def test_what_is_no_schedule_is_named(monkeypatch):
    monkeypatch.setattr(SCHEDULES, 'get', lambda mode: lambda *numbers: lambda step: 0.1)
    with pytest.raises(RunError, match='--lr-mode mine gave function; expected an LRScheduler'):
        learning_rate('mine', 0.1, 100)


def test_a_plugin_of_schedules_gets_mxnet_as_commands_do():
    """GluonCV imports MXNet: not before the one module that sets it up has."""
    program = (
        'import sys; from vargfacenet.recognition.schedules import SCHEDULES; '
        "print('vargfacenet.common.backend' in sys.modules, 'scipy.stats' in sys.modules)"
    )
    done = subprocess.run([sys.executable, '-c', program], capture_output=True, text=True)
    assert done.stdout.split() == ['True', 'False'], done.stderr
