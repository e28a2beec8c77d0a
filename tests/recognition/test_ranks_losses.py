"""Every loss, head and recipe over two ranks: the first steps are those of one process."""

import shutil

import numpy as np
import pytest
from ranks_launched import launch, needs_horovod
from saved_weights import weights
from vargfacenet.common.history import read_history
from vargfacenet.recognition import presets
from vargfacenet.recognition.distillation import DISTILLATION_LOSSES
from vargfacenet.recognition.losses import LOSSES

pytestmark = [needs_horovod, pytest.mark.slow]

STEPS = 3
# a rank has its own images alone to compare, to take the largest or the mean of
BY_BATCH = {'triplet', 'adaface', 'curricularface'}
WITHOUT_CENTRES = {'softmax', 'triplet'}  # of unit length, which PartialFC holds
DISTILLED_BY_BATCH = {'ekd', 'rkd', 'adadistill', 'margin'}
HEADS = ('full', 'partial-fc')


@pytest.fixture(scope='module')
def begun(patterns, tmp_path_factory):
    """Options of all runs, and weights to start from, whose class centres are long."""
    folder = tmp_path_factory.mktemp('losses')
    data = shutil.copytree(patterns, folder / 'data')  # a teacher's store is written beside it
    words = ['--data-dir', data, '--models-root', folder, '--network', 'small']
    words += ['--target', '', '--lr', 0.001, '--frequent', 1, '--verbose', 100]
    steps = ['--steps', 30, '--per-batch-size', 16]
    code, result, errors = launch('-np', 1, *words, '--name', 'begun', *steps)
    assert code == 0, errors
    return folder, [*words, '--steps', STEPS, '--freeze', 'statistics', '--pretrained'], result


def trained(begun, ranks, *words, command='train'):
    """(the losses of the steps, how far they moved the weights: {name: array})."""
    folder, options, result = begun
    size = ['--per-batch-size', 16 // ranks, '--name', f'of{ranks}', '--overwrite']
    code, _, errors = launch('-np', ranks, command, *options, result['model'], *size, *words)
    assert code == 0, errors
    name = f'of{ranks}-gen1' if command == 'distill' else f'of{ranks}'
    losses = [row['loss'] for row in read_history(folder / name) if 'loss' in row]
    before, after = weights(folder / 'begun' / 'model', 1), weights(folder / name / 'model', 1)
    return losses, {key: after[key] - before[key] for key in before.keys() & after.keys()}


def compare(begun, *words, command='train', same=True):
    (one, moved), (two, again) = (
        trained(begun, ranks, *words, command=command) for ranks in (1, 2)
    )
    assert len(two) == STEPS and np.isfinite(two).all()
    if not same:
        return
    np.testing.assert_allclose(two, one, rtol=1e-3, atol=1e-6)  # some losses are nearly zero
    # the losses of so few steps hardly tell of a gradient half as large; the weights do
    whole = np.sqrt(sum(np.square(values).sum() for values in moved.values()))
    apart = np.sqrt(sum(np.square(again[key] - moved[key]).sum() for key in moved))
    assert apart <= 0.01 * whole


@pytest.mark.parametrize('head', HEADS)
@pytest.mark.parametrize('loss', [*presets.loss, *LOSSES.names()])
def test_losses(begun, loss, head):
    if head == 'partial-fc' and loss in WITHOUT_CENTRES:
        pytest.skip(f'{loss} has no class centres to part')
    compare(begun, '--loss', loss, '--head', head, same=loss not in BY_BATCH)


@pytest.mark.parametrize('name', DISTILLATION_LOSSES)
def test_distillation(begun, name):
    words = ['--teacher', begun[2]['model'], '--distill', name, '--generations', 1]
    compare(begun, *words, command='distill', same=name not in DISTILLED_BY_BATCH)


@pytest.mark.parametrize('recipe', presets.recipe)
def test_recipes(begun, recipe):
    compare(begun, '--recipe', recipe, '--lr', 0.001)
