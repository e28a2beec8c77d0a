"""The process that looks at pictures for the web service, one job after another.

`picture_pool` starts it and speaks to it over stdin and stdout in frames (`common/child`). What a
hostile picture breaks, it breaks here, where memory is limited.
"""

import argparse
import base64
import contextlib
import logging
import os
import sys
from typing import BinaryIO

import cv2
import numpy as np

from ..common import console
from ..common.child import frame, limit_memory, read_frame
from ..common.data.image import decode_rgb, encode_jpeg
from ..common.errors import InputError, RunError
from ..common.limits import WEB_PIXELS
from ..common.names import IMAGE_SIZE
from ..common.plugins import load_plugins
from .decide import embedder_from
from .embedder import FaceEmbedder
from .faces import LARGEST, Face, NoFace, find_group
from .quality import Quality

MEMORY = 1 << 30  # bytes for a job, beside what the model has
NO_PICTURE, NO_FACE, TOO_LARGE = 'no picture', 'no face', 'too large'


def look(embedder: FaceEmbedder, picture: bytes, faces: str, which: slice) -> dict:
    """What a picture file shows, as JSON has it: `error` and `kind`, or where its faces are and
    what those in `which` are like.
    """
    try:
        image = decode_rgb(picture, WEB_PIXELS)
        group = find_group(embedder, image, faces, which)
    except NoFace as error:
        return {'error': str(error), 'kind': NO_FACE}
    except InputError as error:
        return {'error': str(error), 'kind': NO_PICTURE}
    except (MemoryError, RuntimeError, cv2.error) as error:  # of NumPy, of C++
        line = ' '.join(str(error).split())
        return {'error': f'looking at it takes too much ({line})', 'kind': TOO_LARGE}
    height, width = image.shape[:2]
    return {
        'width': width,
        'height': height,
        'boxes': group.boxes.round(1).tolist(),
        'scores': group.scores.round(4).tolist(),
        'faces': [_told(face) for face in group.faces],
    }


def _told(face: Face) -> dict:
    return {
        'embedding': base64.b64encode(face.embedding.tobytes()).decode(),
        'crop': base64.b64encode(face.crop.tobytes()).decode(),
        'score': float(face.quality.score),
        'reasons': list(face.quality.reasons),
        'measures': {name: float(value) for name, value in face.quality.measures.items()},
        'turned': face.turned,
        'detected': face.detected,
        'index': face.index,
    }


def face_from(told: dict) -> Face:
    """A face of the results of `look`."""
    return Face(
        np.frombuffer(base64.b64decode(told['embedding']), np.float32),
        np.frombuffer(base64.b64decode(told['crop']), np.uint8).reshape(IMAGE_SIZE, IMAGE_SIZE, 3),
        Quality(told['score'], tuple(told['reasons']), told['measures']),
        told['turned'],
        told['detected'],
        told['index'],
    )


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Open the model of the first frame, which tells its fingerprint, say so, and answer those that
    follow."""

    def send(content: dict) -> None:
        sink.write(b''.join(frame(content)))
        sink.flush()

    options, _ = read_frame(source)
    faces = options['faces']
    try:
        load_plugins()
        embedder = embedder_from(argparse.Namespace(**options), many=True)
        if embedder.fingerprint != options['fingerprint']:
            raise InputError(
                f'{embedder.model} is another model than when the server was started; start it anew'
            )
        # what is made on first use is made before memory is limited
        blank = encode_jpeg(np.zeros((2 * IMAGE_SIZE, 2 * IMAGE_SIZE, 3), np.uint8))
        look(embedder, blank, faces, LARGEST)
        embedder.raw(np.zeros((1, IMAGE_SIZE, IMAGE_SIZE, 3), np.uint8))
    except (InputError, RunError, OSError) as error:
        return send({'error': str(error)})
    limit_memory(MEMORY)
    send({'ready': True})
    while True:
        job = read_frame(source)
        if job is None:
            return None
        (content, pictures), results = job, []
        for picture, (first, last) in zip(pictures, content['which']):
            results.append(look(embedder, picture, faces, slice(first, last)))
            if 'error' in results[-1]:
                break
        send({'results': results})


def main() -> None:
    console.set_up_logging(logging.WARNING)
    with os.fdopen(os.dup(1), 'wb') as sink, contextlib.suppress(BrokenPipeError):
        os.dup2(2, 1)  # what libraries print belongs to no answer
        serve(sys.stdin.buffer, sink)


if __name__ == '__main__':
    main()
