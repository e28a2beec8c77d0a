"""Commands as several ranks, by the launcher."""

import importlib.util
import json
import os
import subprocess
import time

import pytest
from conftest import ROOT
from vargfacenet.common.child import module_words

NETWORK = ROOT / 'tests' / 'data' / 'small_network.py'
LAUNCHER = module_words('vargfacenet.common.launch')
needs_horovod = pytest.mark.skipif(
    importlib.util.find_spec('horovod') is None,
    reason='needs Horovod: VARGFACENET_EXTRAS=dist source common/setup_env.sh',
)


def environment(curves='none'):
    network = {'VARGFACENET_PLUGINS': str(NETWORK), 'CURVES': curves}
    return {**os.environ, 'OMP_NUM_THREADS': '1', **network}


def start(*words, program=LAUNCHER, curves='none', **options):
    """The running launcher."""
    return subprocess.Popen(
        [str(word) for word in (*program, *words)],
        env=environment(curves),
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        **options,
    )


def finish(process, timeout=300, result=True):
    """(exit code, JSON result, stderr) of it; it is killed after `timeout` seconds. Another host
    than the first has no `result`."""
    try:
        out, errors = process.communicate(timeout=timeout)
    finally:
        process.kill()
    code = process.returncode
    return code, json.loads(out.splitlines()[-1]) if result and code == 0 else None, errors


def launch(*words, **options):
    """`start` and `finish`."""
    return finish(start(*words, **options))


def wait_for(path, launcher=None, seconds=300):
    """Until a file is there; what a launcher that makes none has said is in the error."""
    until = time.monotonic() + seconds
    while not path.exists():
        if time.monotonic() > until or (launcher and launcher.poll() is not None):
            if launcher:
                launcher.terminate()
            told = finish(launcher, 60, result=False)[2] if launcher else ''
            raise AssertionError(f'no {path}: {told}')
        time.sleep(0.02)
