"""Programs of this folder that a Python of an environment of its own runs, with what is no
dependency of ours: PyTorch, faiss."""

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path
from typing import Optional

from ...common.errors import InputError

# what any Python answers, and no other program
_LACKING = (
    'import importlib.util, json, sys; '
    'print(json.dumps([name for name in sys.argv[1:] if importlib.util.find_spec(name) is None]))'
)
_PATIENCE = 60.0  # seconds in which a Python answers


def check_python(option: str, python: str, what: str, packages: str, modules: Sequence[str]) -> str:
    """The program that an option names; InputError where that is no Python, or lacks a module.

    Parameters
    ----------
    option : such as '--torch-python'
    python : its value
    what : that the Python is to have, in words
    packages : what pip installs for it
    modules : that these bring
    """
    found = shutil.which(python) if python else None
    lacking = _lacking(found, modules) if found else None
    if lacking != []:
        place = option.strip('-').replace('-python', 'env')
        it_is = f' has no {", ".join(lacking)}' if lacking else ''
        raise InputError(
            f'{option} {python!r}{it_is}: expected a Python with {what}, which is no dependency: '
            f'python3 -m venv {place} && {place}/bin/pip install {packages}, then '
            f'{option} {place}/bin/python'
        )
    return found


def _lacking(program: str, modules: Sequence[str]) -> Optional[list[str]]:
    """Which modules a Python does not have; None of a program that is none."""
    words = [program, '-I', '-c', _LACKING, *modules]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=_PATIENCE)
        lacking = json.loads(done.stdout)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return None
    return lacking if isinstance(lacking, list) else None


def words(python: str, program: Path, what: str, options: dict) -> list[str]:
    """The command that runs a program, isolated: the variables and the folder of our own Python
    are none of its."""
    return [python, '-I', str(program), what, json.dumps(options)]
