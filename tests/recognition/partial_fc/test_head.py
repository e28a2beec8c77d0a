"""PartialFC against the MXNet original (two ranks), the full head's graph, and its definition."""

import math
import sys
from pathlib import Path

import numpy as np
import partial_fc_golden
import pytest
from loss_heads import build_terms
from partial_fc_golden import GOLDEN, check_rank
from ranks_launched import launch, needs_horovod
from thread_ranks import on_ranks
from vargfacenet.common.backend import mx
from vargfacenet.common.errors import InputError
from vargfacenet.common.ranks import SingleRank
from vargfacenet.recognition.losses import LOSSES, make_loss
from vargfacenet.recognition.losses.cosine import CosineLoss
from vargfacenet.recognition.partial_fc import Centres, PartialFC, Settings, check_loss

COSINE_LOSSES = sorted(name for name in LOSSES if issubclass(LOSSES.get(name), CosineLoss))
CLASSES, SIZE, IMAGES = 23, 6, 8
SMALL_SCALE = {'s': 16.0}  # the original's loss ends at -log(1e-30)


@pytest.mark.parametrize('case', GOLDEN['cases'])
def test_two_ranks_of_the_original(case, way):
    on_ranks(2, lambda ranks: check_rank(ranks, case))


@needs_horovod
def test_two_processes_of_the_original():
    """Through the launcher and Horovod, all cases."""
    golden = Path(partial_fc_golden.__file__)
    start = (
        'import sys; from vargfacenet.common.launch import __main__ as launcher; '
        f'launcher.program = lambda command: [sys.executable, {str(golden)!r}]; '
        'sys.exit(launcher.main())'
    )
    code, result, errors = launch('-np', 2, program=[sys.executable, '-c', start])
    assert code == 0, errors
    assert result == {'cases': list(GOLDEN['cases']), 'ranks': 2}


def inputs(seed=3):
    random = np.random.default_rng(seed)
    embedding = 3 * random.standard_normal((IMAGES, SIZE)).astype(np.float32)
    label = random.integers(0, CLASSES, IMAGES)
    return embedding, label


def start(loss, settings, ranks=None, rows=CLASSES, first=0, seed=5):
    centres = Centres(rows, SIZE * loss.centres_per_class)
    random = np.random.default_rng(seed)
    whole = random.standard_normal((CLASSES, centres.width)).astype(np.float32)
    part = whole[first : first + rows]
    centres.weights[: len(part)] = part
    return PartialFC(loss, settings, centres, ranks), centres


@pytest.mark.parametrize('name', COSINE_LOSSES)
def test_all_classes_on_one_rank_is_the_training_graph(name, way):
    """Loss, accuracy and both gradients of the full head, on MXNet's operators."""
    loss = make_loss(name, SMALL_SCALE)
    embedding, label = inputs()
    head, centres = start(loss, Settings(CLASSES, SIZE, mom=0.0, wd=0.0))
    before = centres.weights.copy()
    step = head.step(embedding, label, 1.0, 0)

    terms = build_terms(name, CLASSES, SIZE, SMALL_SCALE, batch_size=IMAGES)
    group = mx.sym.Group([terms.loss, terms.correct])
    shapes = {'embedding': embedding.shape, 'label': label.shape}
    executor = group.simple_bind(mx.cpu(), grad_req='write', **shapes)
    executor.copy_params_from(
        {
            'embedding': mx.nd.array(embedding),
            'label': mx.nd.array(label),
            'fc7_weight': mx.nd.array(before.reshape(-1, SIZE)),
            **{key: mx.nd.array([first]) for key, first in FIRST_STATES.get(name, {}).items()},
        }
    )
    executor.forward(is_train=True)
    executor.backward([mx.nd.ones(IMAGES), mx.nd.zeros(IMAGES)])
    values, correct = (output.asnumpy() for output in executor.outputs)
    np.testing.assert_allclose(step.loss, values, rtol=1e-5, atol=1e-4)
    np.testing.assert_array_equal(step.correct, correct)
    wanted = executor.grad_dict['embedding'].asnumpy()
    np.testing.assert_allclose(step.gradient, wanted, rtol=1e-3, atol=1e-4)
    wanted = executor.grad_dict['fc7_weight'].asnumpy().reshape(before.shape)
    moved = (before - centres.weights) * IMAGES  # of a plain step with the rate 1
    np.testing.assert_allclose(moved, wanted, rtol=1e-3, atol=1e-3)


FIRST_STATES = {
    'adaface': {'fc7_norm_mean': 20.0, 'fc7_norm_deviation': 100.0},
    'curricularface': {'fc7_progress': 0.0},
}


