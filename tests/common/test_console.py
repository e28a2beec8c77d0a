"""The frame of every command: exit codes, one-line errors, progress."""

import contextlib
import errno
import json
import logging
import os
import pty
import re
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from rich.console import Console
from vargfacenet import __version__
from vargfacenet.__main__ import main
from vargfacenet.common import console
from vargfacenet.common.errors import InputError, RunError


def command(run):
    return console.command('test', lambda parser: parser.add_argument('--number', type=int), run)


def test_the_result_is_one_json_line(capsys):
    run = command(lambda args: {'n': np.float32(0.5), 'rows': np.arange(3), 'given': args.number})
    assert run(['--number', '7']) == 0
    assert json.loads(capsys.readouterr().out) == {'n': 0.5, 'rows': [0, 1, 2], 'given': 7}


def test_numbers_that_json_has_no_word_for_are_null(capsys):
    rows = [np.nan, -np.inf, np.float32(np.inf), 0.5]
    assert command(lambda _: {'rows': rows, 'text': 'NaN'})([]) == 0
    line = capsys.readouterr().out
    strict = json.loads(line, parse_constant=lambda word: pytest.fail(f'{word} in {line}'))
    assert strict == {'rows': [None, None, None, 0.5], 'text': 'NaN'}


@pytest.mark.parametrize(
    'error, code',
    [
        (InputError('two\nlines'), 2),
        (RunError('r'), 1),
        (PermissionError(errno.EACCES, 'Permission denied', 'folder'), 1),
        (KeyboardInterrupt(), 130),
        (console.Interrupted(signal.SIGTERM), 143),
    ],
)
@pytest.mark.parametrize('door', ['run', 'look', 'import'])
def test_expected_errors_are_one_line(error, code, door, capsys, monkeypatch):
    def run(*args):
        raise error

    if door == 'run':
        assert command(run)([]) == code
    elif door == 'look':
        main = console.command('test', lambda parser: None, lambda args: None, run)
        assert main.check([]) == code
    else:
        monkeypatch.setattr(console.frame.importlib, 'import_module', run)
        assert (
            console.dispatch('vargfacenet', {'test': ('module', '')}, 'package', ['test']) == code
        )
    captured = capsys.readouterr()
    assert captured.out == ''
    assert len(captured.err.splitlines()) == 1
    assert captured.err.startswith('vargfacenet test: ')


@pytest.mark.parametrize('way', ['log', 'error', 'file', 'table', 'title'])
def test_a_terminal_obeys_nothing_that_comes_from_a_file(way, capsys):
    """ESC c resets it, 0x9b begins a sequence as ESC [ does, and U+202E turns what follows around;
    letters of all languages stay, and a name between colons is no picture."""
    name = 'a\x1bc\x9b2J\x07\x7f\u202e Zoë 王 :cat:.avi'
    console.set_up_logging()
    if way == 'log':
        logging.getLogger('vargfacenet').warning('%s: codec', name)
    elif way == 'error':
        console.report_error('test', InputError(name))
    elif way == 'file':
        console.report_error('test', FileNotFoundError(errno.ENOENT, 'No such file', name))
    else:
        console.table(*((name, ['n'], [['1']]) if way == 'title' else ('', ['n'], [[name]])))
    assert 'a\\x1bc\\x9b2J\\x07\\x7f\\u202e Zoë 王 :cat:.avi' in capsys.readouterr().err


def test_a_name_with_a_line_end_makes_no_line_of_a_table(capsys):
    console.table('a\nb', ['c\nd'], [['e\nf']])
    errors = capsys.readouterr().err
    assert errors.startswith('a\\nb\n') and 'c\\nd' in errors and 'e\\nf' in errors


def test_a_name_makes_no_line_of_its_own_in_a_log(capsys):
    console.set_up_logging()
    name = 'a.jpg\nvargfacenet verify: all is well'
    logging.getLogger('vargfacenet').warning('%s: no face in %d pictures', Path(name), 3)
    (line,) = capsys.readouterr().err.splitlines()
    assert line == 'warning: a.jpg\\nvargfacenet verify: all is well: no face in 3 pictures'


