"""A loss, a distillation loss, an augmentation and a schedule from one file outside the project."""

import json
import re

import numpy as np
import pytest
from conftest import registered_for_now
from vargfacenet.common.engine import checkpoint
from vargfacenet.common.history import read_history
from vargfacenet.recognition.augmentations import AUGMENTATIONS
from vargfacenet.recognition.distillation import DISTILLATION_LOSSES
from vargfacenet.recognition.losses import LOSSES
from vargfacenet.recognition.schedules import SCHEDULES

MINE = """
from dataclasses import dataclass

from vargfacenet.common.backend import mx
from vargfacenet.common.options import option, positive
from vargfacenet.recognition.augmentations import augmentation
from vargfacenet.recognition.distillation import DISTILLATION_LOSSES, DistillationLoss
from vargfacenet.recognition.losses import LOSSES, ClassificationLoss
from vargfacenet.recognition.schedules import SCHEDULES, ByStep
from vargfacenet.recognition.symbols import unit_length


@LOSSES.register('scaled')
@dataclass(frozen=True)
class Scaled(ClassificationLoss):
    s: float = option('scale', 16.0, positive())

    def logits(self, head):
        centres = unit_length(head.weight(), 'centres')
        unit = unit_length(head.embedding, 'unit')
        return self.s * mx.sym.dot(unit, centres, transpose_b=True)


@DISTILLATION_LOSSES.register('one_minus_cosine')
@dataclass(frozen=True)
class OneMinusCosine(DistillationLoss):
    def loss(self, pair):
        student, teacher = unit_length(pair.student, 's'), unit_length(pair.teacher, 't')
        return 1 - mx.sym.sum(student * teacher, axis=1)


@augmentation('dark', storable=False)
def dark(bgr, mirrored, draws):
    dimmed = bgr // 2 if draws[0] < 0.5 else bgr
    return dimmed[:, ::-1].copy() if mirrored else dimmed


@SCHEDULES.register('halving')
def halving(lr, num_steps, lr_steps, lr_factor):
    return ByStep(lambda step: lr * 0.5 ** (step // 4), num_steps)
"""


@pytest.fixture
def mine(tmp_path):
    """The file; what it registers is forgotten after the test."""
    path = tmp_path / 'mine.py'
    path.write_text(MINE)
    with registered_for_now(LOSSES, DISTILLATION_LOSSES, AUGMENTATIONS, SCHEDULES):
        yield path


@pytest.fixture
def mine_options(small_options, mine):
    named = ['--loss', 'scaled', '--loss-option', 's=12', '--augment', 'dark']
    return [*small_options, '--config', mine, *named, '--lr-mode', 'halving', '--warmup-steps', 0]


def test_train_runs_what_a_file_registers(mine_options, run_command, tmp_path):
    code, _, errors = run_command('train', *mine_options, '--frequent', 1)
    assert code == 0, errors
    rows = read_history(tmp_path / 'run')
    rates = [row['learning_rate'] for row in rows]
    np.testing.assert_allclose(
        rates, [0.05 * 0.5 ** (step // 4) for step in range(1, 12)] + [0.0125]
    )
    saved = json.loads((tmp_path / 'run' / 'model-0001.json').read_text())['config']
    assert (saved['loss'], saved['loss_options']) == ('scaled', {'s': 12.0})
    # softmax of 12 cos over six classes cannot be below this
    assert min(row['loss'] for row in rows) >= np.log1p(5 * np.exp(-24))
    arg_params, _ = checkpoint.load_params(tmp_path / 'run' / 'model-0001.params')
    assert arg_params['fc7_weight'].shape == (6, 32)
    assert run_command('train', *mine_options, '--resume')[0] == 0


def test_distill_runs_what_a_file_registers(mine_options, run_command, tmp_path):
    _, teacher, _ = run_command('train', *mine_options, '--name', 'teacher')
    words = ['--teacher', teacher['model'], '--generations', 1]
    words += ['--distill', 'one_minus_cosine', '--no-classification']
    code, _, errors = run_command('distill', *mine_options, *words)
    assert code == 0, errors
    assert 'live teacher: --augment dark' in errors
    distances = [row['distill_loss'] for row in read_history(tmp_path / 'run-gen1')]
    assert 0 < distances[-1] < distances[0] < 2


def test_wrong_options_of_what_a_file_registers(mine_options, run_command):
    code, _, errors = run_command('train', *mine_options, '--loss-option', 's=-1')
    assert code == 2 and 'loss scaled: s must be a number above 0 (' in errors
    assert ', not -1.0' in errors
    code, _, errors = run_command('train', *mine_options, '--loss', 'scale')
    assert code == 2 and "did you mean 'scaled'" in errors


def test_a_file_that_gives_nothing(options, run_command, tmp_path):
    (tmp_path / 'mine.py').write_text('x = 1')
    code, _, errors = run_command('train', *options, '--config', tmp_path / 'mine.py')
    assert code == 2 and 'registers nothing' in errors


def test_a_name_of_the_project_is_not_replaced(options, run_command, tmp_path):
    (tmp_path / 'mine.py').write_text(MINE.replace("'scaled'", "'margin'"))
    code, _, errors = run_command('train', *options, '--config', tmp_path / 'mine.py')
    assert code == 2 and "loss 'margin' is registered twice" in errors


@pytest.mark.parametrize(
    ('old', 'new', 'message'),
    [
        (
            'transpose_b=True)',
            'transpose_b=True).slice_axis(axis=1, begin=0, end=3)',
            r'the logits of the loss Scaled have the shape \(\d+, 3\); expected',
        ),
        (
            'centres, transpose_b=True)',
            'centres)',
            r'the logits of the loss Scaled: Error in operator dot\d+: .*shape',
        ),
        (
            'self.s * mx.sym.dot(unit, centres, transpose_b=True)',
            'mx.sym.sum(unit, axis=1)',
            r'have the shape \(\d+,\); expected',
        ),
    ],
)
def test_logits_of_another_shape_are_one_line(old, new, message, mine, mine_options, run_command):
    """MXNet takes the last column for a label beyond it, and trains."""
    mine.write_text(MINE.replace(old, new))
    code, _, errors = run_command('train', *mine_options)
    assert code == 2 and re.search(message, errors.splitlines()[-1]), errors
    assert 'infer_shape' not in errors and 'Traceback' not in errors


def test_a_loss_of_the_batch_is_one_line(mine, small_options, run_command):
    terms = """
    def terms(self, head, compiled, smoothing):
        return Terms(mx.sym.mean(head.embedding))
"""
    losses = 'import LOSSES, ClassificationLoss'
    text = MINE.replace(losses, f'{losses}, Terms')
    text = text.replace("    s: float = option('scale', 16.0, positive())\n", terms)
    mine.write_text(text)
    code, _, errors = run_command('train', *small_options, '--config', mine, '--loss', 'scaled')
    assert code == 2 and 'loss scaled: loss_output has the shape (1,); expected (' in errors
