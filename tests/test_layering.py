"""The floor plan stays true: which room imports which, no circles, commands apart, MXNet shut in.

common <- common/data, common/synth <- common/engine <- symbol, eval <- recognition | deploy
       <- deploy/bench
"""

import ast
import functools
import sys
from typing import NamedTuple

import pytest
from conftest import ROOT
from vargfacenet.__main__ import COMMANDS
from vargfacenet.deploy.bench.__main__ import BENCHMARKS

# room -> the rooms below it, whose modules it may import beside its own
_DATA = ('common',)
_SYNTH = (*_DATA, 'common/data')
_ENGINE = (*_SYNTH, 'common/synth')
_ABOVE_ENGINE = (*_ENGINE, 'common/engine')
_ABOVE_EVAL = (*_ABOVE_ENGINE, 'symbol', 'eval')
BELOW = {
    'common': (),
    'common/data': _DATA,
    'common/synth': _SYNTH,
    'common/engine': _ENGINE,
    'symbol': _ABOVE_ENGINE,
    'eval': _ABOVE_ENGINE,
    'recognition': _ABOVE_EVAL,
    'deploy': _ABOVE_EVAL,
    'deploy/bench': (*_ABOVE_EVAL, 'recognition', 'deploy'),
}
FOLDERS = sorted({room.split('/')[0] for room in BELOW})
COMMAND_MODULES = {module for module, _ in COMMANDS.values()} | {
    f'deploy.bench.{module}' for module, _ in BENCHMARKS.values()
}
MXNET_IMPORTER = 'common.backend'
# What builds or runs symbols: modules, and packages with all that is in them.
MXNET_SIDE = (
    MXNET_IMPORTER,
    'common.engine.horovod_ranks',
    'common.engine.mxnet',
    'common.engine.ops',
    'symbol',
    'recognition',
    'deploy.bench',
    'deploy.export',
    'deploy.gluon',
)
MXNET_PACKAGES = {'mxnet', 'gluoncv', 'mxboard'}  # the last two import the first


class Import(NamedTuple):
    """One import statement's module, as a dotted name below the root where it is one of ours."""

    importer: str
    imported: str
    ours: bool
    relative: bool
    when_loaded: bool  # not inside a function, nor for type checkers alone


def module_name(path):
    """'eval/report/page.py' -> 'eval.report.page'; a package's __init__ has the package's name."""
    return path[: -len('.py')].replace('/', '.').removesuffix('__init__').rstrip('.')


def room_of(module, modules):
    """'common/engine' of common.engine.ops.build, whose file is in `modules`."""
    package = module if modules[module].endswith('/__init__.py') else module.rpartition('.')[0]
    parts = package.split('.')
    lengths = range(len(parts), 0, -1)
    return next('/'.join(parts[:n]) for n in lengths if '/'.join(parts[:n]) in BELOW)


@functools.cache
def _import_statements(source):
    """(import statement, whether loading the module runs it) of a module's text."""
    waiting, found = [(node, True) for node in ast.parse(source).body], []
    while waiting:
        node, runs = waiting.pop()
        if isinstance(node, (ast.Import, ast.ImportFrom)):
            found.append((node, runs))
        inner = runs and not isinstance(node, (ast.FunctionDef, ast.AsyncFunctionDef, ast.Lambda))
        inner = inner and not (isinstance(node, ast.If) and 'TYPE_CHECKING' in ast.dump(node.test))
        waiting += [(child, inner) for child in ast.iter_child_nodes(node)]
    return found


def imports(sources):
    """Every Import of {path below the root: text}.

    `from ..common import names` imports common.names if that is a module, else names of common.
    """
    modules = {module_name(path): path for path in sources}
    for name, path in modules.items():
        package = ('vargfacenet', *path.split('/')[:-1])
        for node, runs in _import_statements(sources[path]):
            if isinstance(node, ast.Import):
                found = [alias.name.split('.') for alias in node.names]
                level = 0
            else:
                level = node.level
                base = package[: len(package) - level + 1] if level else ()
                base = (*base, *(node.module.split('.') if node.module else ()))
                found = [(*base, alias.name) for alias in node.names]
            for parts in found:
                ours = parts[0] == 'vargfacenet'
                if ours:
                    parts = parts[1:]
                    parts = parts if '.'.join(parts) in modules else parts[:-1]
                yield Import(name, '.'.join(parts), ours, bool(level), runs)