@pytest.mark.parametrize(
    'words',
    [
        ('%s', InputError('a.jpg\nb')),  # as Pillow's and the system's name what they were given
        ('%s', ['a.jpg\nb']),
        ('%(name)s', {'name': 'a.jpg\nb'}),
        ('a.jpg\nb',),
    ],
)
def test_a_name_makes_no_line_whatever_brings_it(words, capsys, caplog):
    console.set_up_logging()
    logger = logging.getLogger('vargfacenet')
    logger.addHandler(caplog.handler)
    try:
        logger.warning(*words)
    finally:
        logger.removeHandler(caplog.handler)
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith('warning: ') and 'a.jpg\\nb' in line
    # other handlers get the record as it was
    (record,) = caplog.records
    assert record.msg == words[0] and record.args in (words[1:], *words[1:])


_SPEAKS = """
import logging, subprocess, sys
from vargfacenet.common import console
def run(args):
    subprocess.run(['sh', '-c', 'true <&0 >&1 2>&2'], check=True)
    logging.getLogger('vargfacenet').warning('a line')
    console.table('t', ['n'], [['1']])
    with console.progress(2, 'work') as bar:
        bar.advance()
    open(sys.argv[1], 'w').write('done')
    return {'n': 1}
sys.exit(console.command('test', lambda parser: parser.add_argument('out'), run)())
"""


@pytest.mark.parametrize('where', ['2>/dev/full', '2>&-', '>/dev/full', '>&-', '<&- >&- 2>&-'])
def test_a_full_or_closed_stream_ends_no_work(where, tmp_path):
    """A log on a disk that is full costs the log; a result that has no place is told, once."""
    out = tmp_path / 'out'
    words = shlex.join([sys.executable, '-c', _SPEAKS, str(out)])
    done = subprocess.run(f'{words} {where}', shell=True, capture_output=True, text=True)
    assert out.read_text() == 'done'
    assert done.returncode == (where == '>/dev/full')
    if where.startswith('2'):
        assert json.loads(done.stdout) == {'n': 1} and not done.stderr
    elif where == '>/dev/full':
        assert 'stdout (No space left on device); all else is done' in done.stderr.splitlines()[-1]


def test_a_file_in_place_of_a_closed_stream_stays_as_it_is(tmp_path):
    source = f"""
import sys
taken = open({str(tmp_path / 'out')!r}, 'w')
assert taken.fileno() == 1
from vargfacenet.common import console
sys.exit(console.command('test', lambda parser: None, lambda args: {{'n': 1}})([]))
"""
    words = shlex.join([sys.executable, '-c', source])
    done = subprocess.run(f'{words} >&-', shell=True, capture_output=True, text=True)
    assert (done.returncode, done.stderr) == (0, '') and not (tmp_path / 'out').read_text()


def test_a_launcher_without_a_log_tells_wrong_input_by_its_code():
    words = shlex.join([sys.executable, '-m', 'vargfacenet.common.launch', '--nonsense'])
    assert subprocess.run(f'{words} 2>/dev/full', shell=True).returncode == 2


def test_our_own_faults_keep_their_traceback():
    with pytest.raises(ZeroDivisionError):
        command(lambda args: {'x': 1 / 0})([])


def test_a_title_is_not_broken_to_the_width_of_its_table(capsys):
    title = 'photos/Ada/Ada_0001.jpg among 2 faces; of strangers 1 % are named'
    console.table(title, ['name'], [['Ada']])
    assert capsys.readouterr().err.splitlines()[0] == title


def test_brackets_in_a_table_are_text(capsys):
    console.table('of [/b]', ['na[me]', 'n'], [['[/foo]', 1], ['[red]rich[/red]', 2]])
    shown = capsys.readouterr().err
    assert all(text in shown for text in ('of [/b]', 'na[me]', '[/foo]', '[red]rich[/red]'))


def test_no_part_of_a_table_is_obeyed_by_a_terminal(capsys):
    """A header may be the name of a run, which may come from a stranger."""
    text = 'a\x1b[2Jb'
    console.table(text, ['n', text], [[text, text]])
    shown = capsys.readouterr().err
    assert '\x1b' not in shown and shown.count('a\\x1b[2Jb') == 4


def test_a_module_run_by_python_m_shows_its_log(capsys):
    def run(args):
        logging.getLogger('__main__').info('a line')

    assert command(run)([]) == 0
    assert 'a line' in capsys.readouterr().err


