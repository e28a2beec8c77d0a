"""Sections of tables, figures and face pairs as one HTML page, and as files for papers.

A name may come from anywhere: HTML, Markdown, LaTeX and CSV each get it as text of their own.
"""

import base64
import csv
import io
from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Union

import numpy as np

from ...common.data.image import encode_jpeg
from ...common.files import atomic_write
from .figures import drawn, svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class Cell:
    """Numbers of one place in a table: what people see, and what a program reads.

    A CSV has a column for each value; the first has the column's name, the others that and their
    entry of `parts`.
    """

    text: str
    values: tuple[Union[float, str], ...]
    parts: tuple[str, ...] = ('',)

    def __str__(self) -> str:
        return self.text


@dataclass(frozen=True)
class TableItem:
    """A table; cells are Cells or what `str` makes of others. The first column is text."""

    name: str  # of its files
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence]
    note: str = ''
    wraps: bool = False  # cells of free text, which need several lines


@dataclass(frozen=True)
class FigureItem:
    name: str
    figure: 'Figure'
    alt: str  # what it shows, for who cannot see it


@dataclass(frozen=True)
class PairsItem:
    """Pairs of faces with a caption each."""

    title: str
    images: np.ndarray  # (n, 2, H, W, 3) uint8 RGB
    captions: Sequence[str]
    right: Sequence[bool] = ()  # whether each was decided rightly, where that is known


Item = Union[TableItem, FigureItem, PairsItem]


@dataclass(frozen=True)
class Origin:
    """Where the numbers of one run are from, for a line that unfolds."""

    run: str
    line: Sequence[str]  # shortened
    whole: Sequence[tuple[str, str]]  # (what, in full), for what the line shortens


@dataclass
class Section:
    title: str
    text: str = ''
    items: list[Item] = field(default_factory=list)


