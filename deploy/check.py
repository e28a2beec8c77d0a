"""Read through what lies in a folder, and say what is damaged: training sets, pair sets, runs,
exports, galleries, teacher stores, saved results.

Every picture is decoded, every checksum compared, every label and size looked at; nothing is
changed. Exit code 0: all whole; 1: something is damaged; 2: no such folder, or nothing to check.
"""

import argparse
import logging
import sys
from pathlib import Path

from ..common import console
from ..common.errors import InputError
from .checks import Checked, counted, find

log = logging.getLogger(__name__)

_SHOWN = 20  # problems of one item in the table and the JSON result


def build_parser(parser: console.Parser) -> None:
    parser.add_argument(
        'folder', type=Path, metavar='FOLDER', help='what is in it and below is checked'
    )
    parser.epilog = (
        'exit code 0: all is whole; 1: something is damaged (the table and the JSON line say '
        'what); 2: there is nothing to check'
    )


def _shown(texts: list[str]) -> list[str]:
    more = [f'and {len(texts) - _SHOWN} more'] if len(texts) > _SHOWN else []
    return texts[:_SHOWN] + more


def _row(checked: Checked) -> tuple[str, str, str, str]:
    state = f'{len(checked.problems)} damaged' if checked.problems else 'whole'
    return str(checked.path), checked.kind, checked.content, state


def _show(folder: Path, results: list[Checked]) -> None:
    damaged = sum(bool(checked.problems) for checked in results)
    state = f'{damaged} damaged' if damaged else 'all whole'
    title = f'{folder}: {len(results)} checked, {state}'
    columns = ('path', 'what', 'content', 'state')
    console.table(title, columns, map(_row, results), prose=True)
    for checked in results:
        for text in _shown(checked.remarks):
            log.info('%s: %s', checked.path, text)
    for checked in results:
        for text in _shown(checked.problems):
            log.warning('%s', text)


def run(args: argparse.Namespace) -> tuple[dict, int]:
    if not args.folder.is_dir():
        raise InputError(f'{args.folder} is no folder')
    items, others = find(args.folder)
    if not items:
        raise InputError(
            f'{args.folder} holds nothing to check: no data set, pair set, run, export, gallery, '
            f'teacher store or results'
        )
    results = [item.check() for item in items]
    _show(args.folder, results)
    if others:
        log.info('%d files of other kinds were not looked at (%s)', len(others), counted(others))
    damaged = sum(bool(checked.problems) for checked in results)
    summary = {
        'folder': str(args.folder),
        'checked': len(results),
        'damaged': damaged,
        'not_looked_at': len(others),
        'items': [
            {
                'path': str(checked.path),
                'kind': checked.kind,
                'content': checked.content,
                'num_problems': len(checked.problems),
                'problems': _shown(checked.problems),
                'remarks': _shown(checked.remarks),
            }
            for checked in results
        ],
    }
    return summary, 1 if damaged else 0


main = console.command('check', build_parser, run)

if __name__ == '__main__':
    sys.exit(main())
