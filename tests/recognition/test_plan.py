"""What a step costs: against numbers worked out by hand, and what a network counted."""

import dataclasses
import json
import os
import shutil
import subprocess
import sys

import numpy as np
import pytest
from ranks_launched import LAUNCHER, environment, needs_horovod
from vargfacenet.deploy.bench import child, measured
from vargfacenet.recognition import cost
from vargfacenet.recognition.config import TrainConfig
from vargfacenet.recognition.losses import make_loss

MANY = cost.Job(classes=10**8, ranks=64, batch=128, params=5_000_000, sample_rate=0.1)


def test_bytes_of_a_step_by_hand():
    """64 ranks, 8,192 images: an all-reduce sends 126/64 of an array, a gather 63 arrays."""
    sent = {each.name: each.sent(64) for each in cost.exchanges(MANY)}
    assert sent == {
        'gradients': 39_375_007,  # 4 * 5,000,001 * 126 / 64
        'embeddings': 16_515_072,  # 4 * 128 * 512 * 63
        'labels': 64_512,  # 8 * 128 * 63
        'target cosines': 129_024,  # 4 * 8,192 * 2 * 126 / 64
        'largest logits': 64_512,  # 4 * 8,192 * 126 / 64
        'softmax sums': 64_512,
        'target gradients': 64_512,
        'embedding gradients': 33_030_144,  # 4 * 8,192 * 512 * 126 / 64
    }


def test_memory_of_a_rank_by_hand():
    """1,562,500 classes a rank, of which 156,250 are sampled."""
    held = cost.memory(MANY, activations=1_000_000)
    assert (MANY.rows, MANY.sampled) == (1_562_500, 156_250)
    assert held == {
        'network: weights, gradients, momenta': 80_000_000,
        'network: layers of a batch, both ways': 256_000_000,
        'centres and momenta': 6_400_000_000,  # 8 * 1,562,500 * 512
        'cosines': 5_120_000_000,  # 4 * 8,192 * 156,250
        'embeddings and their gradients': 67_108_864,  # 16 * 8,192 * 512
    }


def test_seconds_by_hand():
    """10 Gbit/s, 50 us a hop, 100 GFLOP/s, 10 GB/s, 64 images/s."""
    speeds = cost.Speeds(64.0, 1e11, 1e10, 1.25e9, 5e-5)
    spent = cost.seconds(MANY, speeds)
    assert spent['network'] == 2.0
    assert spent['head: matrix products'] == pytest.approx(39.3216)  # 6 * 8,192 * 156,250 * 512
    assert spent['head: centres in memory'] == pytest.approx(0.16)  # 5 * 2,048 * 156,250
    assert spent['wire: gradients'] == pytest.approx(39_375_007 / 1.25e9 + 126 * 5e-5)
    # 49,932,288 bytes; two gathers of 63 hops and five all-reduces of 126
    assert spent['wire: head'] == pytest.approx(49_932_288 / 1.25e9 + 756 * 5e-5)
    assert cost.largest(spent) == 'head: matrix products'
    unknown = cost.seconds(MANY, speeds._replace(images=None))
    assert unknown['network'] is None and cost.largest(unknown) == 'head: matrix products'


def test_the_full_head_sends_its_centres():
    full = cost.Job(classes=1000, ranks=2, batch=8, params=100, embedding_size=4, partial_fc=False)
    (only,) = cost.exchanges(full)
    assert only.sent(2) == 4 * (100 + 1000 * 4 + 1)
    assert cost.memory(full, 0)['centres, gradients, momenta'] == 16 * 1000 * 4
    assert cost.seconds(full, cost.Speeds(1.0, 1e9, 1e9, 1e9, 0.0)).keys() == {
        'network',
        'head: matrix products',
        'head: centres in memory',
        'wire: gradients',
    }


def test_dense_keeps_the_classes_of_the_images():
    job = cost.Job(1000, 4, 64, 1, sample_rate=0.01, dense=True)
    assert (job.rows, job.sampled) == (250, 64)
    assert cost.Job(1000, 4, 64, 1, sample_rate=0.01).sampled == 2