_STYLE = """
:root { color-scheme: light dark; --ink: #1c2430; --soft: #5b6675; --line: #dfe4ea;
  --accent: #0065a0; --paper: #fff; --ground: #f4f6f8; --right: #00644a; --wrong: #a63c00;
  --shade: #0003 }
@media screen and (prefers-color-scheme: dark) {
  :root { --ink: #e3e9f0; --soft: #a3afbe; --line: #323c49; --accent: #6cbdf0; --paper: #171d25;
    --ground: #0e1217; --right: #53d0a8; --wrong: #ff9d5c; --shade: #fff4 }
}
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100% }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
header, main, footer { max-width: 1180px; margin: 0 auto; padding: 0 20px }
header { padding-top: 36px }
h1 { font-size: clamp(1.6rem, 4vw, 2.3rem); line-height: 1.15; margin: 0 0 6px;
  letter-spacing: -0.02em }
.note, footer { color: var(--soft) }
header p.verdict { color: var(--ink); font-size: 1.12rem; margin: 0 0 8px; max-width: 85ch }
.origins { color: var(--soft); font-size: 0.85rem; margin: 0 0 14px; overflow-wrap: anywhere }
.origins strong { color: var(--ink) }
.origins dl { margin: 4px 0 8px 18px }
.origins dt { font-weight: 600 }
.origins dd { margin: 0 0 4px }
.skip { position: absolute; left: -999px }
.skip:focus { left: 12px; top: 8px; padding: 4px 12px; background: var(--paper);
  color: var(--accent); z-index: 1 }
:focus-visible { outline: 3px solid var(--accent); outline-offset: 2px }
section:focus { outline: none }
nav { display: flex; flex-wrap: wrap; gap: 6px; margin: 14px 0 8px }
nav a { padding: 3px 12px; border: 1px solid var(--line); border-radius: 99px; font-size: 0.88rem;
  color: var(--accent); background: var(--paper); text-decoration: none }
section { background: var(--paper); border: 1px solid var(--line); border-radius: 12px;
  padding: 22px; margin: 16px 0 }
h2 { margin: 0 0 6px; font-size: 1.35rem; letter-spacing: -0.01em }
h3 { margin: 22px 0 8px; font-size: 1.02rem }
section > p { margin: 0 0 14px; color: var(--soft); max-width: 75ch }
.figures { display: grid; gap: 14px; align-items: start; margin-top: 18px;
  grid-template-columns: repeat(auto-fit, minmax(min(100%, 330px), 1fr)) }
figure { margin: 0 }
figure img { width: 100%; max-width: 620px; height: auto; display: block }
.table { overflow-x: auto; background:
  linear-gradient(to right, var(--paper) 30%, transparent) left,
  linear-gradient(to left, var(--paper) 30%, transparent) right,
  linear-gradient(to right, var(--shade), transparent) left,
  linear-gradient(to left, var(--shade), transparent) right;
  background-size: 40px 100%, 40px 100%, 12px 100%, 12px 100%; background-repeat: no-repeat;
  background-attachment: local, local, scroll, scroll }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums }
th, td { padding: 6px 0 6px 14px; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line) }
th { color: var(--soft); font-weight: 600 }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 8em;
  padding-left: 0 }
thead th { white-space: normal; vertical-align: bottom }
.wraps :is(th, td) { text-align: left; vertical-align: top }
.wraps td { white-space: normal; overflow-wrap: anywhere; max-width: 34em }
.note { font-size: 0.85rem; margin: 6px 0 0; max-width: 80ch }
.pairs { display: grid; gap: 12px; grid-template-columns: repeat(auto-fill, minmax(148px, 1fr)) }
.pair img { width: 50%; display: block; float: left; aspect-ratio: 1 }
.pair { border-radius: 8px; overflow: hidden; border: 1px solid var(--line) }
.pair figcaption { clear: both; padding: 3px 8px; font-size: 0.82rem; color: var(--soft);
  overflow-wrap: anywhere }
.pair strong { display: block }
.right { color: var(--right) }
.wrong { color: var(--wrong) }
.pair:has(.wrong) { border-color: var(--wrong) }
footer { padding-bottom: 36px; font-size: 0.85rem }
@media screen and (max-width: 640px) {
  header, main, footer { padding-left: 10px; padding-right: 10px }
  header { padding-top: 18px }
  section { padding: 14px; border-radius: 8px }
  thead { position: absolute; clip-path: inset(50%); width: 1px; height: 1px; overflow: hidden }
  table, tbody, tr, td { display: block }
  tr { border-bottom: 1px solid var(--line); padding: 6px 0 }
  td { display: flex; justify-content: space-between; gap: 12px; padding: 2px 0; border: 0;
    white-space: normal; overflow-wrap: anywhere }
  td::before { content: attr(data-column); color: var(--soft); text-align: left; flex: 0 0 auto;
    max-width: 50% }
  td:first-child { font-weight: 600 }
  td:first-child::before { content: none }
}
@media print {
  body { background: #fff; font-size: 11pt }
  nav, .skip { display: none }
  section { border: 0; padding: 0; margin: 0 0 18pt }
  .figures { grid-template-columns: 1fr 1fr }
  .table { overflow: visible }
  table { font-size: 8.5pt; width: 100% }
  th, td { white-space: normal; padding-left: 6pt }
  figure, tr, .pair { break-inside: avoid }
  h2, h3 { break-after: avoid }
}
"""


def _data_uri(kind: str, content: bytes) -> str:
    return f'data:{kind};base64,{base64.b64encode(content).decode()}'


def shown(cell: object) -> str:
    """A cell as people read it: whole numbers with separators, all else as `str` makes it."""
    return f'{cell:,}' if type(cell) is int else str(cell)


def _table(item: TableItem, label: str) -> str:
    """The roles say what a narrow screen's layout takes from the elements: that it is a table;
    `label` what its region is called."""
    head = ''.join(
        f'<th role="columnheader" scope="col">{escape(str(column))}</th>' for column in item.columns
    )
    rows = ''.join(
        '<tr role="row">'
        + ''.join(
            f'<td role="cell" data-column="{escape(str(column))}">{escape(shown(cell))}</td>'
            for column, cell in zip(item.columns, row)
        )
        + '</tr>'
        for row in item.rows
    )
    note = f'<p class="note">{escape(item.note)}</p>' if item.note else ''
    wraps = ' wraps' if item.wraps else ''
    return (
        f'<h3>{escape(item.title)}</h3>'
        f'<div class="table{wraps}" role="region" aria-label="{escape(label)}" tabindex="0">'
        f'<table role="table"><thead role="rowgroup"><tr role="row">{head}</tr></thead>'
        f'<tbody role="rowgroup">{rows}</tbody></table></div>{note}'
    )


