"""Makes `vargfacenet` importable from this checkout, and gives tests their data and seeds."""

import importlib.util
import json
import sys
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parent.parent
DATA = ROOT / 'tests' / 'data'

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
def run_command(capsys):
    """Run `vargfacenet COMMAND ...` in this process: returns (exit code, JSON result, stderr)."""
    from vargfacenet.__main__ import main

    def run(*argv):
        code = main([str(word) for word in argv])
        captured = capsys.readouterr()
        result = json.loads(captured.out.splitlines()[-1]) if code == 0 else None
        return code, result, captured.err

    return run
