"""Every family of networks trains, goes on where it stopped, teaches and is taught.

Small sizes: what differs between the families is their layers, not their number.
"""

import numpy as np
import pytest
from vargfacenet.common.engine import checkpoint
from vargfacenet.common.history import read_history

FAMILIES = {
    'shufflemixfacenet_xs': {'width': 0.25, 'gdw_size': 32, 'emb_size': 16, 'bn_mom': 0.5},
    'mixfacenet_m': {'width': 0.25, 'gdw_size': 32, 'emb_size': 16, 'bn_mom': 0.5},
    'polyface': {'blocks_a': 1, 'blocks_b': 0, 'blocks_c': 0, 'emb_size': 16, 'bn_mom': 0.5},
    'qan_quality': {'emb_size': 16, 'bn_mom': 0.5},
}
# a step of the smallest PolyFace takes seconds, and so do the large maps of the quality network
NAMES = [
    name if name == 'shufflemixfacenet_xs' else pytest.param(name, marks=pytest.mark.slow)
    for name in FAMILIES
]


@pytest.fixture
def network_options():
    def words(name):
        pairs = [f'{key}={value}' for key, value in FAMILIES[name].items()]
        return ['--network', name, *(word for pair in pairs for word in ('--network-option', pair))]

    return words


def losses(folder):
    return [row['loss'] for row in read_history(folder) if 'loss' in row]


@pytest.mark.parametrize('name', NAMES)
def test_a_few_steps_lower_the_loss_and_a_resumed_run_is_the_same(
    name, network_options, run_options, run_command, tmp_path
):
    options = [*run_options, *network_options(name), '--target', '', '--ckpt', 2]
    steps = 8 if name == 'polyface' else 24  # a step of PolyFace is a hundred of the others
    options += ['--steps', steps, '--verbose', steps // 2, '--per-batch-size', 4]
    options += ['--loss', 'softmax', '--frequent', 1]
    code, whole, errors = run_command('train', *options)
    assert code == 0, errors
    found = losses(tmp_path / 'run')
    assert np.isfinite(found).all() and np.mean(found[-2:]) < 0.9 * found[0]
    expected = checkpoint.load_embedding(whole['model'])
    # the same run, as if it had been stopped after the first checkpoint
    for path in (tmp_path / 'run').glob('model-0002*'):
        path.unlink()
    code, resumed, errors = run_command('train', *options, '--resume')
    assert code == 0 and resumed['model'] == whole['model'], errors
    again = checkpoint.load_embedding(resumed['model'])
    for key, value in expected.params.items():
        np.testing.assert_array_equal(again.params[key], value, err_msg=key)


@pytest.mark.parametrize(
    ('teacher', 'student'),
    [
        ('mixfacenet_m', 'shufflemixfacenet_xs'),
        pytest.param('qan_quality', 'mixfacenet_m', marks=pytest.mark.slow),
        pytest.param('mixfacenet_m', 'qan_quality', marks=pytest.mark.slow),
        pytest.param('polyface', 'mixfacenet_m', marks=pytest.mark.slow),
        pytest.param('shufflemixfacenet_xs', 'polyface', marks=pytest.mark.slow),
    ],
)
def test_teacher_and_student(teacher, student, network_options, run_options, run_command, tmp_path):
    options = [*run_options, '--target', '', '--steps', 4, '--per-batch-size', 4]
    code, taught, errors = run_command(
        'train', *options, *network_options(teacher), '--name', 'teacher'
    )
    assert code == 0, errors
    distill = ['--teacher', taught['model'], '--generations', 1, '--steps', 16]
    code, _, errors = run_command(
        'distill', *options, *network_options(student), *distill, '--no-classification'
    )
    assert code == 0, errors
    history = read_history(tmp_path / 'run-gen1')
    distances = [row['distill_loss'] for row in history if 'distill_loss' in row]
    assert np.isfinite(distances).all() and distances[-1] < distances[0]
