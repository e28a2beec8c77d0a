"""Sampling of videos, by loops from its definition, from files that FFmpeg wrote without loss."""

import io

import cv2
import numpy as np
import pytest
from pictures import picture, write_video
from vargfacenet.common.child import read_frame
from vargfacenet.common.data import video as video_module
from vargfacenet.common.data.video import FrameReader, Sampling, Video, find_videos, sampled, spread
from vargfacenet.common.data.video_decoder import messages
from vargfacenet.common.data.video_form import check_form, code_of, headers_of
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
        (
            'import time; decoder.FRAME_SECONDS = 1; decoder._open = lambda path: time.sleep(60)',
            'ended by SIGALRM',
        ),
        ('decoder.MEMORY = 1 << 20', '(takes too much memory|no video that can be read)'),
    ],
)
def test_what_a_hostile_file_breaks_is_one_line(file, program, message, tmp_path, monkeypatch):
    """The decoding process crashes, hangs, or asks for more memory than it may have."""
    (tmp_path / 'breaks.py').write_text(
        f'from vargfacenet.common.data import video_decoder as decoder\n{program}\ndecoder.main()\n'
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


def grown(frames):
    """The same, twice as large."""
    return frames.repeat(2, axis=1).repeat(2, axis=2)


@pytest.mark.parametrize('kind', ['mpg2', 'mp4v'])
@pytest.mark.parametrize('grows', [True, False])
def test_a_size_that_changes_in_the_middle_is_refused(kind, grows, tmp_path):
    """OpenCV gives the last picture of the old size again, or mixes the two."""
    small, large = (
        write_video(tmp_path / f'{name}.ts', frames, kind=kind).read_bytes()
        for name, frames in (('small', numbered(3)), ('large', grown(numbered(3))))
    )
    path = tmp_path / 'a.ts'
    path.write_bytes(small + large if grows else large + small)
    with pytest.raises(InputError, match=r'a.ts: .*changes at picture 3'):
        list(FrameReader(Video(path), Sampling()))
    path.write_bytes(small + small)
    assert len(list(FrameReader(Video(path), Sampling()))) >= 5


@pytest.mark.parametrize(
    ('suffix', 'kind'),
    [('mkv', 'MJPG'), ('avi', 'PNG '), ('webm', 'VP80'), ('webm', 'VP90'), ('avi', 'XVID')],
)
def test_a_packet_tells_the_size_of_its_pictures(suffix, kind, tmp_path):
    def headers(frames):
        path = str(write_video(tmp_path / f'a.{suffix}', frames, kind=kind))
        codec = code_of(cv2.VideoCapture(path, cv2.CAP_FFMPEG))
        packets = cv2.VideoCapture(path, cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
        assert packets.grab()
        return headers_of(codec, packets.retrieve()[1].tobytes())

    assert headers(numbered(2)) == headers(numbered(5)[2:]) != []
    assert headers(numbered(2)) != headers(grown(numbered(2)))


def test_two_fields_of_one_size_are_one_header(rng):
    """Interlaced MJPEG; the second of large fields lies behind what is looked at of a packet."""
    smooth = cv2.imencode('.jpg', np.zeros((240, 640, 3), np.uint8))[1].tobytes()
    noise = rng.randint(0, 256, (240, 640, 3)).astype(np.uint8)
    rough = cv2.imencode('.jpg', noise)[1].tobytes()
    other = cv2.imencode('.jpg', np.zeros((240, 320, 3), np.uint8))[1].tobytes()
    assert 2 * len(smooth) < 1 << 16 < len(rough)
    (header,) = headers_of('mjpg', smooth)
    assert headers_of('mjpg', smooth + smooth) == headers_of('mjpg', rough + rough) == [header]
    assert headers_of('mjpg', smooth + other) == [header, *headers_of('mjpg', other)]


def test_parameter_sets_of_codecs_that_cannot_be_written_here():
    """H.264, H.265 and AV1, whose packets are laid out by their standards' byte streams."""
    first, other = b'\x64\x00\x0a\xac\x72', b'\x64\x00\x0a\xac\x73'
    unit = b'\0\0\0\1\x09\xf0\0\0\0\1\x67%b\0\0\0\1\x68\xee\0\0\1\x65\x88'
    assert headers_of('h264', unit % first) == [first] != headers_of('h264', unit % other)
    assert headers_of('h264', unit % first + unit % first) == [first]
    assert headers_of('h264', unit % first + unit % other) == [first, other]
    assert headers_of('h264', b'\0\0\0\1\x41\x9a\x24') == []  # of a picture alone
    assert headers_of('hevc', b'\0\0\1\x42\1%b\0\0\1\x44\1' % first) == [b'\1' + first]
    assert headers_of('av01', b'\x12\0\x0a\x0b' + bytes(range(11)) + b'\x32') != []
    assert headers_of('ffv1', unit % first) == []


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
        ('anim.gif', r'anim.gif is a picture by its name, and no video: .*a folder of frames'),
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


def test_a_codec_that_is_not_looked_at_is_told_once(tmp_path, caplog, monkeypatch):
    monkeypatch.setattr(video_module, '_unknown_codecs', set())
    for name in ('a.avi', 'b.avi'):
        file = write_video(tmp_path / name, numbered(3), kind='FFV1')
        assert len(list(FrameReader(Video(file), Sampling()))) == 3
    (message,) = caplog.messages
    assert 'a.avi, and others of codec ffv1: whether' in message
    caplog.clear()
    list(FrameReader(Video(write_video(tmp_path / 'c.avi', numbered(3))), Sampling()))
    assert not caplog.messages


def test_a_packet_that_is_there_and_empty(tmp_path, rng):
    """Found by fuzzing: OpenCV gives None for it, and says that it has one."""
    scene = picture(rng, 48, 64)
    frames = np.stack([np.roll(scene, shift, 1) for shift in range(6)])
    path = write_video(tmp_path / 'a.mp4', frames, kind='mp4v')
    content = bytearray(path.read_bytes())
    fifth = content.index(b'stsz') + 16 + 4 * 4  # of the sizes of samples
    content[fifth : fifth + 4] = bytes(4)
    path.write_bytes(content)
    packets = cv2.VideoCapture(str(path), cv2.CAP_FFMPEG, [cv2.CAP_PROP_FORMAT, -1])
    seen = [packets.retrieve() for _ in range(6) if packets.grab()]
    assert any(there and packet is None for there, packet in seen)
    check_form(str(path), code_of(cv2.VideoCapture(str(path), cv2.CAP_FFMPEG)), lambda: None)