def test_defaults_are_those_of_training(run_command):
    given = ['--ranks', 1, '--batch', 8, '--gflops', 1, '--gbytes', 1]
    _, result, _ = run_command('plan', '--classes', 100, *given)
    fields = {each.name: each.default for each in dataclasses.fields(TrainConfig)}
    assert result['job']['sample_rate'] == fields['sample_rate']
    assert result['job']['dense'] == (fields['partial_fc_update'] == 'dense')
    assert result['job']['centre_bytes'] == np.dtype(fields['centres_dtype']).itemsize


# the most that a process held in two steps of a head, beyond what it had before them; pages of
# the centres are touched before
STEPS_OF_A_HEAD = """
import sys
import numpy as np
from vargfacenet.recognition.losses import make_loss
from vargfacenet.recognition.partial_fc import Centres, PartialFC, Settings

def held(key):
    (line,) = (line for line in open('/proc/self/status') if line.startswith(key))
    return 1024 * int(line.split()[1])

loss, dtype, classes, images, size = sys.argv[1], sys.argv[2], *map(int, sys.argv[3:])
loss = make_loss(loss, {})
centres = Centres(classes, loss.centres_per_class * size, dtype)
centres.start(0, 0)
centres.momenta[:] = 0
head = PartialFC(loss, Settings(classes, size), centres)
random = np.random.default_rng(0)
before = held('VmRSS:')
for step in range(2):
    label = random.integers(0, classes, images)
    head.step(random.standard_normal((images, size), np.float32), label, 0.1, step)
print(held('VmHWM:') - before, centres.weights.nbytes + centres.momenta.nbytes)
"""


