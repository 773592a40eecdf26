"""Finding the chunks and the end block of a file of version 2, whatever happened to it."""

from array import array
from collections.abc import Iterator

from codec.bitstream.block import END, END_NAME, find_block, read_block
from codec.bitstream.cursor import BitstreamError
from codec.bitstream.order import Order
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
    read_index,
    write_index,
)
from codec.bitstream.window import Window


def scan(window: Window, header: Header, order: Order, first: int) -> Iterator[Piece | End]:
    """Read chunks to the end of the file, in the order in which they stand there.

    Args:
        window: Stands where chunk `first` should begin.
        header: Of the file.
        order: Is told what is wrong, and tells whether any chunk is missing behind the end block.
        first: Number of a chunk.
    """
    number, sizes, seen, whole = first, limits(header), array("Q"), first == 0
    while True:
        try:
            found = read_block(window, sizes, chunk_name(header, number))
        except BitstreamError as error:
            order.report(error)
            whole = False
            if not find_block(window, sizes):
                return
            continue
        # Whatever is in it: nobody looks for a block inside of one whose checksum fits.
        window.skip(found.size)
        try:
            piece = read_end(found, header) if found.kind == END else read_chunk(found, header)
        except BitstreamError as error:
            order.report(error)
            whole = False
            continue
        yield piece
        if isinstance(piece, Piece):
            whole = whole and piece.number == number
            number = piece.number + 1
            if len(seen) < MAX_INDEX:
                seen.append(found.size)
            continue
        if whole and order.complete and piece.coded_sizes != write_index(seen):
            order.report(BitstreamError(found.position, "the index must have the sizes of the chunks; got others"))
        _check_closing(window, found.size, order)
        if order.complete or not window.peek(1):
            return
        whole = False


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
        found = read_block(window, {END: MAX_END}, END_NAME)
        return read_end(found, header) if found.size == size else None
    except BitstreamError:
        return None


def find_chunk(window: Window, header: Header, first_byte: int, number: int, *, conceal: bool) -> int:
    """Move to a chunk through the index, or to the first chunk if that does not lead there.

    Args:
        window: Of the whole file.
        header: Of the file.
        first_byte: Position of the first chunk.
        number: Of the chunk.
        conceal: Of a damaged chunk, begin with the first one, since it may stand elsewhere.

    Returns:
        Number of the chunk; that of the last one in the index if there are not so many.
    """
    end = find_end(window, header) if number else None
    if end is not None:
        try:
            sizes = read_index(end)
        except BitstreamError:
            sizes = array("Q")
        last = min(number, len(sizes) - 1)
        window.seek(min(first_byte + sum(sizes[: max(0, last)]), end.position))
        in_place = first_byte + sum(sizes) == end.position and not conceal
        if last > 0 and (in_place or _stands_here(window, header, last)):
            return last
    window.seek(first_byte)
    return 0


def _stands_here(window: Window, header: Header, number: int) -> bool:
    """Whether a whole chunk of that number stands where the window is."""
    try:
        found = read_block(window, limits(header), chunk_name(header, number))
        return found.kind != END and read_chunk(found, header).number == number
    except BitstreamError:
        return False


def _check_closing(window: Window, block_size: int, order: Order) -> None:
    """Move over what must follow the end block, and report anything else."""
    closing = CLOSING.pack(block_size, CLOSING_MAGIC)
    there = window.peek(len(closing) + 1)
    if there[: len(closing)] == closing:
        window.skip(len(closing))
        if len(there) > len(closing):
            order.report(BitstreamError(window.position, "the file must end here; got more bytes"))
    elif len(there) < len(closing):
        message = "truncated: the file ends in what follows the end block; all chunks are whole"
        order.report(BitstreamError(window.position, message))
    else:
        message = f"the end block must be followed by {closing.hex()}; got {there.hex()}"
        order.report(BitstreamError(window.position, message))