def circular(edges):
    """Those of the (importer, imported) pairs that lie on a circle."""
    after = {}
    for importer, imported in edges:
        after.setdefault(importer, set()).add(imported)

    def reached(start):
        seen, waiting = set(), [start]
        while waiting:
            for module in after.get(waiting.pop(), ()):
                if module not in seen:
                    seen.add(module)
                    waiting.append(module)
        return seen

    reach = {importer: reached(importer) for importer in after}
    return {(a, b) for a, b in edges if a in reach.get(b, ())}


def needs_mxnet(module):
    return any(module == part or module.startswith(part + '.') for part in MXNET_SIDE)


def wrong_with_others(found):
    """What is wrong with the import of a package that is not ours; None if nothing is."""
    package = found.imported.split('.')[0]
    if package in MXNET_PACKAGES and found.when_loaded and not needs_mxnet(found.importer):
        return 'MXNet on the side that runs without it'
    if package == 'mxnet' and found.importer != MXNET_IMPORTER:
        return f'only {MXNET_IMPORTER} imports mxnet'
    return 'bare import of a folder' if package in FOLDERS else None


def wrong_with_ours(found, modules):
    """The same for the import of a module of ours."""
    room, other = room_of(found.importer, modules), room_of(found.imported, modules)
    if found.when_loaded and needs_mxnet(found.imported) and not needs_mxnet(found.importer):
        return 'MXNet on the side that runs without it'
    if found.imported in COMMAND_MODULES:
        return 'commands are not imported'
    if other not in (room, *BELOW[room]):
        return f'{room} must not import {other}'
    return None if found.relative else 'absolute import of our own'


def at_the_door(found):
    """Of the program itself, or of names in it such as __version__."""
    return found.importer in ('', '__main__') or not found.imported


def violations(sources):
    """{(importer, imported): what is wrong with it} of {path below the root: text}."""
    modules = {module_name(path): path for path in sources}
    wrong, edges = {}, set()
    for found in imports(sources):
        pair = found.importer, found.imported
        if not found.ours:
            reason = wrong_with_others(found)
        elif at_the_door(found):
            reason = None if found.relative else 'absolute import of our own'
        else:
            edges.add(pair)
            reason = wrong_with_ours(found, modules)
        if reason:
            wrong[pair] = reason
    for pair in circular(edges):
        wrong.setdefault(pair, 'modules import each other in a circle')
    return wrong


def house():
    paths = [path for folder in FOLDERS for path in (ROOT / folder).rglob('*.py')]
    paths += [ROOT / '__init__.py', ROOT / '__main__.py']
    return {path.relative_to(ROOT).as_posix(): path.read_text() for path in paths}


def test_imports_keep_the_floor_plan():
    found = sorted(violations(house()).items())
    assert not found, '\n'.join(f'{a} imports {b}: {why}' for (a, b), why in found)


@pytest.mark.parametrize('part', MXNET_SIDE)
def test_what_needs_no_mxnet_is_not_counted_to_its_side(part, monkeypatch):
    others = tuple(other for other in MXNET_SIDE if other != part)
    monkeypatch.setattr(sys.modules[__name__], 'MXNET_SIDE', others)
    assert violations(house())


def test_every_room_was_looked_at():
    sources = house()
    modules = {module_name(path): path for path in sources}
    looked_at = {room_of(module, modules) for module in modules if module and module != '__main__'}
    assert looked_at == set(BELOW)
    assert len(list(imports(sources))) > 500
    assert not COMMAND_MODULES - set(modules)


