"""What cannot come to an end is refused before work starts: exit code 2, one line, nothing left.

The model of every command line is one that is not there: a line that names the output, and not the
model, was said before a model was opened.
"""

import json
import os
import re
from pathlib import Path

import numpy as np
import pytest
from pictures import encoded, scene

# commands that write a file, OUT, which must end so
OUTPUTS = {
    'compare': ('compare a.png a.png --model absent,1 --log OUT', ''),
    'gallery show': ('gallery show Ada --gallery absent --export OUT', '.zip'),
    'serve': ('serve --model absent,1 --port 0 --token-file OUT', ''),
    'embed': ('embed photos --model absent,1 --out OUT', '.npz'),
    'report': ('report absent --out OUT', '.html'),
    'lfr': ('lfr --model absent,1 --list absent --root . --out OUT', '.bin'),
    'verify --save': ('verify --model absent,1 --target absent --save OUT', '.npz'),
    'verify --plot': ('verify --model absent,1 --target absent --plot OUT', '.png'),
    'identify --save': ('identify --probes absent --save OUT', '.npz'),
    'identify --resume': ('identify --probes absent --resume OUT', '.npz'),
    'ijb': ('ijb --meta absent --model absent,1 --images photos --features OUT', '.bin'),
    'make-bin': ('make-bin photos OUT --pairs 10 --overwrite', '.bin'),
    'make-pairs': ('make-pairs photos OUT --overwrite', '.npz'),
    'quality': ('quality photos --model absent,1 --out OUT', '.npz'),
    'convert': ('convert absent,1 --to OUT --overwrite', '.pth'),
    'bench photo': ('bench photo --model absent,1 --photo absent --out OUT', '.json'),
    'bench engines': ('bench engines --model absent,1 --out OUT', '.json'),
    'bench networks': ('bench networks --network vargfacenet --out OUT', '.json'),
}


@pytest.fixture
def place(tmp_path, monkeypatch):
    """The working folder of the commands below, with two photographs of two people."""
    monkeypatch.chdir(tmp_path)
    for name in ('a', 'b'):
        (tmp_path / 'photos' / name).mkdir(parents=True)
        for number in (0, 1):
            path = tmp_path / 'photos' / name / f'{number}.png'
            path.write_bytes(encoded(scene(number), '.png'))
    (tmp_path / 'a').mkdir()  # pictures of nobody in particular
    (tmp_path / 'a' / '1.png').write_bytes(path.read_bytes())
    (tmp_path / 'a.png').write_bytes(path.read_bytes())
    (tmp_path / 'file').write_text('x')
    (tmp_path / 'empty').touch()
    return tmp_path


def everything(folder):
    return {path: path.is_file() and path.read_bytes() for path in folder.rglob('*')}


def refused(run_command, line):
    """The one line of a command that must fail with exit code 2 and leave all as it was."""
    before = everything(Path('.'))
    code, _, errors = run_command(*line)
    assert code == 2, errors
    assert everything(Path('.')) == before
    assert len(errors.splitlines()) == 1
    return errors


@pytest.mark.parametrize('kind', ['a folder', 'below a file', 'no ordinary file', 'new'])
@pytest.mark.parametrize('command', OUTPUTS)
def test_where_no_file_can_be_written(command, kind, place, run_command):
    line, suffix = OUTPUTS[command]
    out = {
        'a folder': f'folder{suffix}',
        'below a file': f'file/x{suffix}',
        'no ordinary file': f'pipe{suffix}',
        'new': f'new/folder/x{suffix}',
    }[kind]
    if kind == 'a folder':
        (place / out).mkdir()
    if kind == 'no ordinary file':
        if command == 'serve':
            pytest.skip('a token may come from a pipe')
        os.mkfifo(place / out)
    if kind == 'new' and command in ('make-bin', 'make-pairs', 'bench networks'):
        pytest.skip('has all that it needs')
    errors = refused(run_command, [word.replace('OUT', out) for word in line.split()])
    said = {
        'a folder': f'{out} is a folder; name a file to write',
        'below a file': 'file: cannot write here (is a file); choose another folder',
        'no ordinary file': f'{out} is no ordinary file',
        'new': '',  # of what is not there; the folder that was made for the result goes again
    }[kind]
    assert said in errors
    assert kind == 'new' or not re.search(r'\babsent\b', errors)


