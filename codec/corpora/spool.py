"""What cells of an audio column hold, in any order, of tables that can only be read group by group."""

import os
import tempfile
import weakref
from collections import OrderedDict
from collections.abc import Callable, Hashable, Iterable, Mapping
from typing import IO, Any, NamedTuple

# More groups than that are so small that reading one again costs little.
MAX_GROUPS = 64


class _Group(NamedTuple):
    """The bytes of its cells one after the other; and of each cell where they begin and end, and its path."""

    file: IO[bytes]
    cells: list[tuple[tuple[int, int] | None, str | None] | None]


class Spool:
    """Groups in temporary files without names: those that were read last, and always the last one.

    Args:
        limit: On their bytes, of all groups.
    """

    def __init__(self, limit: int):
        self.limit = limit
        self._groups: OrderedDict[Hashable, _Group] = OrderedDict()
        weakref.finalize(self, _close, self._groups)

    def read(self, group: Hashable, row: int, cells: Callable[[], Iterable[Any]]) -> Any:
        """Read a cell.

        Args:
            group: What its group is known by.
            row: In the group.
            cells: Gives all cells of the group in order, each a mapping of bytes and path, or None. It is asked only if
                they are not here.

        Raises:
            OSError: There is no room for temporary files.
        """
        if group not in self._groups:
            self._groups[group] = _copy(cells())
            self._forget()
        self._groups.move_to_end(group)
        file, copied = self._groups[group]
        if (cell := copied[row]) is None:
            return None
        span, path = cell
        # Not by seeking: processes that were forked share where a file stands.
        data = None if span is None else os.pread(file.fileno(), span[1] - span[0], span[0])
        return {"bytes": data, "path": path}

    def _forget(self) -> None:
        while len(self._groups) > 1 and (len(self._groups) > MAX_GROUPS or self._size() > self.limit):
            self._groups.popitem(last=False)[1].file.close()

    def _size(self) -> int:
        return sum(os.fstat(group.file.fileno()).st_size for group in self._groups.values())


def _close(groups: Mapping[Hashable, _Group]) -> None:
    for group in groups.values():
        group.file.close()


def _copy(cells: Iterable[Any]) -> _Group:
    group = _Group(tempfile.TemporaryFile(), [])  # noqa: SIM115 (it is closed when it is forgotten)
    try:
        for cell in cells:
            if cell is None:
                group.cells.append(None)
                continue
            span = None
            if cell["bytes"] is not None:
                start = group.file.tell()
                group.file.write(cell["bytes"])
                span = start, group.file.tell()
            group.cells.append((span, cell["path"]))
        group.file.flush()
    except BaseException:
        group.file.close()
        raise
    return group
