"""The log of decisions: appended, never changed, and what is missing or changed shows."""

import json
import multiprocessing
import os
import resource
import stat

import pytest
from vargfacenet.common.errors import InputError, RunError
from vargfacenet.deploy.decision_log import append, check_log, check_log_path, entries, head_path


def test_a_file_of_another_kind_gets_no_lines(tmp_path):
    path = tmp_path / 'log'
    others = (b'\xff\xd8\xff\xe0', b'time,what\n', b'{"a": 1}\n', b'\0' * 9, b'{\n  "time": "')
    for content in (*others, b'\n', b'\n{"time": "2026-11'):
        path.write_bytes(content)
        with pytest.raises(InputError, match='log is no log of decisions'):
            check_log_path(path)
        assert path.read_bytes() == content
    for content in (b'', b'{"ti', b'{"time": "2026-11'):  # a power cut has torn its first line
        path.write_bytes(content)
        head_path(path).unlink(missing_ok=True)
        for lines in (1, 2):  # no command refuses what the one before it wrote
            check_log_path(path)
            append(path, 'compare')
            assert check_log(path).lines == lines
            assert path.read_bytes().startswith(content)


@pytest.fixture
def log(tmp_path):
    path = tmp_path / 'decisions.jsonl'
    for number in range(6):
        append(path, 'identify', people=[f'{number:016x}'], outcome='match')
    return path


def test_a_log_that_nobody_touched(log):
    assert check_log(log) == (6, [])
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert [line['people'] for line in lines] == [[f'{number:016x}'] for number in range(6)]
    assert [line['time'] for line in lines] == sorted(line['time'] for line in lines)
    assert len({line['chain'] for line in lines}) == 6
    for path in (log, head_path(log)):
        assert stat.S_IMODE(path.stat().st_mode) == 0o600


@pytest.mark.parametrize(
    ('change', 'message'),
    [
        (lambda lines: lines[:-1], 'is cut off: it has 5 lines and had 6'),
        (lambda lines: lines[1:], 'line 1 does not follow'),
        (lambda lines: lines[:2] + lines[3:], 'line 3 does not follow'),
        (lambda lines: lines[:2] + lines[3:1:-1] + lines[4:], 'line 3 does not follow'),
        (
            lambda lines: [*lines[:2], lines[2].replace('"match"', '"no match"'), *lines[3:]],
            'line 3 does not follow',
        ),
        (
            # what is read first is not what is hashed
            lambda lines: [*lines[:2], '{"outcome": "no match", ' + lines[2][1:], *lines[3:]],
            'line 3 is not as it was written',
        ),
        (lambda lines: [*lines[:5], lines[5].replace(', ', ',  ')], 'line 6 is not as it was'),
        (lambda lines: [*lines[:5], lines[5][:40]], 'line 6 is damaged'),
        (lambda lines: [], 'is cut off: it has 0 lines'),
        (lambda lines: ['[' * 5000, '7', *lines[2:]], 'line 1 is damaged'),
    ],
)
def test_what_somebody_changed_shows(log, change, message):
    log.write_text(''.join(f'{line}\n' for line in change(log.read_text().splitlines())))
    assert any(message in problem for problem in check_log(log).problems)


def test_people_of_a_strangers_line_are_nobody(log):
    """A log that somebody brings along with a gallery."""
    for people in (7, '5' * 16, {'5' * 16: 1}, None):
        append(log, 'identify', people=people)
    assert not list(entries(log, '5' * 16)) and len(list(entries(log, f'{5:016x}'))) == 1


def test_a_log_that_was_made_anew_shows(log, tmp_path):
    other = tmp_path / 'other.jsonl'
    for _ in range(6):
        append(other, 'identify', people=[], outcome='no match')
    log.write_bytes(other.read_bytes())
    assert 'is not the log that' in check_log(log).problems[0]


def test_a_line_whose_head_a_kill_has_kept_back_is_no_damage(log):
    head = head_path(log).read_bytes()
    append(log, 'identify', outcome='match')
    head_path(log).write_bytes(head)
    assert check_log(log) == (7, [])
    append(log, 'identify', outcome='match')
    assert check_log(log) == (8, [])


def test_a_cut_shows_even_after_more_lines(log):
    log.write_text(''.join(log.read_text().splitlines(keepends=True)[:-1]))
    for _ in range(3):
        append(log, 'identify', outcome='match')
        assert check_log(log).problems


def test_a_torn_line_is_told_and_those_after_it_are_whole(log):
    with open(log, 'ab') as file:
        file.write(b'{"time": "2026')
    append(log, 'identify', outcome='match')
    found = check_log(log)
    assert found.lines == 7 and found.problems == [f'{log} line 7 is damaged']


def _append_many(path, number):
    for turn in range(20):
        append(path, 'identify', people=[f'{number}-{turn}'])


def test_several_processes_write_in_turn(tmp_path):
    path = tmp_path / 'decisions.jsonl'
    context = multiprocessing.get_context('fork')
    workers = [context.Process(target=_append_many, args=(path, number)) for number in range(4)]
    for worker in workers:
        worker.start()
    for worker in workers:
        worker.join()
        assert worker.exitcode == 0
    assert check_log(path) == (80, [])
    assert len(list(entries(path, '2-7'))) == 1


def test_a_decision_that_cannot_be_logged_is_none(tmp_path):
    (tmp_path / 'log').mkdir()
    with pytest.raises(RunError, match='cannot be logged'):
        append(tmp_path / 'log', 'identify')
    if os.path.exists('/dev/full'):
        os.symlink('/dev/full', tmp_path / 'full')
        with pytest.raises(RunError, match='No space left'):
            append(tmp_path / 'full', 'identify')


@pytest.mark.parametrize('more', [0, 10, 150])
def test_a_full_disk_leaves_no_part_of_a_line(log, more):
    before = log.read_bytes()
    limits = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (len(before) + more, limits[1]))
    try:
        with pytest.raises(RunError, match=r'cannot be logged \(File too large'):
            append(log, 'identify', people=[], outcome='x' * 100)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, limits)
    assert log.read_bytes() == before
    append(log, 'identify', people=[], outcome='x' * 100)
    assert check_log(log) == (7, [])
