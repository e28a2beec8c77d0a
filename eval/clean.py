"""What is probably wrong in a set of faces: near-duplicates, one person under two names, pictures
in the wrong folder; or, between two sets, pictures and people that both have.

FOLDER and OTHER are what `train --data-dir` takes. The result is a list, OUT/clean.csv and
OUT/clean.json, and a page of faces, OUT/index.html. Nothing is ever deleted.
"""

import argparse
import contextlib
import csv
import io
import json
import logging
import sys
from collections import Counter
from pathlib import Path
from typing import Optional

import numpy as np

from ..common import console
from ..common.data.folders import refuse_inside
from ..common.data.records import open_records
from ..common.engine.options import add_options, open_from
from ..common.errors import InputError
from ..common.files import atomic_write, exclusive, output_folder
from .cleaning import (
    DUPLICATE,
    MISLABELLED,
    SAME_PERSON,
    Finding,
    People,
    classes_of,
    duplicates,
    embed_people,
    is_identical,
    mislabelled,
    same_people,
    same_person_score,
)
from .report.page import PairsItem, Section, csv_text, page

log = logging.getLogger(__name__)

_MARGIN = 0.1
_COLUMNS = (
    'kind',
    'cosine',
    'own_cosine',
    'identical',
    'first',
    'first_class',
    'second',
    'second_class',
)
_TITLES = {
    DUPLICATE: 'The same picture, or nearly',
    SAME_PERSON: 'Probably one person under two names',
    MISLABELLED: 'Probably in the wrong folder',
}
_BOTH = {
    DUPLICATE: 'Pictures that both sets have',
    SAME_PERSON: 'People that are probably in both sets',
}
_TEXTS = {
    DUPLICATE: 'Left and right are two files.',
    SAME_PERSON: 'The most typical picture of either name.',
    MISLABELLED: 'Left the picture in question, right a typical one of whom it is more like.',
}


def build_parser(parser: console.Parser) -> None:
    parser.add_argument('folder', metavar='FOLDER', help='a .rec or a folder of people')
    parser.add_argument(
        'other', nargs='?', metavar='OTHER', help='a second set: what the two share is looked for'
    )
    add_options(parser)
    parser.add_argument('--out', type=Path, required=True, metavar='DIR', help='for list and page')
    parser.add_argument(
        '--duplicate', type=float, default=0.95, metavar='COSINE', help='of one picture twice'
    )
    parser.add_argument(
        '--same-person',
        type=float,
        metavar='COSINE',
        help='of one person under two names; by default what nine tenths of the pictures have with '
        'the rest of their folder',
    )
    parser.add_argument(
        '--margin',
        type=float,
        help='how much more a picture in the wrong folder is like another person than its own '
        f'(default: {_MARGIN:g})',
    )
    parser.add_argument(
        '--limit', type=int, default=1000, metavar='N', help='of each kind, the most certain ones'
    )
    parser.add_argument('--batch-size', type=int, default=32, help='pictures per forward pass')


def _margin(args: argparse.Namespace) -> float:
    return _MARGIN if args.margin is None else args.margin


def _find(
    args: argparse.Namespace, people: People, other: Optional[People]
) -> tuple[list[Finding], float]:
    """(all findings, the cosine from which two names are one person)"""
    found = duplicates(people, other, args.duplicate)
    classes = classes_of(people)
    threshold = args.same_person
    if threshold is None:
        threshold = same_person_score(people, classes)
    if people.records.num_classes and (other is None or other.records.num_classes):
        found += same_people(classes, other and classes_of(other), threshold)
    if people.records.num_classes and other is None:
        found += mislabelled(people, classes, threshold, _margin(args))
    return found, threshold


def _row(people: People, other: People, found: Finding) -> dict:
    return {
        'kind': found.kind,
        'cosine': round(found.cosine, 6),
        'own_cosine': None if np.isnan(found.own) else round(found.own, 6),
        'identical': is_identical(people, other, found),
        'first': people.name(found.first),
        'first_class': people.class_name(int(people.labels[found.first])),
        'second': other.name(found.second),
        'second_class': other.class_name(int(other.labels[found.second])),
    }


