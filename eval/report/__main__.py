"""One self-contained HTML page from training runs and evaluation results, side by side.

RUN is the folder of a training run (history.jsonl, and the results saved in it as .npz), or one
results file of `verify --save` or `identify --save`; NAME=RUN gives it another name. Differences
and tests compare every run with the first.
"""

import argparse
import logging
import time
from collections.abc import Sequence
from pathlib import Path
from typing import NamedTuple

from ... import __version__
from ...common import console
from ...common.errors import InputError
from ...common.files import atomic_write, exclusive, output_file, output_folder
from . import figures
from .all_pairs import all_pairs_section
from .groups import Labels, pair_groups, read_labels
from .identification import identification_section
from .page import Origin, Section, TableItem, page, shown, write_files
from .runs import Run, read_run, read_runs
from .summary import origins, summary_section, verdict
from .training import training_section
from .verification import measure_all, verification_section

__all__ = ['build_report', 'build_sections', 'main', 'read_run', 'read_runs']

log = logging.getLogger(__name__)


class Report(NamedTuple):
    """What a page shows."""

    origins: list[Origin]  # of each run
    verdict: list[str]  # sentences
    sections: list[Section]


def build_report(runs: Sequence[Run], labels: Sequence[Labels] = ()) -> Report:
    """The verdict and all sections that the runs have data for."""
    names = list(dict.fromkeys(name for run in runs for name in run.targets))
    looks = figures.looks_of(run.name for run in runs)
    verified, sections, made = {}, [], _made()
    with console.progress(2 * len(names) + 2, 'report', 'sections') as bar:
        for name in names:
            targets = {run.name: run.targets[name] for run in runs if name in run.targets}
            verified[name] = (targets, measure_all(targets))
            bar.advance()
        sections.append(summary_section(runs, verified, made))
        for name, (targets, measured) in verified.items():
            sections.append(verification_section(name, targets, looks, measured, labels))
            bar.advance()
        sections += [
            all_pairs_section(runs),
            identification_section(runs, looks),
            training_section(runs, looks),
        ]
        bar.advance(2)
    sections = [section for section in sections if section]
    return Report(origins(runs, made), verdict(runs, verified), sections)


def build_sections(runs: Sequence[Run]) -> list[Section]:
    """The sections of `build_report`."""
    return build_report(runs).sections


def _made() -> dict[str, str]:
    """What made this page: date, version, command and the seed of the bootstrap."""
    date = time.strftime('%Y-%m-%dT%H:%M:%SZ', time.gmtime())
    command = console.command_line()
    return {'date': date, 'version': __version__, 'command': command, 'seed': '0'}


def _check_labels(labels: Sequence[Labels], runs: Sequence[Run]) -> None:
    """InputError for labels of no pair set of these runs."""
    targets = [target for run in runs for target in run.targets.values()]
    for column in labels:
        if all(pair_groups(column, target) is None for target in targets):
            kind = 'people' if column.people is not None else 'pairs or pictures'
            sizes = sorted({len(target['issame']) for target in targets})
            raise InputError(
                f'labels {column.path}: {len(column.values)} {kind} that are of no pair set here '
                f'({", ".join(f"{size} pairs" for size in sizes) or "none"}); a line for each '
                f'pair or picture in its order, or with a column `identity` for each person of a '
                f'set saved with verify --pair-list'
            )


def build_parser(parser: console.Parser) -> None:
    parser.add_argument('runs', nargs='+', metavar='RUN', help='folder of a run, or results .npz')
    parser.add_argument('--out', type=Path, default=Path('report.html'), help='the page')
    parser.add_argument('--title', default='Face recognition report', help='its heading')
    parser.add_argument(
        '--files',
        type=Path,
        metavar='DIR',
        help='also figures (.svg, .png, .pdf) and tables (.csv, .md, .tex)',
    )
    parser.add_argument(
        '--groups',
        type=Path,
        metavar='CSV',
        help='labels of people (column identity), pictures or pairs: rates of every group',
    )
    parser.add_argument(
        '--group-column',
        action='append',
        default=[],
        metavar='NAME',
        help='which of its columns, if there are several (repeatable)',
    )


def run(arguments: argparse.Namespace) -> dict:
    if arguments.group_column and not arguments.groups:
        raise InputError('--group-column belongs to --groups')
    if arguments.out.suffix not in ('.html', '.htm'):  # a run's results would be replaced
        raise InputError(f'--out {arguments.out}: expected a name that ends in .html')
    output_file(arguments.out)
    if arguments.files:
        output_folder(arguments.files)
    labels = []
    if arguments.groups:
        columns = arguments.group_column or ['']
        labels = [read_labels(arguments.groups, column) for column in columns]
    runs = read_runs(arguments.runs)
    _check_labels(labels, runs)
    report = build_report(runs, labels)
    sections = report.sections
    html = page(arguments.title, report.origins, sections, report.verdict)
    atomic_write(arguments.out, html)
    files = []
    if arguments.files:
        with exclusive(arguments.files):
            files = write_files(arguments.files, sections)
    for section in sections:
        for item in section.items:
            if isinstance(item, TableItem):
                rows = [[shown(cell) for cell in row] for row in item.rows]
                console.table(f'{section.title}: {item.title}', item.columns, rows)
    for sentence in report.verdict:
        log.info('%s', sentence)
    log.info('report: %s (%.1f MB)', arguments.out, arguments.out.stat().st_size / 1e6)
    return {
        'out': str(arguments.out),
        'runs': [run.name for run in runs],
        'verdict': report.verdict,
        'sections': [section.title for section in sections],
        'files': [str(path) for path in files],
    }


main = console.command('report', build_parser, run)

if __name__ == '__main__':
    raise SystemExit(main())