def _figure(item: FigureItem) -> str:
    source = _data_uri('image/svg+xml', svg(item.figure))
    return f'<figure><img src="{source}" alt="{escape(item.alt)}"></figure>'


def _pairs(item: PairsItem) -> str:
    parts = []
    words = {True: '<strong class="right">✓ right</strong>', None: ''}
    words[False] = '<strong class="wrong">✗ wrong</strong>'
    right = item.right if len(item.right) else [None] * len(item.captions)
    for images, caption, decided in zip(item.images, item.captions, right):
        faces = ''.join(
            f'<img src="{_data_uri("image/jpeg", encode_jpeg(image, 88))}" alt="face">'
            for image in images
        )
        known = None if decided is None else bool(decided)
        parts.append(
            f'<figure class="pair">{faces}<figcaption>{words[known]}{escape(caption)}</figcaption>'
            '</figure>'
        )
    return f'<h3>{escape(item.title)}</h3><div class="pairs">{"".join(parts)}</div>'


def _items(items: Sequence[Item], labels: Iterator[str]) -> str:
    """Items in order; figures that follow each other share a grid. `labels` are those of tables, in
    their order on the page."""
    parts, figures = [], []
    for item in (*items, None):
        if isinstance(item, FigureItem):
            figures.append(_figure(item))
            continue
        if figures:
            parts.append(f'<div class="figures">{"".join(figures)}</div>')
            figures = []
        if item is not None:
            is_table = isinstance(item, TableItem)
            parts.append(_table(item, next(labels)) if is_table else _pairs(item))
    return '\n'.join(parts)


def _labels(sections: Sequence[Section]) -> Iterator[str]:
    """For each table of the page, in order, what no other region is called: its title, with its
    section's if there are more, and with a number if that is not enough."""
    tables = [(s.title, i.title) for s in sections for i in s.items if isinstance(i, TableItem)]
    often = Counter(title for _, title in tables)
    taken = {title for title in often if often[title] == 1}
    for section, title in tables:
        if often[title] == 1:
            yield title
            continue
        label, number = f'{section}: {title}', 2
        while label in taken:
            label, number = f'{section}: {title} ({number})', number + 1
        taken.add(label)
        yield label


def _origin(origin: Origin) -> str:
    line = escape(' · '.join(origin.line))
    whole = ''.join(f'<dt>{escape(what)}</dt><dd>{escape(it)}</dd>' for what, it in origin.whole)
    return (
        f'<details><summary><strong>{escape(origin.run)}</strong> {line}</summary>'
        f'<dl>{whole}</dl></details>'
    )


def page(
    title: str,
    origins: Union[str, Sequence[Origin]],
    sections: Sequence[Section],
    verdict: Sequence[str] = (),
    command: str = 'report',
) -> str:
    """The whole page: one file that needs no other, no script and no network.

    `origins` stand under the title: one line, or a line that unfolds for each run; `verdict` are
    the sentences after them; `command` made the page.
    """
    if isinstance(origins, str):
        made = f'<p>{escape(origins)}</p>'
    else:
        made = ''.join(map(_origin, origins))
    lead = ''.join(f'<p class="verdict">{escape(sentence)}</p>' for sentence in verdict)
    links = ''.join(
        f'<a href="#s{number}">{escape(section.title)}</a>'
        for number, section in enumerate(sections)
    )
    labels = _labels(sections)
    body = '\n'.join(
        f'<section id="s{number}" tabindex="-1"><h2>{escape(section.title)}</h2>'
        + (f'<p>{escape(section.text)}</p>' if section.text else '')
        + f'{_items(section.items, labels)}</section>'
        for number, section in enumerate(sections)
    )
    return f"""<!DOCTYPE html>
<html lang="en">
<head>
<meta charset="utf-8">
<meta name="viewport" content="width=device-width, initial-scale=1">
<title>{escape(title)}</title>
<link rel="icon" href="data:,">
<style>{_STYLE}</style>
</head>
<body>
<a class="skip" href="#s0">Skip to the results</a>
<header><h1>{escape(title)}</h1><div class="origins">{made}</div>{lead}
<nav aria-label="Sections">{links}</nav></header>
<main>
{body}
</main>
<footer>Made by vargfacenet {command}.</footer>
</body>
</html>
"""


