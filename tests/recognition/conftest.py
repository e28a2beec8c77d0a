"""A small data set of coloured patterns and the options of a run that takes a second or two."""

import runpy
import shutil

import cv2
import numpy as np
import pytest
import ranks_launched
from conftest import DATA, registered_for_now
from curves_drawn import alike_are_drawn_once  # noqa: F401  of all tests here
from vargfacenet.common.data.pair_sets import write_pairs
from vargfacenet.common.data.recordio import write_face_records
from vargfacenet.symbol import NETWORKS

IDENTITIES, IMAGES = 6, 8
SMALL_NETWORK = DATA / 'small_network.py'  # for VARGFACENET_PLUGINS of other processes


def pattern(identity: int, number: int) -> bytes:
    """JPEG of an identity's smooth random pattern with a little noise: easy to tell apart."""
    coarse = np.random.RandomState(identity).randint(0, 256, (4, 4, 3)).astype(np.uint8)
    image = cv2.resize(coarse, (112, 112), interpolation=cv2.INTER_CUBIC).astype(int)
    image += np.random.RandomState(1000 * identity + number).randint(-20, 21, image.shape)
    return cv2.imencode('.jpg', np.clip(image, 0, 255).astype(np.uint8))[1].tobytes()


def files_of(folder):
    """{name: (size, time of the last change)} of the files of a folder."""
    stats = {path.name: path.stat() for path in folder.iterdir()}
    return {name: (stat.st_size, stat.st_mtime_ns) for name, stat in stats.items()}


@pytest.fixture(scope='session')
def patterns_made(tmp_path_factory):
    """Folder of `patterns`, and what it holds."""
    folder = tmp_path_factory.mktemp('patterns')
    write_face_records(
        folder / 'train', ([pattern(i, k) for k in range(IMAGES)] for i in range(IDENTITIES))
    )
    images, issame = [], []
    for number in range(20):
        same = number % 2 == 0
        identity = 100 + number
        images += [pattern(identity, 0), pattern(identity if same else identity + 50, 1)]
        issame.append(same)
    write_pairs(folder / 'pairs.bin', images, issame)
    return folder, files_of(folder)


@pytest.fixture(scope='session')
def patterns(patterns_made):
    """Folder with train.rec (6 identities of 8 images) and pairs.bin (20 pairs of others), which
    all tests share: what writes beside the pictures, as a teacher's store, takes a copy."""
    return patterns_made[0]


@pytest.fixture(autouse=True)
def patterns_stay(request):
    """Fails the test that leaves something in `patterns` or changes it."""
    if 'patterns_made' not in request.fixturenames:
        yield
        return
    folder, made = request.getfixturevalue('patterns_made')
    yield
    before, now = dict(made), files_of(folder)
    made.update(now)  # the tests behind this one have not done it
    assert now == before


@pytest.fixture
def data(patterns, tmp_path):
    """A copy of `patterns`, to write to."""
    return shutil.copytree(patterns, tmp_path / 'data')


@pytest.fixture
def run_options(data, tmp_path):
    """Options of `train`, all but the network: 12 steps of 8 images, one checkpoint at the end."""
    place = ['--data-dir', data, '--models-root', tmp_path, '--name', 'run']
    steps = ['--per-batch-size', 8, '--steps', 12, '--frequent', 4, '--verbose', 100]
    return [*place, *steps, '--lr', 0.05]


@pytest.fixture
def options(run_options):
    """The same for a VarGFaceNet of a fifth of the paper's channels, whose running statistics
    follow the batches quickly enough for a few steps."""
    words = ('multiplier=0.25', 'emb_size=32', 'bn_mom=0.5')
    network = [text for word in words for text in ('--network-option', word)]
    return [*run_options, '--network', 'vargfacenet', *network]


@pytest.fixture
def small_options(run_options):
    """The same for a network of a few layers, where it is the run that is looked at: its files,
    what it says, how it goes on."""
    with registered_for_now(NETWORKS):
        runpy.run_path(str(SMALL_NETWORK))
        yield [*run_options, '--network', 'small', '--network-option', 'emb_size=32']


HELD = """
import time
from pathlib import Path
from vargfacenet.recognition import hooks

written = hooks.save_state

def save_state(prefix, config, state, momenta):
    written(prefix, config, state, momenta)
    while state.number == 1 and not Path({go!r}).exists():
        time.sleep(0.01)

hooks.save_state = save_state
"""


@pytest.fixture
def go(tmp_path, monkeypatch):
    """File without which runs do not go on from their first checkpoint, so that none ends before
    the test has killed a rank."""
    path, plugin = tmp_path / 'go', tmp_path / 'held.py'
    plugin.write_text(SMALL_NETWORK.read_text() + HELD.format(go=str(path)))
    monkeypatch.setattr(ranks_launched, 'NETWORK', plugin)
    return path
