"""Tables of plain text: unlike those of rich, never broken where the terminal is narrow, nor in a pipe."""

from collections.abc import Sequence


def align(lines: Sequence[Sequence[str]], *, left: int) -> str:
    """Lay lines of cells out in columns, as wide as they need to be.

    Args:
        lines: Of as many cells each.
        left: How many first columns are aligned to the left; the others are to the right.
    """
    widths = [max(map(len, column)) for column in zip(*lines, strict=True)]
    aligned = [
        [cell.ljust(width) if index < left else cell.rjust(width) for index, (cell, width) in enumerate(pairs)]
        for pairs in (list(zip(line, widths, strict=True)) for line in lines)
    ]
    return "\n".join("  ".join(cells).rstrip() for cells in aligned)
