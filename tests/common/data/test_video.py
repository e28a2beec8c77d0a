"""Sampling of videos, by loops from its definition, from files that FFmpeg wrote without loss."""

import io

import cv2
import numpy as np
import pytest
from pictures import write_video
from vargfacenet.common.child import read_frame
from vargfacenet.common.data import video as video_module
from vargfacenet.common.data.video import FrameReader, Sampling, Video, find_videos, sampled, spread
from vargfacenet.common.data.video_decoder import messages
from vargfacenet.common.errors import InputError

FRAMES = 23


def numbered(count):
    """Frames whose grey value tells their number, (count, 48, 64, 3) uint8."""
    return np.stack([np.full((48, 64, 3), 10 * number, np.uint8) for number in range(count)])


@pytest.fixture(scope='module')
def file(tmp_path_factory):
    return write_video(tmp_path_factory.mktemp('video') / 'a.avi', numbered(FRAMES), fps=10)


def numbers(file, sampling):
    """Numbers of the frames that the decoding process would send, decoded in this one."""
    sent = [
        read_frame(io.BytesIO(b''.join(parts)))
        for parts in messages(str(file), sampling, lambda seconds: None)
    ]
    about, nothing = sent.pop()
    assert about['total'] == about['promised'] == FRAMES and nothing == []
    for about, (pixels,) in sent:
        picture = np.frombuffer(pixels, np.uint8).reshape(48, 64, 3)
        assert about['shape'] == [48, 64, 3] and np.all(picture == 10 * about['number'])
    return [about['number'] for about, _ in sent]


@pytest.mark.parametrize('every', [1, 2, 5, 23, 24])
def test_every(file, every):
    assert numbers(file, Sampling(every)) == list(range(0, FRAMES, every))


@pytest.mark.parametrize('fps', [0.5, 1, 3, 4, 7.5, 10, 30])
def test_frames_a_second(file, fps):
    """The first frame at or after each tick of the clock, of 10 frames a second."""
    ticks = np.arange(0, FRAMES / 10, 1 / fps)
    times = np.arange(FRAMES) / 10
    expected = sorted({int(np.argmax(times >= tick - 1e-9)) for tick in ticks if tick <= times[-1]})
    assert numbers(file, Sampling(fps=fps)) == expected