def markdown(item: TableItem) -> str:
    """The table in Markdown."""
    lines = [item.columns, ['---', *['---:'] * (len(item.columns) - 1)], *item.rows]
    return ''.join(
        '| ' + ' | '.join(shown(cell).replace('|', '\\|') for cell in line) + ' |\n'
        for line in lines
    )


_LATEX = {
    '\\': r'\textbackslash{}',
    **{character: '\\' + character for character in '{}$&#_%'},
    '^': r'\textasciicircum{}',
    '~': r'\textasciitilde{}',
    '<': r'\textless{}',
    '>': r'\textgreater{}',
    '|': r'\textbar{}',
    '±': r'$\pm$',
    '–': '--',
    '²': r'$^2$',
    '∞': r'$\infty$',
}


def latex_text(text: str) -> str:
    """Text as LaTeX shows it, on one line."""
    return ''.join(_LATEX.get(character, character) for character in ' '.join(text.split()))


def latex(item: TableItem) -> str:
    """The table as a LaTeX `tabular` with the rules of `booktabs`.

    A cell that starts with a bracket is put into a group: after a line's end LaTeX would take it
    for an option.
    """

    def line(cells: Sequence) -> str:
        texts = [latex_text(shown(cell)) for cell in cells]
        return ' & '.join(f'{{{t}}}' if t.startswith('[') else t for t in texts) + ' \\\\\n'

    return (
        f'% {" ".join(item.title.split())}; needs \\usepackage{{booktabs}}\n'
        f'\\begin{{tabular}}{{l{"r" * (len(item.columns) - 1)}}}\n\\toprule\n'
        + line(item.columns)
        + '\\midrule\n'
        + ''.join(map(line, item.rows))
        + '\\bottomrule\n\\end{tabular}\n'
    )


def csv_text(text: str) -> str:
    """Text that no spreadsheet takes for a formula: what starts like one gets an apostrophe."""
    return f"'{text}" if text.startswith(('=', '+', '-', '@', '\t', '\r')) else text


def _number(value: float) -> str:
    """All digits of a number; NumPy 2 writes its own as np.float64(...)."""
    return repr(value.item() if isinstance(value, np.generic) else value)


def csv_table(item: TableItem) -> str:
    """The table as CSV: one value a cell, numbers as they are, nothing where there is none."""
    parts: list[tuple[str, ...]] = [('',)] * len(item.columns)
    for row in item.rows:
        for place, cell in enumerate(row):
            if isinstance(cell, Cell) and len(cell.parts) > len(parts[place]):
                parts[place] = cell.parts
    lines = [
        [
            csv_text(' '.join(filter(None, (str(column), part))))
            for column, names in zip(item.columns, parts)
            for part in names
        ]
    ]
    for row in item.rows:
        lines.append([])
        for cell, names in zip(row, parts):
            if isinstance(cell, Cell):
                values = [csv_text(v) if isinstance(v, str) else _number(v) for v in cell.values]
            elif isinstance(cell, (int, float)):
                values = [_number(cell)]
            else:
                values = ['' if cell == '–' else csv_text(str(cell))]
            lines[-1] += values + [''] * (len(names) - len(values))
    text = io.StringIO()
    csv.writer(text, lineterminator='\n').writerows(lines)
    return text.getvalue()


TABLE_FORMATS = {'.csv': csv_table, '.md': markdown, '.tex': latex}
FIGURE_FORMATS = ('.svg', '.png', '.pdf')


def _file_name(name: str, taken: set[str]) -> str:
    """`name`, or with a number if another item's files have it, on any file system."""
    number, free = 2, name
    while free.casefold() in taken:
        number, free = number + 1, f'{name}-{number}'
    taken.add(free.casefold())
    return free


def write_files(folder: Path, sections: Sequence[Section]) -> list[Path]:
    """Figures and tables in every format, in an existing folder: the paths."""
    written, taken = [], set()
    for item in (item for section in sections for item in section.items):
        if isinstance(item, PairsItem):
            continue
        path = folder / _file_name(item.name, taken)
        formats = FIGURE_FORMATS if isinstance(item, FigureItem) else tuple(TABLE_FORMATS)
        for suffix in formats:
            written.append(path.parent / f'{path.name}{suffix}')
            if isinstance(item, TableItem):
                atomic_write(written[-1], TABLE_FORMATS[suffix](item))
            else:
                atomic_write(written[-1], drawn(item.figure, suffix[1:]))
    return written