@pytest.mark.parametrize(
    ('path', 'text', 'imported'),
    [
        ('common/files.py', 'from ..symbol import blocks', 'symbol.blocks'),
        ('common/files.py', 'from .. import symbol', 'symbol'),
        ('common/files.py', 'from .data.image import decode', 'common.data.image'),
        ('common/data/image.py', 'from ..synth import face', 'common.synth.face'),
        ('common/synth/face.py', 'from ..data.image import decode', None),
        ('common/engine/ops/build.py', 'from ....symbol.blocks import add', 'symbol.blocks'),
        ('common/engine/ops/build.py', 'from ...backend import mx', None),
        ('symbol/blocks.py', 'from ..eval.rates import allowed', 'eval.rates'),
        ('eval/rates.py', 'from ..symbol import get_symbol', 'symbol'),
        ('eval/rates.py', 'def f():\n    from ..recognition import losses', 'recognition.losses'),
        ('recognition/losses.py', 'from ..eval.rates import allowed', None),
        ('recognition/losses.py', 'from ..deploy import FaceEmbedder', 'deploy'),
        (
            'deploy/gallery.py',
            'def f():\n    from ..recognition.losses import a',
            'recognition.losses',
        ),
        ('deploy/gallery.py', 'from .bench.measure import Timing', 'deploy.bench.measure'),
        ('deploy/bench/measure.py', 'from ...recognition.losses import a', None),
        ('deploy/gallery.py', 'from .. import __version__', None),
        # commands
        ('eval/rates.py', 'from .verify import run', 'eval.verify'),
        ('deploy/bench/measure.py', 'def f():\n    from . import train', 'deploy.bench.train'),
        # spelling
        ('eval/rates.py', 'import common.files', 'common.files'),
        ('eval/rates.py', 'from symbol import get_symbol', 'symbol.get_symbol'),
        ('eval/rates.py', 'from vargfacenet.common import files', 'common.files'),
        # MXNet
        ('recognition/losses.py', 'import mxnet as mx', 'mxnet'),
        ('recognition/losses.py', 'from mxnet.gluon import nn', 'mxnet.gluon.nn'),
        ('recognition/losses.py', 'from gluoncv.utils import LRScheduler', None),
        ('eval/rates.py', 'from gluoncv.utils import LRScheduler', 'gluoncv.utils.LRScheduler'),
        ('common/backend.py', 'import mxnet as mx', None),
        ('eval/rates.py', 'from ..common.backend import mx', 'common.backend'),
        (
            'eval/rates.py',
            'try:\n    from ..common.backend import mx\nexcept E:\n    pass',
            'common.backend',
        ),
        (
            'eval/rates.py',
            'class A:\n    from ..common.engine.ops import build',
            'common.engine.ops.build',
        ),
        ('eval/rates.py', 'def f():\n    from ..common.backend import mx', None),
        ('eval/rates.py', 'if TYPE_CHECKING:\n    from ..common.backend import mx', None),
        ('deploy/gluon.py', 'from ..common.backend import mx', None),
    ],
)
def test_the_check_sees_what_it_should(path, text, imported):
    files = (
        '__init__ common/backend common/files common/data/image common/synth/face '
        'common/engine/ops/__init__ common/engine/ops/build symbol/__init__ symbol/blocks '
        'eval/rates eval/verify recognition/losses deploy/__init__ deploy/gallery deploy/gluon '
        'deploy/bench/measure deploy/bench/train'
    )
    sources = {f'{file}.py': '' for file in files.split()}
    found = violations({**sources, path: text})
    assert list(found) == ([(module_name(path), imported)] if imported else [])


def test_circles_are_found_and_only_these():
    sources = {
        'eval/a.py': 'from .b import x',
        'eval/b.py': 'def f():\n    from . import c',
        'eval/c.py': 'from .a import y\nfrom .d import z',
        'eval/d.py': '',
        'eval/e.py': 'from .a import x',
    }
    circle = {('eval.a', 'eval.b'), ('eval.b', 'eval.c'), ('eval.c', 'eval.a')}
    assert set(violations(sources)) == circle


def cores(source):
    """How often a module's text makes a core of OpenVINO."""
    calls = [node.func for node in ast.walk(ast.parse(source)) if isinstance(node, ast.Call)]
    return sum('Core' in (getattr(call, 'attr', ''), getattr(call, 'id', '')) for call in calls)


def test_openvino_has_one_core_that_all_use():
    """A signal after one of several has gone ends the process, see `core` there."""
    makers = {path: cores(source) for path, source in house().items() if cores(source)}
    assert makers == {'common/engine/openvino_core.py': 1}
    assert cores('ov.Core().read_model(a)\nfrom openvino import Core\nCore()\ncore()') == 2


@pytest.mark.parametrize('module', sorted(COMMAND_MODULES))
def test_every_command_has_its_main(module):
    path = ROOT / (module.replace('.', '/') + '.py')
    names = set()
    for node in ast.parse(path.read_text()).body:
        if isinstance(node, ast.FunctionDef):
            names.add(node.name)
        elif isinstance(node, ast.Assign):
            names.update(target.id for target in node.targets if isinstance(target, ast.Name))
    assert 'main' in names
