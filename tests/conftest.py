"""Makes `vargfacenet` importable from this checkout, and gives tests their data and seeds."""

import contextlib
import gc
import importlib.util
import json
import signal
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / 'tests' / 'data'
# What takes longest, in this order. Workers that take whole files begin with these, or one of them
# would be alone with such a file in the end.
LONGEST = (
    'recognition/test_ranks.py',
    'deploy/test_export.py',
    'test_kills.py',
    'fuzz/test_fuzz.py',
    'deploy/bench/test_training.py',
    'recognition/test_train.py',
    'deploy/bench/test_engines.py',
    'deploy/test_web_page.py',
    'eval/report/test_report.py',
    'recognition/test_distill.py',
    'common/engine/ops/test_network.py',
    'common/engine/ops/test_bf16.py',
    'eval/search/test_screen.py',
    'recognition/study/test_study.py',
    'symbol/test_networks.py',
    'symbol/test_convert.py',
    'common/engine/test_to_onnx.py',
    'common/engine/engines/test_engines.py',
    'test_extending.py',
    'eval/report/test_parts.py',
    'recognition/test_plan.py',
    'recognition/test_families.py',
    'recognition/test_teacher_store.py',
    'eval/test_clean.py',
    'common/synth/test_dataset.py',
    'deploy/test_gallery_file.py',
    'common/test_launch.py',
    'common/test_native.py',
    'recognition/test_updates.py',
    'symbol/test_polyface.py',
    'test_public.py',
    'deploy/test_serve.py',
    'common/test_quick_mxnet.py',
    'recognition/partial_fc/test_train.py',
    'test_faults.py',
    'deploy/test_sealing.py',
    'test_refused_early.py',
    'deploy/test_commands.py',
)


def pytest_collection_modifyitems(items):
    order = {ROOT / 'tests' / name: number for number, name in enumerate(LONGEST)}
    assert all(path.is_file() for path in order), 'LONGEST names a file that is gone'
    # see threads.py
    shared = {item.path for item in items if 'two_engine_threads' in item.fixturenames}
    items.sort(key=lambda item: (item.path not in shared, order.get(item.path, len(order))))


@pytest.hookimpl(hookwrapper=True)
def pytest_collection():
    """Nothing is garbage before all is imported and collected."""
    gc.disable()
    yield
    gc.enable()


def pytest_collection_finish():
    """Libraries and collected tests stay to the end: no collection of garbage looks at them."""
    gc.collect()
    gc.freeze()


if importlib.util.find_spec('vargfacenet') is None:
    spec = importlib.util.spec_from_file_location(
        'vargfacenet', ROOT / '__init__.py', submodule_search_locations=[str(ROOT)]
    )
    sys.modules['vargfacenet'] = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(sys.modules['vargfacenet'])


@pytest.fixture
def rng(request) -> np.random.RandomState:
    """Random numbers that are the same in every run; the seed is shown when the test fails."""
    seed = 20191011
    request.node.user_properties.append(('seed', seed))
    return np.random.RandomState(seed)


@pytest.fixture
def default_signals():
    """Signals mean what they mean in a terminal, also where this runs in the background or
    under nohup, which have children ignore them."""
    meanings = {signal.SIGINT: signal.default_int_handler, signal.SIGHUP: signal.SIG_DFL}
    before = {number: signal.signal(number, meaning) for number, meaning in meanings.items()}
    yield
    for number, meaning in before.items():
        signal.signal(number, meaning)


@pytest.fixture(scope='module')
def two_threads():
    """Two threads share the loops of compiled kernels, whatever OMP_NUM_THREADS says."""
    from threads import threads

    with threads(2):
        yield


@pytest.fixture(scope='module')
def two_engine_threads():
    """And those of MXNet's operators: for whole files, which run before those of one thread, and
    in which no network is trained."""
    from threads import threads

    with threads(2, engine=True):
        yield


@pytest.fixture
def run_command(capsys):
    """Run `vargfacenet COMMAND ...` in this process: returns (exit code, JSON result, stderr)."""
    from vargfacenet.__main__ import main

    def run(*argv):
        code = main([str(word) for word in argv])
        captured = capsys.readouterr()
        result = json.loads(captured.out.splitlines()[-1]) if code == 0 else None
        return code, result, captured.err

    return run


MXNET_HALF = ('mxnet', 'gluoncv', 'mxboard', 'easydict')  # setup.py installs them together
WITHOUT_MXNET = importlib.util.find_spec('mxnet') is None
needs_mxnet = pytest.mark.skipif(WITHOUT_MXNET, reason='needs MXNet')


class _Module(pytest.Module):
    """A file of tests that is left out, and counted, where it needs MXNet and there is none."""

    def collect(self):
        try:
            return super().collect()
        except self.CollectError as error:
            if not any(f"No module named '{name}'" in str(error) for name in MXNET_HALF):
                raise
            pytest.skip('needs MXNet', allow_module_level=True)


if WITHOUT_MXNET:

    def pytest_pycollect_makemodule(module_path, parent):
        return _Module.from_parent(parent, path=module_path)


@contextlib.contextmanager
def registered_for_now(*registries):
    """What is registered inside, by plugins too, is forgotten at the end; plugins run anew."""
    from vargfacenet.common import plugins

    with pytest.MonkeyPatch.context() as patch:
        for registry in registries:
            for part in ('_items', '_files'):
                patch.setattr(registry, part, dict(getattr(registry, part)))
        patch.setattr(plugins, '_loaded', set())
        yield