def _caption(row: dict) -> str:
    own = '' if row['own_cosine'] is None else f' (own {row["own_cosine"]:.3f})'
    same = ', one file twice' if row['identical'] else ''
    return f'{row["first_class"]} / {row["second_class"]}: {row["cosine"]:.3f}{own}{same}'


def _page(args: argparse.Namespace, people, other: Optional[People], found, rows) -> str:
    second = other or people
    sections = []
    for kind, title in (_TITLES if other is None else _BOTH).items():
        chosen = [(f, row) for f, row in zip(found, rows) if f.kind == kind]
        pairs = [np.stack([people.crop(f.first), second.crop(f.second)]) for f, _ in chosen]
        captions = [_caption(row) for _, row in chosen]
        items = [PairsItem(f'Pairs: {len(pairs)}', np.stack(pairs), captions)] if pairs else []
        sections.append(Section(title, _TEXTS[kind] if pairs else 'None was found.', items))
    sources = ' and '.join(part for part in (args.folder, args.other) if part)
    return page(
        'What to look at', f'{sources}, by the model {args.model}', sections, command='clean'
    )


def _csv(rows: list[dict]) -> str:
    text = io.StringIO()
    writer = csv.DictWriter(text, _COLUMNS, lineterminator='\n')
    writer.writeheader()
    for row in rows:
        # names of folders and files are anybody's
        names = {key: csv_text(cell) for key, cell in row.items() if isinstance(cell, str)}
        writer.writerow({**row, **names})
    return text.getvalue()


def _check(args: argparse.Namespace) -> None:
    console.check_ranges(
        [
            ('--duplicate', args.duplicate, -1, 1),
            ('--same-person', args.same_person or 0, -1, 1),
            ('--margin', _margin(args), 0, 2),
            ('--limit', args.limit, 1, 100_000),
            ('--batch-size', args.batch_size, 1, 4096),
        ]
    )
    if args.other and args.margin is not None:
        raise InputError('--margin is for one set; between two nobody is in the wrong folder')
    for folder in filter(None, (args.folder, args.other)):
        if Path(folder).is_dir():
            refuse_inside(args.out, Path(folder))


def run(args: argparse.Namespace) -> dict:
    _check(args)
    with contextlib.ExitStack() as stack:
        sets = [
            stack.enter_context(contextlib.closing(open_records(path)))
            for path in (args.folder, args.other)
            if path
        ]
        if not all(records.num_classes for records in sets):
            console.refuse_options(
                args, ('same_person', 'margin'), 'only for sets that tell who is in a picture'
            )
        stack.enter_context(exclusive(output_folder(args.out)))
        model = open_from(args, args.batch_size)
        people, *others = [embed_people(model, records) for records in sets]
        other = others[0] if others else None
        found, threshold = _find(args, people, other)
        counts = Counter(finding.kind for finding in found)
        shown = [
            finding
            for kind in _TITLES
            for finding in [f for f in found if f.kind == kind][: args.limit]
        ]
        rows = [_row(people, other or people, finding) for finding in shown]
        atomic_write(args.out / 'index.html', _page(args, people, other, shown, rows))
        atomic_write(args.out / 'clean.csv', _csv(rows))
        bad = [text for each in (people, *others) for text in each.bad]
        content = {'findings': rows, 'left_out': bad}
        atomic_write(args.out / 'clean.json', json.dumps(content, indent=1))
    _show(args, counts, bad)
    return {
        'out': str(args.out),
        'images': sum(len(each.rows) for each in (people, *others)),
        'left_out': len(bad),
        'same_person_cosine': threshold,
        **{kind.replace(' ', '_'): counts[kind] for kind in _TITLES},
    }


def _show(args: argparse.Namespace, counts: Counter, bad: list[str]) -> None:
    titles = _BOTH if args.other else _TITLES
    table = [(title, counts[kind]) for kind, title in titles.items()]
    console.table(f'{args.out / "index.html"} shows them', ('what to look at', 'found'), table)
    for kind in titles:
        if counts[kind] > args.limit:
            log.warning('%s: the first %d of %d are listed', kind, args.limit, counts[kind])
    if bad:
        log.warning('%d pictures cannot be read and are left out, such as %s', len(bad), bad[0])


main = console.command('clean', build_parser, run)

if __name__ == '__main__':
    sys.exit(main())
