"""Finding the chunks and the end block of a file of version 2, whatever happened to it."""

from array import array
from collections.abc import Callable, Iterator

from codec.bitstream.cursor import BitstreamError
from codec.bitstream.frame import CHUNK, END, find_frame, read_frame
from codec.bitstream.piece import Piece, chunk_name
from codec.bitstream.stream import Header
from codec.bitstream.version_2 import (
    CLOSING,
    CLOSING_MAGIC,
    MAX_END,
    MAX_INDEX,
    End,
    limits,
    read_chunk,
    read_end,
)
from codec.bitstream.window import Window

Report = Callable[[BitstreamError], None]


def scan(window: Window, header: Header, report: Report, first: int) -> Iterator[Piece | End]:
    """Read chunks to the end of the file, in the order in which they stand there.

    Args:
        window: Stands where chunk `first` should begin.
        header: Of the file.
        report: Is told what is wrong, and raises it if nothing behind it is wanted.
        first: Number of a chunk.
    """
    number, sizes, seen, whole = first, limits(header), array("Q"), first == 0
    while True:
        try:
            found = read_frame(window, sizes, chunk_name(header, number))
            piece = read_end(found, header) if found.kind == END else read_chunk(found)
        except BitstreamError as error:
            report(error)
            whole = False
            if not find_frame(window, sizes):
                return
            continue
        window.skip(found.size)
        yield piece
        if isinstance(piece, End):
            if whole and piece.sizes != seen:
                report(BitstreamError(found.position, "the index must have the sizes of the chunks; got others"))
            _check_closing(window, found.size, report)
            return
        number = piece.number + 1
        if len(seen) < MAX_INDEX:
            seen.append(found.size)


def find_end(window: Window, header: Header | None) -> End | None:
    """Read the end block of a file that can seek; the window has to be moved afterwards.

    Args:
        window: Of the whole file.
        header: None: damaged, so that its copy is needed.

    Returns:
        None if the end block is missing or damaged, or has no copy of a header that is needed.
    """
    closing = window.size() - CLOSING.size
    if closing < 0:
        return None
    window.seek(closing)
    size, magic = CLOSING.unpack(window.peek(CLOSING.size))
    if magic != CLOSING_MAGIC or size > closing:
        return None
    window.seek(closing - size)
    try:
        found = read_frame(window, {END: MAX_END}, "end block")
        return read_end(found, header) if found.size == size else None
    except BitstreamError:
        return None


def stands_here(window: Window, header: Header, number: int) -> bool:
    """Whether a whole chunk of that number stands where the window is."""
    try:
        found = read_frame(window, limits(header), chunk_name(header, number))
        return found.kind == CHUNK and read_chunk(found).number == number
    except BitstreamError:
        return False


def _check_closing(window: Window, block_size: int, report: Report) -> None:
    closing = CLOSING.pack(block_size, CLOSING_MAGIC)
    there = window.peek(len(closing) + 1)
    if len(there) < len(closing):
        message = "truncated: the file ends in what follows the end block; all chunks are whole"
        report(BitstreamError(window.position, message))
    elif there[: len(closing)] != closing:
        report(BitstreamError(window.position, f"the end block must be followed by {closing.hex()}; got {there.hex()}"))
    elif there != closing:
        report(BitstreamError(window.position + len(closing), "the file must end here; got more bytes"))
