"""What is found in folders that others have filled."""

import json
import os
import socket
from pathlib import Path

import pytest
from pictures import jpeg
from vargfacenet.__main__ import main
from vargfacenet.common.data import folders
from vargfacenet.common.data.folders import find_identities, find_pictures
from vargfacenet.common.data.image import read_picture
from vargfacenet.common.data.recordio import RecordFile, write_face_records
from vargfacenet.common.data.video import find_videos
from vargfacenet.common.errors import InputError


@pytest.fixture
def folder(tmp_path, rng):
    """Ada with a picture and what is none: a pipe, a socket, a device without end."""
    ada = tmp_path / 'people' / 'ada'
    ada.mkdir(parents=True)
    (ada / '1.jpg').write_bytes(jpeg(rng))
    os.mkfifo(ada / '2.jpg')
    (ada / '3.jpg').symlink_to('/dev/zero')
    here = os.getcwd()
    os.chdir(ada)  # a socket's name is short
    with socket.socket(socket.AF_UNIX) as listener:
        listener.bind('4.mp4')
    os.chdir(here)
    return tmp_path / 'people'


def test_pipes_and_devices_are_counted_and_never_opened(folder, caplog):
    (identity,) = find_identities(folder)
    assert [path.name for path in identity.paths] == ['1.jpg']
    assert '3 files are no pictures' in caplog.text and 'no ordinary files 3' in caplog.text
    found = find_pictures(folder)
    assert [path.name for path in found.pictures] == ['1.jpg']
    assert [path.name for path in found.others] == ['2.jpg', '3.jpg', '4.mp4']
    caplog.clear()
    (video,) = find_videos(folder)
    assert video.path == folder / 'ada' and 'no ordinary files 3' in caplog.text


@pytest.mark.parametrize('name', ['2.jpg', '3.jpg'])
def test_a_list_may_name_them(folder, name):
    """Nobody writes to the pipe, and the device has no end."""
    with pytest.raises(InputError, match='no ordinary file'):
        read_picture(folder / 'ada' / name)


def test_a_picture_that_cannot_be_read_is_left_out_as_a_broken_one_is(tmp_path, rng, capsys):
    for number in range(3):
        (tmp_path / 'people' / 'ada').mkdir(parents=True, exist_ok=True)
        (tmp_path / 'people' / 'ada' / f'{number}.jpg').write_bytes(jpeg(rng))
    (tmp_path / 'people' / 'ada' / '3.jpg').symlink_to('/proc/self/mem')  # whose first byte fails
    words = ['make-rec', str(tmp_path / 'people'), str(tmp_path / 'set')]
    assert main(words) == 2
    assert '3.jpg: it cannot be read (Input/output error)' in capsys.readouterr().err
    assert main([*words, '--skip-broken']) == 0
    assert json.loads(capsys.readouterr().out)['skipped'] == 1


def test_each_folder_is_entered_once(tmp_path, rng, caplog):
    """Twelve folders with links to each other: 12! ways lead through them."""
    for number in range(12):
        (tmp_path / f'{number}').mkdir()
        (tmp_path / f'{number}' / 'own.jpg').write_bytes(jpeg(rng))
        for other in range(12):
            (tmp_path / f'{number}' / f'to{other}').symlink_to(tmp_path / f'{other}')
    (tmp_path / 'self').symlink_to('self')
    found = find_pictures(tmp_path)
    assert found.others == [tmp_path / 'self']
    # by its own name, and not by that of a link that sorts before it
    assert {str(path.relative_to(tmp_path)) for path in found.pictures} == {
        f'{number}/own.jpg' for number in range(12)
    }
    assert '144 links to folders that are there already are left out' in caplog.text


def test_what_a_folder_tells_of_its_files_is_asked_of_none(tmp_path, monkeypatch):
    """A `stat` for each of millions of pictures takes minutes over a network."""
    ada = tmp_path / 'ada'
    ada.mkdir()
    for number in range(50):
        (ada / f'{number}.jpg').touch()
    (tmp_path / 'link').symlink_to(ada)
    asked, stat = [], Path.stat

    def counted(path, **how):
        asked.append(path)
        return stat(path, **how)

    monkeypatch.setattr(Path, 'stat', counted)
    assert len(list(folders._files_below(tmp_path))) == 50
    assert asked == [tmp_path / 'link']  # which may lead to a folder


@pytest.mark.parametrize('name', ['a\nb', 'a\rb', 'a\tb'])
def test_a_name_that_no_list_can_hold_is_refused(tmp_path, rng, name):
    (tmp_path / name).mkdir()
    (tmp_path / name / '1.jpg').write_bytes(jpeg(rng))
    with pytest.raises(InputError, match=r'line end or a tab in it; rename it') as error:
        find_identities(tmp_path)
    assert name not in str(error.value)  # it is shown as Python writes it


def test_an_index_that_is_a_pipe_is_not_waited_for(tmp_path, rng):
    written = write_face_records(tmp_path / 'train', [[jpeg(rng)], [jpeg(rng)]])
    written.paths.idx.unlink()
    os.mkfifo(written.paths.idx)
    with pytest.raises(InputError, match=r'index .*train\.idx is no ordinary file'):
        RecordFile(tmp_path / 'train.rec')
