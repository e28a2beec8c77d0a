"""Programs of this folder that a Python of an environment of its own runs, with what is no
dependency of ours: PyTorch, faiss."""

import json
import shutil
import subprocess
from pathlib import Path

from ...common.errors import InputError


def check_python(option: str, python: str, what: str, packages: str) -> str:
    """The program that an option names; InputError where that is no Python.

    Parameters
    ----------
    option : such as '--torch-python'
    python : its value
    what : that the Python is to have, in words
    packages : what pip installs for it
    """
    found = shutil.which(python) if python else None
    # a program that is no Python would end without a word
    if not found or subprocess.run([found, '-c', ''], capture_output=True).returncode:
        place = option.strip('-').replace('-python', 'env')
        raise InputError(
            f'{option} {python!r}: expected a Python with {what}, which is no dependency: '
            f'python3 -m venv {place} && {place}/bin/pip install {packages}, then '
            f'{option} {place}/bin/python'
        )
    return found


def words(python: str, program: Path, what: str, options: dict) -> list[str]:
    """The command that runs a program, isolated: the variables and the folder of our own Python
    are none of its."""
    return [python, '-I', str(program), what, json.dumps(options)]
