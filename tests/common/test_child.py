"""Processes that run a module of ours."""

import io
import subprocess
import sys

import pytest
from vargfacenet.common.child import frame, how_it_ended, module_words, read_frame


@pytest.mark.parametrize('parts', [[], [b''], [b'one', bytes(range(256)) * 300]])
def test_a_frame_comes_as_it_was_sent(parts):
    stream = io.BytesIO(b''.join(frame({'a': [1, 'ü']}, parts)) + b''.join(frame({})))
    content, got = read_frame(stream)
    assert content.pop('sizes') == [len(part) for part in parts]
    assert content == {'a': [1, 'ü']} and got == parts
    assert read_frame(stream) == ({'sizes': []}, [])
    assert read_frame(stream) is None


def test_nothing_is_imported_from_the_working_directory(tmp_path):
    """A folder that was unpacked from a stranger's archive has modules called as those we use."""
    for name in ('numpy', 'runpy', 'json', 'vargfacenet'):
        (tmp_path / f'{name}.py').write_text('open("ran", "w")\n')
    words = module_words('vargfacenet.common.limits')
    assert subprocess.run(words, cwd=tmp_path).returncode == 0
    assert not (tmp_path / 'ran').exists()
    # that the test can fail: what `python -m` does
    subprocess.run([sys.executable, '-m', 'vargfacenet.common.limits'], cwd=tmp_path)
    assert (tmp_path / 'ran').exists()


def test_words_reach_the_module(tmp_path):
    words = module_words('vargfacenet', 'info', '--help')
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 0 and 'vargfacenet info' in done.stdout


def test_how_a_process_ended():
    assert how_it_ended(-9) == 'the process was ended by SIGKILL'
    assert how_it_ended(3) == 'the process ended with exit code 3'
    assert how_it_ended(-200) == 'the process ended with exit code -200'
