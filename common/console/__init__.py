"""What people see: log lines, progress bars and tables on stderr, one JSON line on stdout.

The JSON line is for programs: where stdout is a terminal it is printed with `--json` alone. Every
command of the project is `main = console.command(NAME, build_parser, run)`: `run` gets the
parsed arguments and returns a dict of results; errors become one line and an exit code here.

`streams` are stderr and the log, `progress_bar` and `tables` what is shown there, `parser` the
words of a command, `frame` what runs it, and `ending` what its results and errors become.
"""

from .ending import Interrupted, report_error, with_errors_told
from .frame import command, command_line, dispatch, imported, main_of, parse_command
from .parser import Parser, check_ranges, refuse_options
from .progress_bar import ProgressBar, duration, progress
from .streams import set_up_logging, shown, stderr_console
from .tables import table

__all__ = [
    'Interrupted',
    'Parser',
    'ProgressBar',
    'check_ranges',
    'command',
    'command_line',
    'dispatch',
    'duration',
    'imported',
    'main_of',
    'parse_command',
    'progress',
    'refuse_options',
    'report_error',
    'set_up_logging',
    'shown',
    'stderr_console',
    'table',
    'with_errors_told',
]