# the last word is a file that the command reads
READ = [
    'lfr --list list --root . --model run/model,1 --out run/model-0001.params',
    'lfr --list list --root . --model run/model,1 --out run/../run/model-symbol.json',
    'lfr --list list --root . --model run/model,1 --out run/model-0001.json',
    'lfr --list list --root . --model out --out out/model.onnx',
    'lfr --list list --root . --model out/model.onnx --out out/model.onnx',
    'lfr --list list --root . --model absent,1 --track video --quality run/model,1 '
    '--out run/model-0001.params',
    'ijb --meta absent --images photos --model run/model,1 --features run/model-0001.params',
    'verify --model absent,1 --pairs pairs.npz --save pairs.npz',
    'bench photo --model run/model,1 --out run/model-symbol.json',
    'bench engines --model run/model,1 --out run/model-symbol.json',
]


@pytest.mark.parametrize('line', READ)
def test_what_is_read_is_not_replaced(line, place, run_command):
    """Files that would be refused if they were opened: the line comes before that."""
    for name in ('run/model-symbol.json', 'run/model-0001.params', 'run/model-0001.json'):
        (place / name).parent.mkdir(exist_ok=True)
        (place / name).write_bytes(b'precious')
    (place / 'list').write_text('photos/a/0.png 1\n')
    (place / 'pairs.npz').write_bytes(b'precious')
    (place / 'out').mkdir()
    (place / 'out' / 'model.onnx').write_bytes(b'precious')
    record = {
        'files': {'model.onnx': {'sha256': 'a' * 64}},
        'source_sha256': {'m-0001.params': 'a' * 64},
        'verification': [],
    }
    (place / 'out' / 'export.json').write_text(json.dumps(record))
    assert f'{line.split()[-1]} is what is read' in refused(run_command, line.split())


IGNORED = {
    'identify --probes absent --sizes 10 100': '--sizes: only with --protocol megaface',
    'identify --probes absent --fpir 0.1': '--fpir: only with --protocol open-set',
    'identify --probes absent --gallery absent': '--gallery: only with --protocol open-set',
    'identify --probes absent --ranks 3': '--ranks: only with --protocol megaface or open-set',
    'identify --probes absent --gallery absent --protocol open-set --resume s.npz': (
        '--resume: only with --protocol lfr or megaface'
    ),
    'identify --probes absent --root photos --batch-size 3': '--root, --batch-size: only with',
    'identify --probes absent --distractors-labels absent': 'did you mean --distractor-labels',
    'identify --probes absent --distractor-labels absent': (
        '--distractor-labels: only with --distractors'
    ),
    'identify --probes absent --model absent,1 --probe-labels absent': (
        '--probe-labels: a list has its own'
    ),
    'identify --probes absent --fpr 2': '--fpr 2: expected a share',
    'identify --probes absent --fpr nan': '--fpr nan: expected a share',
    'ijb --meta absent --features absent --images photos': '--images: only with --model',
    'compare a.png a.png --model absent,1 --threshold 0.5 --far 0.1': 'leave out --far and --pairs',
    'compare a.png a.png --model absent,1 --threshold 0.5 --pairs empty': 'leave out --far and',
    'compare a.png a.png --model absent,1 --threshold 2': 'a cosine is -1..1',
    'compare a.png a.png --model absent,1 --far 0': 'expected a share between 0 and 1',
    'compare a.png a.png --model absent,1 --pairs absent': 'pair set absent does not exist',
    'verify --model absent,1 --pairs absent.npz --folds 5': '--folds: only with --target',
    'verify --model absent,1 --target absent --folds 1': '--folds 1: must be 2..1000',
    'export --model absent,1 --out new --calibrate-images 9': 'only with --calibrate',
    'export --model absent,1 --out new --compact --input-type uint8': '--compact writes no ONNX',
    'clean a --model absent,1 --out new --same-person 0.5': 'only for sets that tell who is in',
    'clean photos photos --model absent,1 --out new --margin 0.2': '--margin is for one set',
}


