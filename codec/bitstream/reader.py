"""Reading a file of codes chunk by chunk, damaged ones too."""

from collections.abc import Iterator
from dataclasses import replace
from typing import BinaryIO

from codec.bitstream import version_1, version_2
from codec.bitstream.block import find_block
from codec.bitstream.cursor import BitstreamError
from codec.bitstream.opening import read_opening
from codec.bitstream.order import Gap, Order
from codec.bitstream.packing import ChunkCoder, Packed
from codec.bitstream.piece import Piece, chunk_name
from codec.bitstream.repair import MAX_SIZE, repair_header
from codec.bitstream.scan import find_chunk, find_end, scan
from codec.bitstream.stream import Chunk, Header, check_fit
from codec.bitstream.version_2 import limits
from codec.bitstream.window import Window


class StreamReader:
    """A file of codes, of any version, read as far as it is asked for.

    Memory is that of a few chunks, whatever the bytes claim. Time is in proportion to the bytes, except for chunks that
    are entropy-coded: some bytes may stand for 2 ** 16 codes.

    Args:
        file: Any binary file, also a pipe. The stream begins where it stands; nobody else may move it meanwhile.
        coder: What turns bytes to codes, if they are entropy-coded; can be given later, see `use`.
        conceal: Go on after damage, and tell which frames are lost, rather than to raise the first problem.

    Attributes:
        header: What stands at the start of the file; if that is damaged, its copy, or what it was before one byte of it
            was.
        version: Of the file format.
        length: Samples per channel. None: not known before the end of this live stream has been read.
        num_frames: Frames per channel. None: as `length`.
        seekable: Whether `chunks` can begin anywhere without reading what is before, and more than once.
        problems: What was wrong so far, but cost no frames; the first hundred.
        payload_bytes: Of the codes of all whole chunks so far.

    Raises:
        BitstreamError: This is no file of codes; or its header is damaged and cannot be repaired, or says what `coder`
            cannot be.
        ValueError: `coder` is not the one that the header names.
    """

    def __init__(self, file: BinaryIO, coder: ChunkCoder | None = None, *, conceal: bool = False) -> None:
        self.problems: list[str] = []
        self.payload_bytes = 0
        self._conceal = conceal
        self._window = Window(file)
        self.seekable = self._window.seekable
        self.version, self.header = self._open()
        self._first_byte = self._window.position
        self._touched = False
        self.length, self.num_frames = self.header.length, self.header.num_frames
        if self.seekable and None in (self.length, self.num_frames):
            end = find_end(self._window, self.header)
            if end is not None:
                self.length, self.num_frames = end.length, end.num_frames
            self._window.seek(self._first_byte)
        self._packed = Packed(self.header.bits)
        self._coder: ChunkCoder | None = self._packed if self.header.entropy is None else None
        if coder is not None:
            self.use(coder)

    def use(self, coder: ChunkCoder) -> None:
        """Say what turns bytes to codes; a file of packed codes does not need it.

        Raises:
            ValueError: The codes are coded with other tables.
            BitstreamError: The header says what codes of these tables cannot be.
        """
        if self.header.entropy is None:
            return
        if coder.fingerprint != self.header.entropy:
            raise ValueError(f"entropy tables must be {self.header.entropy}; got {coder.fingerprint}")
        try:
            check_fit(coder, self.header)
        except ValueError as error:
            raise BitstreamError(0, f"header is wrong: {error}") from error
        self._coder = coder

    def chunks(self, first_frame: int = 0) -> Iterator[Chunk]:
        """Read chunks up to the end.

        Args:
            first_frame: The first chunk is the one that holds it. A file that can seek is not read before there, as
                long as its index is whole.

        Returns:
            Chunks in order and without a gap, as they are asked for. Only with `conceal` are there some without codes:
            those that are lost, of which one may stand for many frames. No more are told to be lost than 2 ** 20, and
            as many as are there: a chunk that comes later counts as damage, and the tail is left out.

        Raises:
            BitstreamError: The first problem, without `conceal`.
            ValueError: `first_frame` is negative.
            RuntimeError: The codes are entropy-coded, and `use` was not called; or a pipe is read again.
        """
        if first_frame < 0:
            raise ValueError(f"first_frame must not be negative; got {first_frame}")
        if self._coder is None:
            raise RuntimeError("the codes are entropy-coded: call `use` with the tables of their model first")
        if self._touched and not self.seekable:
            raise RuntimeError("a pipe cannot be read again")
        self._touched = True
        return self._chunks(first_frame // self.header.frames_per_chunk, self._coder)

    def _chunks(self, number: int, coder: ChunkCoder) -> Iterator[Chunk]:
        first = self._move_near(number)
        header = replace(self.header, length=self.length, num_frames=self.num_frames)
        order = Order(header, first, self._conceal, self.problems)
        scan_version = version_1.scan if self.version == version_1.NUMBER else scan
        for piece in scan_version(self._window, header, order, first):
            for given in order.add(piece):
                yield from self._decode(given, number, coder)
            self.length, self.num_frames = order.header.length, order.header.num_frames
        for given in order.finish():
            yield from self._decode(given, number, coder)

    def _decode(self, given: Piece | Gap, number: int, coder: ChunkCoder) -> Iterator[Chunk]:
        """The chunk of what is given, unless it is before the one of that number."""
        size, channels, num_quantizers = self.header.frames_per_chunk, self.header.channels, self.header.num_quantizers
        if isinstance(given, Gap):
            start, end = max(given.first, number) * size, given.end * size
            end = end if self.num_frames is None else min(end, self.num_frames)
            if start < end:
                yield Chunk(start, end - start, None, given.problem)
        elif given.number >= number:
            try:
                chunk_coder = self._packed if given.packed else coder
                codes = chunk_coder.decode(given.payload, channels, num_quantizers, given.frames)
            except ValueError as error:
                wrong = BitstreamError(given.position, f"{chunk_name(self.header, given.number)} is wrong: {error}")
                if not self._conceal:
                    raise wrong from error
                yield Chunk(given.number * size, given.frames, None, str(wrong))
            else:
                self.payload_bytes += len(given.payload)
                yield Chunk(given.number * size, given.frames, codes)

    def _move_near(self, number: int) -> int:
        """Move to a chunk, or to the first one if it is not known where that is; the number of where the window is."""
        if not self.seekable:
            return 0
        if self.version == version_1.NUMBER:
            first, position = version_1.find_chunk(self.header, number)
            self._window.seek(min(self._first_byte + position, self._window.size()))
            return first
        return find_chunk(self._window, self.header, self._first_byte, number, conceal=self._conceal)

    def _open(self) -> tuple[int, Header]:
        """Read version and header, or what can be had of it, and move to the first chunk."""
        try:
            return read_opening(self._window)
        except BitstreamError as error:
            if not self._conceal:
                raise
            if (end := find_end(self._window, None) if self.seekable else None) is not None and end.header is not None:
                self.problems.append(f"{error}; its copy at the end was used")
                self._window.seek(0)
                find_block(self._window, limits(end.header))
                return version_2.NUMBER, end.header
            if self.seekable:
                self._window.seek(0)
            if (repaired := repair_header(self._window.peek(MAX_SIZE))) is not None:
                self.problems.append(f"{error}; byte {repaired.place} of it was repaired")
                self._window.skip(repaired.size)
                return repaired.version, repaired.header
            message = f"{error.message}; no change of one byte repairs it, and there is no copy of it at the end"
            raise BitstreamError(error.position, message) from error