@pytest.mark.parametrize('argv', [['--nubmer', '1'], ['--number', 'x'], ['extra']])
def test_wrong_usage_is_one_line(argv, capsys):
    assert command(lambda args: {})(argv) == 2
    assert len(capsys.readouterr().err.splitlines()) == 1


@pytest.mark.parametrize(
    ('words', 'meant'),
    [
        (
            ['compare', 'a.jpg', 'b.jpg', '--modle', 'export'],
            'did you mean --model by --modle?',
        ),
        (
            ['compare', 'a.jpg', 'b.jpg', '--modle=export'],
            'did you mean --model by --modle?',
        ),
        (['synth', 'out', '--identites', '9'], 'did you mean --identities by --identites?'),
        (['gallery', 'list', '--galery', 'p'], 'did you mean --gallery by --galery?'),
        (['gallery', 'identfy', 'a.jpg'], 'did you mean identify?'),
        (['identify', '--kernel', 'in8'], 'did you mean int8?'),
        (['identify', '--kernel', 'gpu'], ''),
        (['gallery', 'list', '--gallery', 'p', '--jsno'], 'did you mean --json by --jsno?'),
        # --json is 0.67 like it; --top, which is 0.73 like it, is an option of others
        (['gallery', 'list', '--gallery', 'p', '--stok'], ''),
        (['compare', 'a.jpg', 'b.jpg', '--qqqqqq'], ''),
        (['compare', 'a.jpg'], ''),
    ],
)
def test_a_misspelt_option_is_corrected(words, meant, capsys):
    assert main(words) == 2
    line = capsys.readouterr().err
    assert meant in line and ('did you mean' in line) == bool(meant) and line.count('\n') == 1


@pytest.mark.parametrize('command', [[], ['gallery']])
def test_help_is_a_word_too(command, capsys):
    shown = []
    for words in ([*command, '--help'], ['help', *command]):
        with contextlib.suppress(SystemExit):  # argparse's own way out
            assert main(words) == 0
        shown.append(capsys.readouterr().out)
    assert shown[0] == shown[1] and shown[0].startswith('usage: vargfacenet')


def test_a_table_of_prose_begins_at_the_left(capsys):
    for prose, cell in ((False, '│     short │'), (True, '│ short     │')):
        console.table('t', ['a', 'b'], [['1', 'short'], ['2', 'long text']], prose=prose)
        assert cell in capsys.readouterr().err


def test_lines_of_progress_end_where_their_words_end(monkeypatch, capsys):
    monkeypatch.setattr(console.progress_bar, '_NON_TTY_LINE_SECONDS', 0)
    console.set_up_logging()
    with console.progress(2, 'test') as bar:
        bar.advance()
        bar.advance(note='loss 1')
    first, second = capsys.readouterr().err.splitlines()
    assert first.startswith('test: 1/2 images') and first.endswith(' left')
    assert second.startswith('test: 2/2 images') and second.endswith(' left loss 1')


def test_progress_of_nobody_knows_how_much_tells_no_end(monkeypatch, capsys):
    monkeypatch.setattr(console.progress_bar, '_NON_TTY_LINE_SECONDS', 0)
    console.set_up_logging()
    with console.progress(0, 'test', 'rounds') as bar:
        bar.advance()
    (line,) = capsys.readouterr().err.splitlines()
    assert re.fullmatch(r'test: 1 rounds, [\d.]+ rounds/s', line)


def test_where_no_rate_is_known_yet_no_time_is_told(monkeypatch, capsys):
    """A resumed study showed '120/440 steps, 0.0 steps/s, 0 s left'."""
    monkeypatch.setattr(console.progress_bar, '_NON_TTY_LINE_SECONDS', 0)
    console.set_up_logging()
    with console.progress(440, 'test', 'steps', start=120) as bar:
        bar.advance(0)
        bar.advance(1)
    first, second = capsys.readouterr().err.splitlines()
    assert first == 'test: 120/440 steps, 0.0 steps/s' and second.endswith(' left')


def test_the_entry_point_lists_commands_and_corrects_names(capsys):
    for words, name in ((['--help'], 'distill'), (['bench', '-h'], 'engines')):
        assert main(words) == 0
        shown = capsys.readouterr()
        assert name in shown.out and not shown.err
    assert main(['--version']) == 0
    assert capsys.readouterr().out == f'vargfacenet {__version__}\n'
    assert main(['bench', '--version']) == 2
    assert main([]) == 2
    assert main(['vrify']) == 2
    assert "did you mean 'verify'" in capsys.readouterr().err


