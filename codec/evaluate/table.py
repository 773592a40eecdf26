"""Tables for documents and for terminals."""

from collections.abc import Iterable, Sequence

from rich.box import SIMPLE_HEAD
from rich.table import Table


def markdown_table(headings: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    """Lay cells out as a Markdown table, its columns as wide as they need to be, right-aligned."""
    lines = [tuple(headings), *map(tuple, rows)]
    widths = [max(2, *map(len, column)) for column in zip(*lines, strict=True)]
    ruler = tuple("-" * (width - 1) + ":" for width in widths)
    return "\n".join(
        "| " + " | ".join(cell.rjust(width) for cell, width in zip(line, widths, strict=True)) + " |"
        for line in (lines[0], ruler, *lines[1:])
    )


def rich_table(headings: Sequence[str], rows: Iterable[Sequence[str]], title: str | None = None) -> Table:
    """Lay cells out for `rich.print`, right-aligned but for the first column, which is never broken."""
    table = Table(title=title, box=SIMPLE_HEAD)
    for column, heading in enumerate(headings):
        table.add_column(heading, justify="right" if column else "left", no_wrap=not column)
    for row in rows:
        table.add_row(*row)
    return table