@pytest.mark.parametrize(
    ('loss', 'dtype', 'classes', 'least'),
    [
        ('margin', 'float16', 200_000, 0.9),
        ('curricularface', 'float32', 40_000, 0.75),
        ('subcenter_arcface', 'float32', 40_000, 0.5),
    ],
)
def test_memory_is_what_a_head_takes(loss, dtype, classes, least):
    """Centres and momenta to the byte; cosines, but of losses that move all of them what is said
    is the most that one takes."""
    images, size = 64, 8
    words = [STEPS_OF_A_HEAD, loss, dtype, classes, images, size]
    done = subprocess.run(
        [sys.executable, '-c', *map(str, words)],
        env={**os.environ, 'OMP_NUM_THREADS': '1', 'OPENBLAS_NUM_THREADS': '1'},  # a buffer each
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    peak, stored = map(int, done.stdout.split())
    job = cost.Job(
        classes,
        1,
        images,
        0,
        size,
        make_loss(loss, {}).centres_per_class,
        centre_bytes=np.dtype(dtype).itemsize,
        moves_others=not make_loss(loss, {}).margin_on_target_alone,
    )
    told = cost.memory(job, 0)
    assert told['centres and momenta'] == stored
    spare = 16 << 20  # MXNet's and BLAS's own, a block of centres
    assert least * told['cosines'] < peak < told['cosines'] + spare


def test_memory_is_what_the_full_head_takes():
    """Four arrays of C x D, of which one is the Module's own, and two of N x C."""
    classes, images, size = 100_000, 16, 64
    job = cost.Job(classes, 1, images, 0, size, partial_fc=False)
    told = sum(cost.memory(job, 0).values())
    # MXNet frees the two of N x C up to a step late when the machine is busy (12.2 MiB); a fifth
    # of C x D (24.4 MiB) would still be seen
    most = told + (24 << 20)
    what = {'classes': classes, 'batch_size': images, 'size': size, 'stock': False, 'rounds': 1}
    found = child.run(measured.measure_head, {'OMP_NUM_THREADS': '1'}, **what)['bytes']
    assert 0.9 * told < found < most


def test_command(run_command):
    words = ['--classes', '1e8', '--ranks', 64, '--batch', 128, '--gflops', 100, '--gbytes', 10]
    words += ['--sample-rate', 0.1]
    code, result, messages = run_command('plan', *words)
    assert code == 0
    assert result['slowest'] == 'head: matrix products'
    assert result['sent_bytes']['embedding gradients'] == 33_030_144
    assert result['sent_bytes']['gradients'] == 4 * (result['job']['params'] + 1) * 126 // 64
    assert result['job']['params'] == pytest.approx(5.2e6, rel=0.05)
    assert 'give --images-per-second' in messages
    code, result, _ = run_command('plan', '--classes', 100, '--ranks', 1, '--batch', 8)
    assert code == 0
    assert result['speeds']['flops'] > 1e7 and result['speeds']['memory_bytes'] > 1e7
    assert sum(result['sent_bytes'].values()) == 0  # nobody is there


@pytest.mark.parametrize(
    ('words', 'message'),
    [
        (['--classes', '1.5'], '--classes 1.5: expected a whole number'),
        (['--ranks', 0], '--ranks 0: expected a whole number'),
        (['--classes', '1e99'], '--classes 1e+99: expected a whole number from 1 to 1e+12'),
        (['--batch', 'nan'], '--batch nan: expected a whole number'),
        (['--gbit', -1], '--gbit -1: must be from 1e-12 to 1e+12'),
        (['--latency', 'nan'], '--latency nan: must be from'),
        (['--head', 'full', '--sample-rate', 0.1], '--sample-rate: only with --head partial-fc'),
        (['--head', 'full', '--centres-dtype', 'float16'], '--centres-dtype: only with'),
        (['--sample-rate', 'nan'], '--sample-rate nan: must be a number above 0, at most 1'),
        (['--loss', 'triplet'], 'has no class centres'),
        (['--loss', 'softmax'], 'softmax is no function of cosines'),
        (['--sample-rate', '0.016'], 'have no room for those of a step of 16 images'),
    ],
)
def test_refuses(words, message, run_command):
    given = ['--classes', 1000, '--ranks', 2, '--batch', 8, '--gflops', 1, '--gbytes', 1]
    code, _, messages = run_command('plan', *given, *words)
    assert code == 2 and message in messages


# bytes sent is the tenth word of a line of /proc/net/dev
COUNTED = """
ip link set lo up
"$@" > out.json
awk '$1 == "lo:" { print $10 }' /proc/net/dev
"""
STEPS, LOGGED = 20, 5


def may_make_networks():
    if not shutil.which('unshare') or not shutil.which('ip') or os.geteuid():
        return False
    return not subprocess.run(['unshare', '-n', 'true'], capture_output=True).returncode


@needs_horovod
@pytest.mark.skipif(not may_make_networks(), reason='needs to make a network, as root')
def test_the_network_counts_what_the_program_does(patterns, tmp_path):
    """Two ranks in a network of their own: its loopback carries what both send, and headers."""
    size = 512
    place = ['--data-dir', patterns, '--models-root', tmp_path, '--name', 'run', '--target', '']
    words = ['--network', 'small', '--network-option', f'emb_size={size}', '--frequent', LOGGED]
    words += ['--head', 'partial-fc', '--per-batch-size', 8, '--steps', STEPS, '--ckpt', 0]
    command = [*LAUNCHER, '-np', 2, *place, *words]
    done = subprocess.run(
        ['unshare', '-n', 'bash', '-c', COUNTED, 'bash', *map(str, command)],
        # ranks that wait talk to each other a thousand times a second, if nothing else is said
        env={**environment(), 'HOROVOD_CYCLE_TIME': '20'},
        cwd=tmp_path,
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    counted = int(done.stdout)
    given = json.loads((tmp_path / 'out.json').read_text())['sent_bytes']
    params = 8 * 3 * 49 + 16 * 8 + 256 * size + size  # convolutions and the layer of embeddings
    params += 2 * (8 + 16 + size) + 8  # BatchNorms, PReLU
    job = cost.Job(classes=6, ranks=2, batch=8, params=params, embedding_size=size)
    for each in cost.exchanges(job):
        assert given.pop(each.name) == STEPS * each.given, each
    assert given.pop('losses') == STEPS // LOGGED * 4 * 4 * LOGGED
    by_steps = 2 * STEPS * sum(each.sent(2) for each in cost.exchanges(job))
    start = sum(given.values())  # from rank 0 to rank 1
    assert by_steps > 5 * start
    assert by_steps + start < counted < 1.1 * (by_steps + start)