@pytest.mark.parametrize('sampling', [Sampling(), Sampling(3), Sampling(fps=5)])
@pytest.mark.parametrize('most', [1, 2, 4, 7, 100])
def test_at_most(file, sampling, most):
    all_of_them = numbers(file, sampling)
    some = numbers(file, sampling._replace(most=most))
    assert len(some) == min(most, len(all_of_them)) and set(some) <= set(all_of_them)
    if most == 1:
        assert some == [all_of_them[len(all_of_them) // 2]]


def test_frames_come_from_another_process(file):
    reader = FrameReader(Video(file), Sampling(2, most=4))
    frames = list(reader)
    assert [frame.number for frame in frames] == numbers(file, Sampling(2, most=4))
    for frame in frames:
        assert frame.photo.shape == (48, 64, 3) and frame.photo.dtype == np.uint8
        assert np.all(frame.photo == 10 * frame.number)
        assert frame.name == f'{file}, frame {frame.number}'
    assert (reader.total, reader.promised) == (FRAMES, FRAMES)


@pytest.mark.parametrize(
    ('program', 'message'),
    [
        ('import ctypes; ctypes.string_at(0)', 'ended by SIGSEGV'),
        ('import time; decoder._open = lambda path: time.sleep(60)', 'ended by SIGALRM'),
        ('decoder.MEMORY = 1 << 20', '(takes too much memory|no video that can be read)'),
    ],
)
def test_what_a_hostile_file_breaks_is_one_line(file, program, message, tmp_path, monkeypatch):
    """The decoding process crashes, hangs, or asks for more memory than it may have."""
    (tmp_path / 'breaks.py').write_text(
        f'from vargfacenet.common.data import video_decoder as decoder\n'
        f'decoder.FRAME_SECONDS = 1\n{program}\ndecoder.main()\n'
    )
    monkeypatch.setenv('PYTHONPATH', str(tmp_path))
    monkeypatch.setattr(video_module, '_DECODER', 'breaks')
    with pytest.raises(InputError, match=f'a.avi: .*{message}'):
        list(FrameReader(Video(file), Sampling()))


def test_pictures_that_are_too_large_are_refused(tmp_path):
    """A header that says 8000x8000 pixels, in front of six of 64x48."""
    content = bytearray(write_video(tmp_path / 'a.avi', numbered(3), kind='FFV1').read_bytes())
    start = content.index(b'strf') + 12  # behind name, length and length: width and height
    assert content[start : start + 8] == b'\x40\0\0\0\x30\0\0\0'
    content[start : start + 8] = b'\x40\x1f\0\0\x40\x1f\0\0'
    (tmp_path / 'a.avi').write_bytes(content)
    with pytest.raises(InputError, match=r'a.avi: .*8000x8000 pixels.* at most 40000000'):
        list(FrameReader(Video(tmp_path / 'a.avi'), Sampling()))


@pytest.mark.parametrize('count', range(1, 40))
def test_spread_is_even(count):
    for most in range(1, count + 1):
        places = np.array(spread(count, most))
        assert len(set(places)) == most and places.min() >= 0 and places.max() < count
        gaps = np.diff(places)
        assert not len(gaps) or gaps.max() - gaps.min() <= 1
        assert abs(places.min() - (count - 1 - places.max())) <= 1


def test_a_step_of_whole_frames_is_every():
    assert all(sampled(number, 4.0) == (number % 4 == 0) for number in range(1000))


def test_folders_and_files_are_found(tmp_path, file):
    for name in ('v/10.png', 'v/9.png', 'v/x/1.png', 'w/.1.png'):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_bytes(cv2.imencode('.png', np.zeros((4, 4, 3)))[1].tobytes())
    (tmp_path / 'w' / 'b.AVI').write_bytes(file.read_bytes())
    videos = find_videos(tmp_path)
    assert [str(video.path.relative_to(tmp_path)) for video in videos] == ['v', 'v/x', 'w/b.AVI']
    assert [path.name for path in videos[0].frames] == ['9.png', '10.png']
    assert videos[2].frames == ()
    listed = tmp_path / 'list.txt'
    listed.write_text('w/b.AVI\n\nv\n')
    assert find_videos(listed) == [videos[2], videos[0]]
    assert find_videos(tmp_path / 'w' / 'b.AVI') == [videos[2]]
    reader = FrameReader(videos[0], Sampling(most=1))
    assert [(frame.number, frame.photo.name) for frame in reader] == [(1, '10.png')]
    assert reader.total == 2


def test_wrong_sources(tmp_path, file):
    (tmp_path / 'empty').mkdir()
    (tmp_path / 'bad.mp4').write_bytes(b'nothing' * 99)
    (tmp_path / 'list.txt').write_text('missing.mp4\n')
    (tmp_path / 'other.txt').write_text('empty\n')
    for source, message in (
        ('empty', 'no video files'),
        ('list.txt', 'missing.mp4'),
        ('other.txt', 'no frame'),
        ('gone.mp4', 'gone.mp4'),
    ):
        with pytest.raises(InputError, match=message):
            find_videos(tmp_path / source)
    with pytest.raises(InputError, match=r'bad.mp4: no video'):
        list(FrameReader(Video(tmp_path / 'bad.mp4'), Sampling()))
    with pytest.raises(InputError, match='tells no time'):
        list(FrameReader(Video(tmp_path, (file,)), Sampling(fps=2)))


def test_a_file_that_is_cut_off_says_so(tmp_path, rng):
    noise = rng.randint(0, 256, (FRAMES, 48, 64, 3), np.uint8)
    file = write_video(tmp_path / 'whole.avi', noise)
    content = file.read_bytes()
    (tmp_path / 'cut.avi').write_bytes(content[: len(content) // 2])
    reader = FrameReader(Video(tmp_path / 'cut.avi'), Sampling())
    read = [frame.number for frame in reader]
    assert read == list(range(len(read))) and 2 < len(read) < FRAMES
    assert reader.cut_off and reader.promised == FRAMES
    whole = FrameReader(Video(file), Sampling())
    assert len(list(whole)) == FRAMES and not whole.cut_off
