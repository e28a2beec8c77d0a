"""Sections of tables, figures and face pairs as one HTML page, and as files for papers."""

import base64
import csv
import io
from collections.abc import Sequence
from dataclasses import dataclass, field
from html import escape
from pathlib import Path
from typing import TYPE_CHECKING, Union

import numpy as np

from ...common.data.image import encode_jpeg
from ...common.files import atomic_path, atomic_write
from .figures import svg

if TYPE_CHECKING:
    from matplotlib.figure import Figure


@dataclass(frozen=True)
class TableItem:
    """A table; cells are shown as `str` makes them. The first column is text."""

    name: str  # of its files
    title: str
    columns: Sequence[str]
    rows: Sequence[Sequence]
    note: str = ''


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


Item = Union[TableItem, FigureItem, PairsItem]


@dataclass
class Section:
    title: str
    text: str = ''
    items: list[Item] = field(default_factory=list)


_STYLE = """
:root { --ink: #1c2430; --soft: #5b6675; --line: #dfe4ea; --accent: #0072b2; --paper: #fff;
  --ground: #f4f6f8 }
* { box-sizing: border-box }
html { -webkit-text-size-adjust: 100% }
body { margin: 0; background: var(--ground); color: var(--ink);
  font: 16px/1.5 system-ui, -apple-system, "Segoe UI", Roboto, sans-serif }
header, main, footer { max-width: 1180px; margin: 0 auto; padding: 0 20px }
header { padding-top: 36px }
h1 { font-size: clamp(1.6rem, 4vw, 2.3rem); line-height: 1.15; margin: 0 0 6px;
  letter-spacing: -0.02em }
header p, .note, footer { color: var(--soft) }
header p { margin: 0 0 18px }
nav { display: flex; flex-wrap: wrap; gap: 6px; margin-bottom: 8px }
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
.table { overflow-x: auto }
table { border-collapse: collapse; font-size: 0.92rem; font-variant-numeric: tabular-nums }
th, td { padding: 6px 14px 6px 0; text-align: right; white-space: nowrap;
  border-bottom: 1px solid var(--line) }
th { color: var(--soft); font-weight: 600 }
th:first-child, td:first-child { text-align: left; white-space: normal; min-width: 8em }
.note { font-size: 0.85rem; margin: 6px 0 0; max-width: 80ch }
.pairs { display: grid; gap: 12px; grid-template-columns: repeat(auto-fill, minmax(148px, 1fr)) }
.pair img { width: 50%; display: block; float: left; aspect-ratio: 1 }
.pair { border-radius: 8px; overflow: hidden; border: 1px solid var(--line) }
.pair figcaption { clear: both; padding: 3px 8px; font-size: 0.82rem; color: var(--soft) }
footer { padding-bottom: 36px; font-size: 0.85rem }
@media (max-width: 520px) {
  header, main, footer { padding-left: 10px; padding-right: 10px }
  section { padding: 14px; border-radius: 8px }
}
@media print {
  body { background: #fff; font-size: 11pt }
  nav { display: none }
  section { border: 0; padding: 0; margin: 0 0 18pt }
  .figures { grid-template-columns: 1fr 1fr }
  .table { overflow: visible }
  table { font-size: 8.5pt }
  figure, tr, .pair { break-inside: avoid }
  h2, h3 { break-after: avoid }
}
"""


def _data_uri(kind: str, content: bytes) -> str:
    return f'data:{kind};base64,{base64.b64encode(content).decode()}'


def _table(item: TableItem) -> str:
    head = ''.join(f'<th scope="col">{escape(str(column))}</th>' for column in item.columns)
    rows = ''.join(
        '<tr>' + ''.join(f'<td>{escape(str(cell))}</td>' for cell in row) + '</tr>'
        for row in item.rows
    )
    note = f'<p class="note">{escape(item.note)}</p>' if item.note else ''
    return (
        f'<h3>{escape(item.title)}</h3><div class="table"><table><thead><tr>{head}</tr></thead>'
        f'<tbody>{rows}</tbody></table></div>{note}'
    )


def _figure(item: FigureItem) -> str:
    source = _data_uri('image/svg+xml', svg(item.figure))
    return f'<figure><img src="{source}" alt="{escape(item.alt)}"></figure>'


def _pairs(item: PairsItem) -> str:
    shown = []
    for images, caption in zip(item.images, item.captions):
        faces = ''.join(
            f'<img src="{_data_uri("image/jpeg", encode_jpeg(image, 88))}" alt="face">'
            for image in images
        )
        shown.append(
            f'<figure class="pair">{faces}<figcaption>{escape(caption)}</figcaption></figure>'
        )
    return f'<h3>{escape(item.title)}</h3><div class="pairs">{"".join(shown)}</div>'


def _items(items: Sequence[Item]) -> str:
    """Items in order; figures that follow each other share a grid."""
    parts, figures = [], []
    for item in (*items, None):
        if isinstance(item, FigureItem):
            figures.append(_figure(item))
            continue
        if figures:
            parts.append(f'<div class="figures">{"".join(figures)}</div>')
            figures = []
        if item is not None:
            parts.append(_table(item) if isinstance(item, TableItem) else _pairs(item))
    return '\n'.join(parts)


def page(title: str, subtitle: str, sections: Sequence[Section]) -> str:
    """The whole page: one file that needs no other, no script and no network."""
    links = ''.join(
        f'<a href="#s{number}">{escape(section.title)}</a>'
        for number, section in enumerate(sections)
    )
    body = '\n'.join(
        f'<section id="s{number}"><h2>{escape(section.title)}</h2>'
        + (f'<p>{escape(section.text)}</p>' if section.text else '')
        + f'{_items(section.items)}</section>'
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
<header><h1>{escape(title)}</h1><p>{escape(subtitle)}</p><nav>{links}</nav></header>
<main>
{body}
</main>
<footer>Made by vargfacenet report.</footer>
</body>
</html>
"""


def markdown(item: TableItem) -> str:
    """The table in Markdown."""
    lines = [item.columns, ['---', *['---:'] * (len(item.columns) - 1)], *item.rows]
    return ''.join(
        '| ' + ' | '.join(str(cell).replace('|', '\\|') for cell in line) + ' |\n' for line in lines
    )


def write_files(folder: Path, sections: Sequence[Section]) -> list[Path]:
    """Figures as .svg and .png, tables as .csv and .md, in an existing folder: the paths."""
    written = []
    for item in (item for section in sections for item in section.items):
        if isinstance(item, FigureItem):
            atomic_write(folder / f'{item.name}.svg', svg(item.figure))
            with atomic_path(folder / f'{item.name}.png') as temporary:
                item.figure.savefig(temporary, dpi=200)
            written += [folder / f'{item.name}.svg', folder / f'{item.name}.png']
        elif isinstance(item, TableItem):
            text = io.StringIO()
            csv.writer(text, lineterminator='\n').writerows([item.columns, *item.rows])
            atomic_write(folder / f'{item.name}.csv', text.getvalue())
            atomic_write(folder / f'{item.name}.md', markdown(item))
            written += [folder / f'{item.name}.csv', folder / f'{item.name}.md']
    return written
