"""Sums of passes, clipping by norm and averaged weights: each against its definition."""

import json
import math
import os
import runpy
import subprocess
import sys

import numpy as np
import pytest
from conftest import DATA, registered_for_now
from saved_weights import assert_same_weights, weights
from vargfacenet.common.backend import mx
from vargfacenet.common.console import Parser
from vargfacenet.common.engine import checkpoint
from vargfacenet.common.engine.mxnet import Embedder
from vargfacenet.common.engine.network import Network
from vargfacenet.common.errors import InputError
from vargfacenet.common.history import read_history
from vargfacenet.eval.datasets import load_bin
from vargfacenet.eval.verification import verify
from vargfacenet.recognition.config import add_arguments
from vargfacenet.recognition.configure import resolve
from vargfacenet.recognition.data import FaceRecordIter
from vargfacenet.recognition.run_state import raw_path, remove_checkpoint
from vargfacenet.recognition.updates import clipping_updater
from vargfacenet.symbol import NETWORKS

FROZEN_NETWORK = DATA / 'frozen_network.py'


@pytest.fixture
def frozen_norm(monkeypatch):
    """Options of a network whose BatchNorm has running statistics in training as well, here and
    in other processes."""
    monkeypatch.setenv('VARGFACENET_PLUGINS', str(FROZEN_NETWORK))
    with registered_for_now(NETWORKS):
        runpy.run_path(str(FROZEN_NETWORK))
        yield ['--network', 'frozen', '--loss', 'cosface', '--loss-option', 's=8', '--target', '']


IN_TURN = """
import json, sys
from vargfacenet.__main__ import main

for words in json.loads(sys.argv[1]):
    assert main(words) == 0
"""
# With one thread, MXNet's gradients of the bias of a convolution and of BatchNorm's beta are
# running float32 sums over all images and places, bit for bit those of np.cumsum, and those of
# three passes are rounded otherwise. With two threads the bias has two such sums, of 8 and of 7
# images. An array moves by about 1, so a rounding is 2**-24 of that; those of a sum are
# independent and add up as their root; four deviations, and every step adds its own. Behind the
# first step the two arrays are the farthest apart, 3.4e-6 with one thread and 1e-6 with two,
# behind the seventh 1.1e-4 and 5.5e-6. (Why beta gains by the second thread is not known: alone,
# its sum is the same.)
ROUNDINGS = 4 * math.sqrt(15 * 28 * 28) * 2.0**-24  # 2.6e-5


@pytest.mark.parametrize(('threads', 'bound'), [(1, ROUNDINGS), (2, 2e-6)])
def test_passes_make_the_steps_of_large_batches(threads, bound, frozen_norm, run_options, tmp_path):
    """To rounding; across the end of an epoch, which has three steps of 15 of its 48 images."""
    parts = {
        'passes': ['--per-batch-size', 5, '--accumulate', 3],
        'batch': ['--per-batch-size', 15],
        'small': ['--per-batch-size', 5],
    }
    once = ['--steps', 7, '--frequent', 1, '--verbose', 1, '--ckpt', 2, '--warmup-steps', 0]
    runs = [
        list(map(str, ['train', *run_options, *frozen_norm, *words, *once, '--name', name]))
        for name, words in parts.items()
    ]
    subprocess.run(
        [sys.executable, '-c', IN_TURN, json.dumps(runs)],
        check=True,
        env={**os.environ, 'OMP_NUM_THREADS': str(threads)},
    )
    rows = {name: [row['loss'] for row in read_history(tmp_path / name)] for name in parts}
    assert {len(losses) for losses in rows.values()} == {7}
    np.testing.assert_allclose(rows['passes'], rows['batch'], rtol=2e-5)
    for step in range(1, 8):
        one, other, small = (weights(tmp_path / name / 'model', step) for name in rows)
        for name in one:
            np.testing.assert_allclose(
                *(one[name], other[name]), rtol=1e-6, atol=bound * step, err_msg=f'{name} {step}'
            )
        assert np.abs(small['fc1_weight'] - other['fc1_weight']).max() > 1e-2


@pytest.mark.parametrize('norm', [0.5, 1e9])
def test_the_gradient_of_an_image_has_the_norm_at_most(norm, rng):
    """float64 from the definition; plain SGD moves by the gradient itself."""
    shapes, images = [(3, 4), (5,), (2, 3, 2)], 8
    before = [rng.randn(*shape) for shape in shapes]
    sums = [images * rng.randn(*shape) for shape in shapes]
    optimizer = mx.optimizer.SGD(learning_rate=1.0, rescale_grad=1 / images)
    arrays = [mx.nd.array(value) for value in before]
    updater = clipping_updater(optimizer, norm)
    updater(list(range(3)), [mx.nd.array(value) for value in sums], arrays)
    length = np.sqrt(sum(np.square(value / images).sum() for value in sums))
    assert 2 < length < 20
    for array, value, gradient in zip(arrays, before, sums):
        expected = value - gradient / images * min(1, norm / length)
        np.testing.assert_allclose(array.asnumpy(), expected, rtol=1e-5, atol=1e-6)


