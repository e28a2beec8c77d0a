"""The process that looks at pictures for the web service, one job after another.

`picture_pool` starts it and speaks to it over stdin and stdout in frames: four bytes with the
length of a JSON object, the object, and the pictures whose sizes it tells. What a hostile picture
breaks, it breaks here: memory is limited, and the answer is JSON, which carries no code.
"""

import argparse
import base64
import contextlib
import json
import logging
import os
import re
import resource
import signal
import struct
import sys
from pathlib import Path
from typing import BinaryIO, Optional

import cv2
import numpy as np

from ..common import console
from ..common.data.image import decode_rgb, encode_jpeg
from ..common.errors import InputError, RunError
from ..common.limits import WEB_PIXELS
from ..common.names import IMAGE_SIZE
from ..common.plugins import load_plugins
from .decide import embedder_from
from .embedder import FaceEmbedder
from .faces import LARGEST, Face, NoFace, find_group
from .quality import Quality

LENGTH = struct.Struct('>I')
MEMORY = 1 << 30  # bytes for a job, beside what the model has
NO_PICTURE, NO_FACE, TOO_LARGE = 'no picture', 'no face', 'too large'


def frame(content: dict, pictures: tuple[bytes, ...] = ()) -> list[bytes]:
    """The parts of a message."""
    header = json.dumps({**content, 'sizes': [len(picture) for picture in pictures]}).encode()
    return [LENGTH.pack(len(header)), header, *pictures]


def read_frame(stream: BinaryIO) -> Optional[tuple[dict, list[bytes]]]:
    """(object, pictures); None at the end."""
    start = stream.read(LENGTH.size)
    if len(start) < LENGTH.size:
        return None
    header = json.loads(stream.read(*LENGTH.unpack(start)))
    return header, [stream.read(size) for size in header['sizes']]


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
        'count': face.count,
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
        told['count'],
        Quality(told['score'], tuple(told['reasons']), told['measures']),
        told['turned'],
        told['detected'],
        told['index'],
    )


def limit_memory(extra: int) -> None:
    """Let this process have `extra` more bytes than it has now, and leave no core with faces.

    Linux counts what is allocated (RLIMIT_DATA); elsewhere there is no such limit.
    """
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    status = Path('/proc/self/status')
    if status.is_file():
        used = int(re.search(r'VmData:\s+(\d+) kB', status.read_text())[1]) << 10
        _, hard = resource.getrlimit(resource.RLIMIT_DATA)
        resource.setrlimit(resource.RLIMIT_DATA, (used + extra, hard))


def serve(source: BinaryIO, sink: BinaryIO) -> None:
    """Open the model of the first frame, say so, and answer those that follow."""

    def send(content: dict) -> None:
        sink.write(b''.join(frame(content)))
        sink.flush()

    options, _ = read_frame(source)
    faces = options['faces']
    try:
        load_plugins()
        embedder = embedder_from(argparse.Namespace(**options), many=True)
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
        for picture in pictures:
            which = slice(content['first'], content['last'])
            results.append(look(embedder, picture, faces, which))
            if 'error' in results[-1]:
                break
        send({'results': results})


def main() -> None:
    signal.signal(signal.SIGINT, signal.SIG_IGN)  # Ctrl-C is for the one that started this
    console.set_up_logging(logging.WARNING)
    with os.fdopen(os.dup(1), 'wb') as sink, contextlib.suppress(BrokenPipeError):
        os.dup2(2, 1)  # what libraries print belongs to no answer
        serve(sys.stdin.buffer, sink)


if __name__ == '__main__':
    main()
