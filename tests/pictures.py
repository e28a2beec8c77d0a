"""Made-up pictures and folders of them, encoded with OpenCV directly."""

import functools
import shutil

import cv2
import numpy as np
from vargfacenet.common.synth.face import person, render
from vargfacenet.common.synth.traits import Variation


def picture(rng, height=112, width=112):
    """uint8 (H, W, 3) RGB: coarse random colours blown up, so that a JPEG of it stays small."""
    coarse = rng.randint(0, 256, (8, 8, 3)).astype(np.uint8)
    return cv2.resize(coarse, (width, height), interpolation=cv2.INTER_LINEAR)


def encoded(rgb, suffix='.jpg'):
    return cv2.imencode(suffix, rgb[..., ::-1] if rgb.ndim == 3 else rgb)[1].tobytes()


def decoded(content):
    """RGB pixels by OpenCV and nothing of ours."""
    return cv2.imdecode(np.frombuffer(content, np.uint8), cv2.IMREAD_COLOR)[..., ::-1]


def jpeg(rng):
    return encoded(picture(rng))


def write_folder(folder, rng, counts):
    """folder/NAME/NAME_0001.jpg ... for every NAME: number of pictures; returns folder."""
    for name, count in counts.items():
        (folder / name).mkdir(parents=True)
        for number in range(1, count + 1):
            (folder / name / f'{name}_{number:04d}.jpg').write_bytes(jpeg(rng))
    return folder


def with_border(face):
    """A face continued on all sides, by less than would show a second one in the mirror."""
    border = 3 * len(face) // 8
    return cv2.copyMakeBorder(face, *[border] * 4, cv2.BORDER_REFLECT_101), border


@functools.cache
def _drawn(identity, size):
    return render(person(0, identity), Variation(), size)  # once a process


def scene(*people, size=160):
    """A photograph: synthetic faces side by side."""
    return np.hstack([with_border(_drawn(identity, size))[0] for identity in people])


def blank():
    return np.full((120, 160, 3), 128, np.uint8)


def corrupted(source, folder, keys):
    """A copy of a folder with train.rec whose records `keys` are no pictures any more."""
    shutil.copytree(source, folder)
    index = dict(
        tuple(map(int, line.split())) for line in (folder / 'train.idx').read_text().splitlines()
    )
    content = bytearray((folder / 'train.rec').read_bytes())
    for key in keys:
        start = index[key] + 8 + 24  # behind the heads of record and image
        content[start : start + 200] = bytes(200)
    (folder / 'train.rec').write_bytes(content)
    return folder


def write_video(path, frames, fps=10, kind='MPNG'):
    """A video file of uint8 (F, H, W, 3) RGB frames, by default each a PNG: nothing is lost."""
    height, width = frames.shape[1:3]
    code = cv2.VideoWriter_fourcc(*kind)
    writer = cv2.VideoWriter(str(path), cv2.CAP_FFMPEG, code, fps, (width, height))
    assert writer.isOpened()
    for frame in frames:
        writer.write(np.ascontiguousarray(frame[:, :, ::-1]))
    writer.release()
    return path