def test_a_norm_that_is_never_reached_changes_no_bit(
    frozen_norm, run_options, run_command, tmp_path
):
    words = [*run_options, *frozen_norm, '--steps', 3]
    for name, norm in (('plain', 0), ('high', 1e6), ('low', 0.01)):
        code, _, errors = run_command('train', *words, '--name', name, '--clip-gradient', norm)
        assert code == 0, errors
    plain, high, low = (weights(tmp_path / n / 'model', 1) for n in ('plain', 'high', 'low'))
    assert_same_weights(plain, high)
    assert np.abs(low['fc1_weight'] - plain['fc1_weight']).max() > 1e-4


@pytest.fixture
def pretrained(small_options, run_command):
    """'PREFIX,1' of weights to start from."""
    code, result, _ = run_command('train', *small_options, '--steps', 2, '--name', 'start')
    assert code == 0
    return result['model']


def test_the_average_is_that_of_the_weights_of_all_steps(
    small_options, pretrained, patterns, run_command, tmp_path
):
    options = [*small_options, '--steps', 6, '--pretrained', pretrained, '--target', 'pairs']
    every = ['--name', 'plain', '--verbose', 1, '--ckpt', 2]
    assert run_command('train', *options, *every)[0] == 0
    code, result, _ = run_command('train', *options, '--name', 'averaged', '--ema', 0.5)
    assert code == 0
    start = weights(tmp_path / 'start' / 'model', 1)
    average = {name: value.astype(float) for name, value in start.items()}
    average['fc7_weight'] = average['fc7_weight'].copy()
    for step in range(1, 7):
        decay = min(0.5, (1 + step) / (10 + step))
        for name, value in weights(tmp_path / 'plain' / 'model', step).items():
            average[name] = decay * average[name] + (1 - decay) * value
    found = weights(tmp_path / 'averaged' / 'model', 1)
    for name in average:
        np.testing.assert_allclose(found[name], average[name], rtol=1e-4, atol=1e-6, err_msg=name)
    newest = weights(tmp_path / 'plain' / 'model', 6)
    raw = checkpoint.load_params(raw_path(tmp_path / 'averaged' / 'model', 1))
    assert_same_weights({**raw[0], **raw[1]}, newest)  # training itself is as it was
    assert np.abs(found['bn1_gamma'] - newest['bn1_gamma']).max() > 1e-4
    # what was verified are the weights that the checkpoint holds
    network = checkpoint.load_embedding(result['model'])
    expected = verify(Embedder(network), *load_bin(patterns / 'pairs.bin'))[0]
    assert result['targets']['pairs']['accuracy'] == pytest.approx(expected.accuracy)
    assert result['targets']['pairs']['threshold'] == pytest.approx(expected.threshold, abs=1e-6)


def test_all_together_go_on_bit_for_bit(small_options, run_command, tmp_path):
    tricks = ['--per-batch-size', 4, '--accumulate', 2, '--clip-gradient', 0.5, '--ema', 0.9]
    tricks += ['--verbose', 3, '--steps', 7, '--augment', 'strong', '--ckpt', 2]
    options = [*small_options, *tricks]
    assert run_command('train', *options)[0] == 0
    prefix = tmp_path / 'run' / 'model'

    def everything(number):
        raw = checkpoint.load_params(raw_path(prefix, number))
        return weights(prefix, number), {**raw[0], **raw[1]}

    expected = everything(3)
    history = read_history(tmp_path / 'run')
    for number in (2, 3):  # as after a kill behind the first checkpoint, at step 3
        remove_checkpoint(prefix, number)
    assert not raw_path(prefix, 3).exists()
    code, result, errors = run_command('train', *options, '--resume')
    assert code == 0 and result['steps'] == 7, errors
    for one, other in zip(everything(3), expected):
        assert_same_weights(one, other)
    losses = [
        [row['loss'] for row in rows if 'loss' in row]
        for rows in (read_history(tmp_path / 'run'), history)
    ]
    assert losses[0] == losses[1]
    raw_path(prefix, 3).write_bytes(b'')
    code, _, errors = run_command('train', *options, '--resume')
    assert code == 0 and 'checkpoint 3 is damaged' in errors
    code, result, _ = run_command('check', tmp_path / 'run')
    assert code == 0, result


def parse(*words):
    parser = Parser()
    add_arguments(parser)
    return parser.parse_args([str(word) for word in words])


