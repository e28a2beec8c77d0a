"""--detector of every command that detects and embeds."""

import numpy as np
import pytest
from deploy_models import export_folder
from pictures import encoded
from vargfacenet.deploy import FaceEmbedder, serve
from vargfacenet.deploy.faces import find_face


def test_every_command_that_embeds_takes_a_detector(tmp_path, run_command):
    pytest.importorskip('onnx')
    from made_yunet import made_yunet

    detector = tmp_path / 'made.onnx'
    detector.write_bytes(made_yunet())
    export = export_folder(tmp_path)
    photos = tmp_path / 'photos'
    photos.mkdir()
    picture = np.zeros((300, 400, 3), np.uint8)
    picture[160:176, 160:176] = 255
    photo = photos / 'a.png'
    photo.write_bytes(encoded(picture, '.png'))
    choice = ('--model', export, '--detector', detector)
    gallery = ('--gallery', tmp_path / 'gallery')
    commands = (
        ('embed', photos, '--out', tmp_path / 'x.npz', *choice),
        ('compare', photo, photo, *choice),
        ('gallery', 'enrol', 'ada', photo, *gallery, '--force', *choice),
        ('gallery', 'identify', photo, *gallery, *choice),
    )
    results = []
    for words in commands:
        code, result, errors = run_command(*words)
        assert code == 0, errors
        results.append(result)
        code, _, errors = run_command(*words, '--min-face', 9)
        assert code == 2 and 'YuNet finds faces from 10 pixels on' in errors
    embedded, compared, _, identified = results
    assert embedded['faces'] == 1 and compared['cosine'] == pytest.approx(1, abs=1e-6)
    assert identified['matches'][0]['name'] == 'ada'
    # MTCNN sees nothing there
    code, _, errors = run_command('compare', photo, photo, '--model', export)
    assert code == 2 and 'no face found' in errors
    chosen = serve.main.parser().parse_args(list(map(str, (*gallery, *choice))))
    assert chosen.detector == str(detector)
    embedder = FaceEmbedder(export, detector=str(detector))
    assert find_face(embedder, picture).large_faces == 1
    np.testing.assert_allclose(
        embedder.embed_photos([photo])[0].embeddings[0], find_face(embedder, picture).face.embedding
    )