@pytest.mark.parametrize('name', COSINE_LOSSES)
def test_three_ranks_are_one(name):
    """Shards of 8, 8 and 7 classes, images split in order of a batch of 6: as one rank alone."""
    loss = make_loss(name, {})
    settings = Settings(CLASSES, SIZE, update='dense')
    batches = [inputs(seed) for seed in (1, 2, 3)]
    batches = [(embedding[:6], label[:6]) for embedding, label in batches]

    def run(ranks, mine):
        rows = CLASSES // 3 + (ranks.rank < CLASSES % 3) if ranks.size == 3 else CLASSES
        first = (0, 8, 16)[ranks.rank]
        head, centres = start(loss, settings, ranks, rows, first)
        steps = [
            head.step(embedding[mine], label[mine], 0.1, number)
            for number, (embedding, label) in enumerate(batches)
        ]
        return steps, centres

    alone, whole = run(SingleRank(), slice(0, 6))
    parts = on_ranks(3, lambda ranks: run(ranks, slice(2 * ranks.rank, 2 * ranks.rank + 2)))
    for field in ('weights', 'momenta'):
        joined = np.concatenate([getattr(centres, field) for _, centres in parts])
        np.testing.assert_allclose(joined, getattr(whole, field), rtol=1e-4, atol=1e-5)
    for number, step in enumerate(alone):
        joined = [np.concatenate(each) for each in zip(*(steps[number][:3] for steps, _ in parts))]
        np.testing.assert_allclose(joined[0], step.loss, rtol=1e-4, atol=1e-4)
        np.testing.assert_array_equal(joined[1], step.correct)
        np.testing.assert_allclose(3 * joined[2], step.gradient, rtol=1e-3, atol=1e-3)


def test_filtered_negatives_are_left_out():
    """Against a loop over the definition in float64: too near negatives are in no sum."""
    loss = make_loss('margin', {'s': 8.0, 'm1': 1.0, 'm2': 0.0, 'm3': 0.2})
    embedding, label = inputs()
    head, centres = start(loss, Settings(CLASSES, SIZE, filter_above=0.3, mom=0.0, wd=0.0))
    before = centres.weights.astype(np.float64)
    step = head.step(embedding, label, 1.0, 0)
    filtered, untouched = 0, np.ones(CLASSES, bool)
    for image, own in enumerate(label):
        total, target = 0.0, 0.0
        for each in range(CLASSES):
            norm = np.linalg.norm(embedding[image]) * np.linalg.norm(before[each])
            cosine = float(embedding[image] @ before[each]) / norm
            if each == own:
                target = math.exp(8 * (cosine - 0.2))
                total += target
            elif cosine > 0.3:
                filtered += 1
                continue
            else:
                total += math.exp(8 * cosine)
            untouched[each] = False
        assert step.loss[image] == pytest.approx(-math.log(target / total), abs=1e-4)
    assert step.filtered == filtered > 10
    np.testing.assert_array_equal(before[untouched], centres.weights[untouched])


def test_what_is_not_sampled_stays_or_decays():
    """Sparse leaves a row as it is; dense moves it by momentum and decay (closed form)."""
    loss = make_loss('margin', {})
    embedding, label = inputs()
    rows = np.union1d(label, [0, 22])
    others = np.setdiff1d(np.arange(CLASSES), rows)
    for update in ('sparse', 'dense'):
        head, centres = start(loss, Settings(CLASSES, SIZE, 0.5, update=update))
        centres.momenta[:] = 0.25
        before = centres.weights.copy()
        head.step(embedding, label, 0.1, 0, rows)
        moved = 0.9 * 0.25 - 0.1 * 5e-4 * before[others] if update == 'dense' else 0.0
        want = before[others] + moved
        np.testing.assert_allclose(centres.weights[others], want, rtol=1e-6)
        assert (centres.weights[rows] != before[rows]).any(axis=1).all()


def test_a_step_is_a_function_of_its_number():
    loss = make_loss('arcnegface', {})
    embedding, label = inputs()

    def after(number):
        head, centres = start(loss, Settings(CLASSES, SIZE, 0.6, seed=9))
        head.step(embedding, label, 0.1, number)
        return centres.weights

    np.testing.assert_array_equal(after(4), after(4))
    assert (after(4) != after(5)).any()


def test_no_step_draws_from_the_numbers_that_made_the_centres(monkeypatch):
    """These are made in blocks, each by its first class, and step numbers are as large."""
    made, streams = np.random.default_rng, []

    def remembering(entropy):
        streams.append(made(entropy).bytes(16))
        return made(entropy)

    monkeypatch.setattr(np.random, 'default_rng', remembering)
    settings = Settings(3 * 4096, SIZE, 0.5, seed=9)
    centres = Centres(settings.num_classes, SIZE)
    centres.start(settings.seed, 0)
    assert len(streams) == 3
    head = PartialFC(make_loss('margin', {}), settings, centres)
    embedding, label = inputs()
    streams.pop()  # of `inputs`
    for number in (1, 4096, 8192):
        head.step(embedding, label, 0.1, number)
    assert len(streams) == len(set(streams)) == 3 + 2 * 3


@pytest.mark.parametrize('name', sorted(set(LOSSES) - {*COSINE_LOSSES}))
def test_losses_without_cosines_are_refused(name):
    with pytest.raises(InputError, match=f'{name} is no function of cosines.*curricularface'):
        check_loss(make_loss(name, {}), name)


def test_a_sample_of_nothing_is_refused():
    with pytest.raises(InputError, match=r'--sample-rate 0\.01 of 23 classes is less than one'):
        start(make_loss('margin', {}), Settings(CLASSES, SIZE, 0.01))