def test_large_batches_are_divided_among_passes(patterns):
    paper = ('--recipe', 'paper', '--data-dir', patterns)
    with pytest.raises(InputError, match='fewer than one step of 512'):
        resolve(parse(*paper, '--accumulate', 16))
    with pytest.raises(InputError, match='512 images a step do not fall into 3 equal parts'):
        resolve(parse(*paper, '--accumulate', 3))
    config = resolve(parse('--data-dir', patterns, '--per-batch-size', 4, '--accumulate', 3))
    assert (config.global_batch_size, config.total_steps) == (12, 20 * 4)


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--ema', 1], '--ema 1.0: must be a number from 0 up to, not including, 1'),
        (['--clip-gradient', -1], '--clip-gradient -1.0: must be a finite number'),
        (['--accumulate', 0], '--accumulate 0: must be an integer above 0'),
        (['--accumulate', 7], '48 images, fewer than one step of 56'),
    ],
)
def test_wrong_values_are_one_line(words, message, options, run_command):
    code, _, errors = run_command('train', *options, *words)
    assert code == 2 and message in errors and errors.count('\n') == 1


# --- what is frozen


@pytest.fixture
def anchored(small_options, pretrained):
    """Options of a run that starts from `pretrained` and looks at its very loss."""
    loss = ['--loss', 'margin', '--loss-option', 's=8', '--loss-option', 'm2=0', '--target', '']
    return [*small_options, *loss, '--pretrained', pretrained, '--steps', 6, '--frequent', 1]


def test_centres_learn_from_the_network_as_it_embeds(anchored, patterns, run_command, tmp_path):
    """Neither its weights nor its running statistics move, and these are what it embeds by."""
    words = [*anchored, '--recipe', 'anchor_centres', '--verbose', 3, '--ckpt', 2]
    code, _, errors = run_command('train', *words, '--warmup-steps', 0)
    assert code == 0, errors
    prefix = tmp_path / 'run' / 'model'
    before, after = weights(tmp_path / 'start' / 'model', 1), weights(prefix, 2)
    moved = {name for name in after if not np.array_equal(before[name], after[name])}
    assert moved == {'fc7_weight'}
    losses = [row['loss'] for row in read_history(tmp_path / 'run')]
    assert losses[-1] < losses[0]
    batch = FaceRecordIter(patterns, 8).next()  # of the first step
    embedder = Embedder(checkpoint.load_embedding(f'{tmp_path}/start/model,1'))
    images = batch.data[0].asnumpy().transpose(0, 2, 3, 1).astype(np.uint8)
    rows, centres = embedder.embed(images).astype(float), before['fc7_weight'].astype(float)
    cosines = rows @ centres.T / np.linalg.norm(rows, axis=1)[:, None]
    logits = 8 * cosines / np.linalg.norm(centres, axis=1)
    targets = logits[np.arange(8), batch.label[0].asnumpy().astype(int)]
    expected = (np.log(np.exp(logits).sum(axis=1)) - targets).mean()
    assert losses[0] == pytest.approx(expected, rel=1e-4)
    remove_checkpoint(prefix, 2)
    assert run_command('train', *words, '--warmup-steps', 0, '--resume')[0] == 0
    assert_same_weights(weights(prefix, 2), after)


def test_the_network_learns_towards_centres_that_stay(anchored, run_command, tmp_path):
    code, _, errors = run_command('train', *anchored, '--recipe', 'anchor_backbone')
    assert code == 0, errors
    before = weights(tmp_path / 'start' / 'model', 1)
    after = weights(tmp_path / 'run' / 'model', 1)
    same = {name for name in after if np.array_equal(before[name], after[name])}
    assert 'fc7_weight' in same and len(same) < 0.2 * len(after)


def test_what_cannot_be_frozen_is_said(small_options, pretrained, patterns, run_command, tmp_path):
    code, _, errors = run_command('train', *small_options, '--freeze', 'centres')
    assert code == 2 and '--freeze centres needs --pretrained' in errors
    slim = checkpoint.load_embedding(pretrained)
    arg_params = {name: v for name, v in slim.arg_params.items() if name != 'fc7_weight'}
    network = Network(slim.symbol, arg_params, slim.aux_params)
    checkpoint.save_embedding(tmp_path / 'slim', 0, network)
    words = ['--pretrained', f'{tmp_path}/slim,0', '--freeze', 'centres']
    code, _, errors = run_command('train', *small_options, *words)
    assert code == 2 and 'slim,0 has no fc7_weight for the classes of this data set' in errors
    words = ['--pretrained', pretrained, '--freeze', 'backbone', '--teacher', pretrained]
    code, _, errors = run_command('distill', *small_options, *words, '--no-classification')
    assert code == 2 and 'is for runs with a classification loss' in errors