def test_progress_counts_from_where_a_resumed_run_starts():
    with console.progress(10, 'test', start=4) as bar:
        assert bar.seconds_left == 0.0
        bar.advance(3)
        bar.started -= 1.5  # as if it had taken that long
        assert bar.done == 7
        assert bar.rate == pytest.approx(2.0, rel=0.05)
        assert bar.seconds_left == pytest.approx(1.5, rel=0.05)


@pytest.mark.parametrize(
    'seconds, text', [(0.4, '0 s'), (59, '59 s'), (61, '1:01'), (3600 + 62, '1:01:02')]
)
def test_durations(seconds, text):
    assert console.duration(seconds) == text


def on_a_terminal(*words):
    """What a command whose result is {'n': 1} writes to stdout, a terminal."""
    source = (
        'from vargfacenet.common import console\n'
        'run = console.command("t", lambda parser: None, lambda arguments: {"n": 1})\n'
        'raise SystemExit(run())'
    )
    master, slave = pty.openpty()
    with os.fdopen(master, 'rb', buffering=0) as terminal:
        done = subprocess.run([sys.executable, '-c', source, *words], stdout=slave, check=False)
        os.write(slave, b'end')
        os.close(slave)
        assert done.returncode == 0
        return terminal.read(1000).decode().replace('end', '')


def test_a_terminal_gets_json_only_when_it_asks():
    assert on_a_terminal() == ''
    assert json.loads(on_a_terminal('--json')) == {'n': 1}


def test_a_pipe_gets_json_with_and_without_asking(capsys):
    for words in ([], ['--json']):
        assert command(lambda args: vars(args))(words) == 0
        assert json.loads(capsys.readouterr().out) == {'number': None}  # and `run` sees no switch


def test_json_may_stand_before_and_after_a_subcommand():
    parser = console.Parser()
    parser.add_subparsers(dest='action').add_parser('go')
    for words, asked in ((['go'], False), (['go', '--json'], True), (['--json', 'go'], True)):
        assert getattr(parser.parse_args(words), 'json', False) is asked


def test_a_command_knows_its_own_line(capsys):
    assert command(lambda args: {'line': console.command_line()})(['--number', '7']) == 0
    assert json.loads(capsys.readouterr().out)['line'] == 'vargfacenet test --number 7'


@pytest.mark.parametrize('width', [40, 80, 200])
def test_a_wide_table_is_readable_on_a_narrow_terminal(width, monkeypatch, capsys):
    monkeypatch.setattr(
        console.tables, 'stderr_console', lambda: Console(file=sys.stderr, width=width)
    )
    columns = ['network', *(f'column {i}' for i in range(9))]
    console.table('wide', columns, [[f'{name}{i}' for i in range(10)] for name in 'ab'])
    lines = capsys.readouterr().err.splitlines()
    assert max(map(len, lines)) <= width
    cells = [line for line in lines if 'b4' in line]
    assert len(cells) == 1  # no cell is folded into pieces
    assert ('column 3' in cells[0]) == (width < 200)
    assert any('column 8' in line for line in lines)


def test_headers_break_before_cells_do(monkeypatch, capsys):
    """14 + 2 cells of 12 letters: 49 columns; the headers alone would need 67."""
    monkeypatch.setattr(
        console.tables, 'stderr_console', lambda: Console(file=sys.stderr, width=50)
    )
    header = 'a header of many words'
    console.table('t', ['name', header, header], [['fourteen words', *['12.34 [1, 2]'] * 2]])
    lines = capsys.readouterr().err.splitlines()
    assert sum('fourteen words' in line and line.count('12.34 [1, 2]') == 2 for line in lines) == 1
    assert max(map(len, lines)) <= 50 and not any(header in line for line in lines)


def test_switches_have_no_default_in_the_help():
    parser = console.Parser()
    parser.add_argument('--force', action='store_true', help='do it')
    parser.add_argument('--count', type=int, default=3, help='how many')
    told = ' '.join(parser.format_help().split())
    assert 'do it --count' in told and 'how many (default: 3)' in told
