"""bench photo: every detector and stage is there, and the whole is about the sum of its stages."""

import json

import pytest
from deploy_models import export_folder
from pictures import encoded, scene
from vargfacenet.deploy.bench import photo


def test_every_stage_of_every_detector(tmp_path, capsys):
    pytest.importorskip('onnxruntime')
    out = tmp_path / 'photo.json'
    words = ['--model', str(export_folder(tmp_path)), '--engine', 'onnxruntime', '--seconds', '0.4']
    assert photo.main([*words, '--min-face', '60', '--out', str(out)]) == 0
    result = json.loads(out.read_text())
    assert json.loads(capsys.readouterr().out.splitlines()[-1])['rows'] == result['rows']
    rows = {(row['detector'], row['stage']): row for row in result['rows']}
    assert set(rows) == {
        (name, stage) for name in (photo.PACKAGE, 'MTCNN') for stage in photo.STAGES
    }
    for name in (photo.PACKAGE, 'MTCNN'):
        parts = sum(rows[name, stage]['cpu_ms'] for stage in photo.STAGES[:-1])
        # no upper bound: threads of onnxruntime that wait on a busy machine take CPU time as well
        assert rows[name, 'whole']['cpu_ms'] > 0.4 * parts
        assert all(row['ms_p95'] >= row['ms_median'] > 0 for row in result['rows'])
    assert rows[photo.PACKAGE, 'detect']['times_package']['median'] == 1


def test_all_faces_of_a_photograph(tmp_path, capsys):
    """Two faces are found, aligned and embedded where all are wanted, else the largest."""
    pytest.importorskip('onnxruntime')
    path = tmp_path / 'two.jpg'
    path.write_bytes(encoded(scene(1, 2), '.jpg'))
    words = ['--model', str(export_folder(tmp_path)), '--engine', 'onnxruntime', '--seconds', '0.1']
    for which, count in (('all', 2), ('largest', 1)):
        assert photo.main([*words, '--photo', str(path), '--which', which]) == 0
        result = json.loads(capsys.readouterr().out.splitlines()[-1])
        assert {row['faces'] for row in result['rows'] if row['detector'] == 'MTCNN'} == {count}
        assert all(row['faces'] >= count for row in result['rows'])


def test_a_photograph_without_a_face_is_one_line(tmp_path, capsys):
    import cv2
    import numpy as np

    path = tmp_path / 'grey.png'
    path.write_bytes(cv2.imencode('.png', np.full((90, 90, 3), 128, np.uint8))[1].tobytes())
    words = ['--model', str(export_folder(tmp_path)), '--photo', str(path)]
    assert photo.main(words) == 2
    assert 'no face found' in capsys.readouterr().err
