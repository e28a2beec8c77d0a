"""requirements.lock: it has what setup.py asks for, each file by its hash, and the set-up refuses
any other file."""

import ast
import hashlib
import os
import re
import shutil
import subprocess
import zipfile

import pytest
from conftest import ROOT
from packaging.requirements import Requirement

MACHINES = {
    'with MXNet': {
        'platform_machine': 'x86_64',
        'sys_platform': 'linux',
        'python_version': '3.11',
        'python_full_version': '3.11.7',
    },
    'without MXNet': {
        'platform_machine': 'aarch64',
        'sys_platform': 'linux',
        'python_version': '3.12',
        'python_full_version': '3.12.4',
    },
}


def pins(*extras):
    """(requirement, its hashes) of every pin that common/pins.sh prints."""
    command = [ROOT / 'common' / 'pins.sh', *extras]
    text = subprocess.run(command, capture_output=True, text=True, check=True).stdout
    found = re.findall(r'^(\S.*?) \\\n((?:    --hash=.*\n)+)', text, re.M)
    assert len(found) == len(re.findall(r'^\w', text, re.M))
    return [(Requirement(pin), hashes) for pin, hashes in found]


def versions(machine, *extras):
    """Canonical name -> the version that a machine gets."""
    found = {}
    for pin, _ in pins(*extras):
        if pin.marker is None or pin.marker.evaluate(MACHINES[machine]):
            (only,) = pin.specifier
            assert only.operator == '=='
            name = re.sub('[-_.]+', '-', pin.name).lower()
            assert found.setdefault(name, only.version) == only.version, name
    return found


def asked_for(extra):
    """The requirements of setup.py, from the call itself."""
    tree = ast.parse((ROOT / 'setup.py').read_text())
    (call,) = (
        node
        for node in ast.walk(tree)
        if getattr(node, 'func', None) and getattr(node.func, 'id', '') == 'setup'
    )
    values = {keyword.arg: keyword.value for keyword in call.keywords}
    before = ast.Module(tree.body[1:-1], [])
    names = {}
    exec(compile(before, 'setup.py', 'exec'), names)
    wanted = ast.Expression(values['extras_require'] if extra else values['install_requires'])
    result = eval(compile(wanted, 'setup.py', 'eval'), names)
    return [Requirement(text) for text in (result[extra] if extra else result)]


@pytest.mark.parametrize('machine', MACHINES)
@pytest.mark.parametrize('extra', ['', 'deploy', 'dev', 'dist', 'gpu'])
def test_the_lock_has_what_setup_asks_for(machine, extra):
    locked = versions(machine, *filter(None, [extra]))
    for wanted in asked_for(extra):
        if wanted.marker is None or wanted.marker.evaluate(MACHINES[machine]):
            assert wanted.specifier.contains(locked[wanted.name.lower()]), wanted


def test_every_pin_has_hashes_and_no_extra_is_unknown():
    everything = pins('deploy', 'dev')
    assert len(everything) > 120
    for pin, hashes in everything:
        assert re.fullmatch(r'(    --hash=sha256:[0-9a-f]{64}(?: \\)?\n)+', hashes), pin
    assert len(pins()) < len(pins('deploy')) < len(everything)
    unknown = subprocess.run(
        [ROOT / 'common' / 'pins.sh', 'nosuch'], capture_output=True, text=True
    )
    assert unknown.returncode == 2 and 'nosuch' in unknown.stderr


def test_old_versions_are_for_mxnet_alone():
    """What MXNet and mxboard hold back is current on a machine without them."""
    with_mxnet, without = (versions(machine, 'deploy') for machine in MACHINES)
    for name in ('mxnet', 'mxboard', 'gluoncv', 'setuptools', 'easydict'):
        assert name in with_mxnet
        assert name not in without or name == 'setuptools'  # which builds the project itself
    major = {name: int(version.split('.')[0]) for name, version in without.items()}
    assert major['numpy'] >= 2 and major['protobuf'] >= 5
    assert Requirement('onnx>=1.18').specifier.contains(without['onnx'])
    assert Requirement('opencv-python>=4.12').specifier.contains(without['opencv-python'])


@pytest.mark.slow
@pytest.mark.parametrize('whole', [True, False])
def test_the_set_up_refuses_a_changed_file(whole, tmp_path):
    """The index's file is not the one that was locked: nothing is installed, exit code 2."""
    shelf, root = tmp_path / 'shelf', tmp_path / 'root'
    shelf.mkdir()
    shutil.copytree(ROOT / 'common', root / 'common', ignore=shutil.ignore_patterns('*.py', '*.so'))
    wheel = shelf / 'thing-1.0-py3-none-any.whl'
    with zipfile.ZipFile(wheel, 'w') as archive:
        archive.writestr('thing.py', 'here = True\n')
        about = 'Metadata-Version: 2.1\nName: thing\nVersion: 1.0\n'
        archive.writestr('thing-1.0.dist-info/METADATA', about)
        archive.writestr(
            'thing-1.0.dist-info/WHEEL',
            'Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n',
        )
        archive.writestr('thing-1.0.dist-info/RECORD', '')
    locked = hashlib.sha256(wheel.read_bytes()).hexdigest()
    (root / 'requirements.lock').write_text(
        f'# for: base\nthing==1.0 \\\n    --hash=sha256:{locked}\n'
    )
    if not whole:
        wheel.write_bytes(wheel.read_bytes() + b'\0')
    venv = tmp_path / 'venv'
    done = subprocess.run(
        ['bash', '-c', f'source {root}/common/setup_env.sh'],
        env={
            **os.environ,
            'VARGFACENET_VENV': str(venv),
            'VARGFACENET_EXTRAS': '',
            'PIP_NO_INDEX': '1',
            'PIP_FIND_LINKS': str(shelf),
        },
        capture_output=True,
        text=True,
    )
    assert done.returncode == 2  # there is no project to install after the packages
    assert bool(list(venv.glob('lib/*/site-packages/thing.py'))) == whole
    assert ('DO NOT MATCH THE HASHES' in done.stderr) == (not whole)
