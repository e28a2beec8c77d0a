"""The picture of the folders stays true: common <- symbol <- eval, recognition <- deploy."""

import ast

import pytest
from conftest import ROOT
from vargfacenet.__main__ import COMMANDS

# folder -> folders it may import
ARROWS = {
    'common': {'common'},
    'symbol': {'common', 'symbol'},
    'eval': {'common', 'symbol', 'eval'},
    'recognition': {'common', 'symbol', 'eval', 'recognition'},
    'deploy': {'common', 'symbol', 'eval', 'recognition', 'deploy'},
}
MXNET_IMPORTER = 'common/backend.py'
SOURCES = sorted(path for folder in ARROWS for path in (ROOT / folder).rglob('*.py'))


def imported_modules(path, tree):
    """(absolute dotted name, whether written relative) of what a module imports.

    `path` is relative to the root. `from ..common import names` yields vargfacenet.common.names:
    what follows `import` may be a module as well, and a name inside one does no harm here.
    """
    package = ('vargfacenet', *path.split('/')[:-1])
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, False) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else ()
            base = (*base, node.module) if node.module else base
            yield from (('.'.join((*base, alias.name)), bool(node.level)) for alias in node.names)


def violations(path, text):
    """What is wrong with a module's imports, as sentences."""
    allowed = ARROWS[path.split('/')[0]]
    found = []
    for module, is_relative in imported_modules(path, ast.parse(text)):
        first, *rest = module.split('.')
        if first in ARROWS:
            found.append(f'{path} imports bare {module}')
        if first == 'vargfacenet' and not is_relative:
            found.append(f'{path} imports {module} absolutely')
        if first == 'vargfacenet' and rest[0] in ARROWS and rest[0] not in allowed:
            found.append(f'{path} imports {module} against the arrows')
        if first == 'mxnet' and path != MXNET_IMPORTER:
            found.append(f'{path} imports {module}')
    return found


@pytest.mark.parametrize('path', SOURCES, ids=lambda path: str(path.relative_to(ROOT)))
def test_imports_follow_the_arrows(path):
    assert violations(path.relative_to(ROOT).as_posix(), path.read_text()) == []


def test_every_folder_was_looked_at():
    assert {path.relative_to(ROOT).parts[0] for path in SOURCES} == set(ARROWS)


@pytest.mark.parametrize(
    ('path', 'text', 'count'),
    [
        ('common/a.py', 'from ..symbol import get_symbol', 1),
        ('common/a.py', 'from .. import symbol', 1),
        ('common/ops/a.py', 'from ...symbol.blocks import add', 1),
        ('common/ops/a.py', 'from ..backend import mx', 0),
        ('symbol/a.py', 'from ..eval.embed import embed', 1),
        ('symbol/a.py', 'from ..common.backend import mx\nfrom . import blocks', 0),
        ('eval/a.py', 'def f():\n    from ..recognition.losses import arcface', 1),
        ('recognition/a.py', 'from ..eval.verification import evaluate', 0),
        ('recognition/a.py', 'from ..deploy import FaceEmbedder', 1),
        ('deploy/a.py', 'from ..recognition import losses\nfrom .. import __version__', 0),
        ('eval/a.py', 'import common.files', 1),
        ('eval/a.py', 'from symbol import get_symbol', 1),
        ('eval/a.py', 'import mxnet as mx', 1),
        ('eval/a.py', 'from mxnet.gluon import nn', 1),
        ('common/backend.py', 'import mxnet as mx', 0),
        ('eval/a.py', 'from vargfacenet.common import files', 1),
        ('symbol/a.py', 'from .vargfacenet import body', 0),
    ],
)
def test_the_check_sees_what_it_should(path, text, count):
    assert len(violations(path, text)) == count


@pytest.mark.parametrize('command', COMMANDS)
def test_every_command_has_its_main(command):
    module, _ = COMMANDS[command]
    path = ROOT / (module.replace('.', '/') + '.py')
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    assert 'main' in names
