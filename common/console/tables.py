"""Tables on stderr, as wide as they can be read."""

import textwrap
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from .streams import shown, stderr_console

if TYPE_CHECKING:
    from rich.table import Table

_WIDEST = 10_000  # characters; a table is measured as if the terminal had so many


def table(
    title: str, columns: Sequence[str], rows: Iterable[Sequence[Any]], prose: bool = False
) -> None:
    """Print a table on stderr; the first column is text, the others are numbers, right-aligned, or
    with `prose` text as well."""
    from rich.measure import Measurement
    from rich.table import Table
    from rich.text import Text

    # as Text: rich would take what stands in [brackets] in a name or path for its markup
    rows = [[_line(str(cell)) for cell in row] for row in rows]
    columns = [_line(column) for column in columns]  # names of runs may be among them
    console = stderr_console()
    room = console.options.update(max_width=_WIDEST)
    for headers in (columns, _narrow(columns, rows)):
        output = Table()
        for index, header in enumerate(headers):
            justify = 'left' if index == 0 or prose else 'right'
            output.add_column(Text(header), justify=justify, overflow='fold')
        for row in rows:
            output.add_row(*map(Text, row))
        fits = Measurement.get(console, room, output).maximum <= console.width
        if fits:
            break
    console.print(Text(_line(title), 'bold'))  # not as the table's, to which it would be broken
    console.print(output if fits or len(columns) < 3 else _records(columns, rows))


def _line(text: str) -> str:
    """A text as people may see it, on one line: a file's name may hold a line's end."""
    return shown(text).replace('\n', '\\n')


def _narrow(columns: Sequence[str], rows: Sequence[Sequence[str]]) -> list[str]:
    """Headers broken between words, to be no wider than the cells below them."""
    widest = [max(map(len, cells), default=1) for cells in zip(*rows)] or [1] * len(columns)
    return [
        '\n'.join(textwrap.wrap(header, max(width, 1), break_long_words=False) or [''])
        for header, width in zip(columns, widest)
    ]


def _records(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> 'Table':
    """A table too wide for the terminal, as a block of lines for each row; empty cells are left
    out. Columns of three letters could not be read."""
    from rich.table import Table
    from rich.text import Text

    output = Table(show_header=False)
    output.add_column(overflow='fold')
    output.add_column(overflow='fold')
    for row in rows:
        for number, (column, cell) in enumerate(zip(columns, row)):
            if cell or not number:
                output.add_row(Text(column), Text(cell, 'bold' if number == 0 else ''))
        output.add_section()
    return output