@pytest.mark.parametrize('line', IGNORED)
def test_an_option_that_nothing_would_come_of(line, place, run_command):
    assert IGNORED[line] in refused(run_command, line.split())


WRONG = {
    'clean photos --model absent,1 --out photos': 'lies in photos',
    'clean photos --model absent,1 --out photos/cleaning': 'lies in photos',
    'convert absent,1 --to x.onnx': '--to x.onnx: expected a name that ends in .pth',
    'gallery enrol Ada a.png --gallery new --model absent,1 --codec nope': (
        "unknown gallery codec 'nope'"
    ),
    'gallery enrol Ada a.png --gallery new --model absent,1 --key-file absent': (
        'key file absent does not exist'
    ),
    'gallery enrol Ada a.png --gallery photos --model absent,1': (
        'photos holds other files (a) and no gallery'
    ),
    'gallery enrol Ada absent.png --gallery new --model absent,1': 'photograph absent.png',
    'serve --gallery photos --port 0 --model absent,1': 'photos holds other files (a) and no',
    'serve --gallery new --port 0 --model absent,1 --codec nope': "unknown gallery codec 'nope'",
    'serve --gallery new --port 0 --model absent,1 --proxy nonsense': "--proxy 'nonsense'",
    'serve --gallery new --port 0 --model absent,1 --allow-host a.b:80': 'without a port',
    'bench photo --photo empty --model absent,1': 'empty: 0 bytes are no picture',
}


@pytest.mark.parametrize('line', WRONG)
def test_what_is_wrong_is_said_before_a_model_is_opened(line, place, run_command):
    errors = refused(run_command, line.split())
    assert WRONG[line] in errors and 'absent,1' not in errors.replace(line, '')


def test_names_of_hosts_and_addresses_of_proxies(place, run_command):
    from vargfacenet.deploy.web_access import check_host_name, proxy_address

    for name in (
        'faces.example.org',
        'A-b_1',
        'localhost',
        '10.0.0.1',
        '[::1]',
        'xn--bcher-kva.de',
    ):
        check_host_name(name)
    for name in ('a b', '', 'a/b', 'bücher.de', 'a:80', '-a'):
        with pytest.raises(ValueError, match='--allow-host'):
            check_host_name(name)
    assert proxy_address('[::1]') == proxy_address('0:0::1') == '::1'


def test_an_empty_pair_set_is_called_so(place):
    from vargfacenet.common.data.pair_sets import read_pairs
    from vargfacenet.common.errors import InputError

    with pytest.raises(InputError, match='empty: the file is empty'):
        read_pairs('empty')


def test_nothing_is_written_where_no_picture_has_a_face(place, run_command, export):
    blank = encoded(np.full((80, 90, 3), 50, np.uint8), '.png')
    (place / 'photos' / 'a' / '1.png').unlink()
    for path in (place / 'photos').rglob('*.png'):
        path.write_bytes(blank)
    for words in ((), ('--video', '--skip-broken')):
        before = everything(place)
        line = ['embed', 'photos', '--model', export, '--out', 'new/f.npz', *words]
        code, _, errors = run_command(*line)
        assert code == 2 and everything(place) == before
        kind = 'videos' if words else 'pictures'
        assert f'{kind} has a face that can be embedded, so new/f.npz is not' in errors


@pytest.fixture(scope='module')
def export(tmp_path_factory):
    from deploy_models import export_folder

    return export_folder(tmp_path_factory.mktemp('export'))
