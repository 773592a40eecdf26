"""Putting the chunks of a file in their order, each once, and telling where some are lost."""

from collections.abc import Iterator
from dataclasses import replace
from typing import NamedTuple

from codec.bitstream.cursor import BitstreamError
from codec.bitstream.piece import Piece, chunk_name
from codec.bitstream.stream import Header
from codec.bitstream.version_2 import MAX_CHUNKS, End

# Chunks that are kept when one is missing without a damaged place that it can have stood in: it may come later.
MAX_WAITING = 4
MAX_PROBLEMS = 100
# A gap costs a file no bytes, but whoever plays or stores what it stands for pays for it. So no more frames are told to
# be lost than these (almost 6 hours of 50 frames a second) and those that are there.
MAX_LOST = 1 << 20


class Gap(NamedTuple):
    """Chunks that are not there, from number `first` to before number `end`."""

    first: int
    end: int
    problem: str


class Order:
    """The order of the chunks of a file.

    Args:
        header: Of the file.
        first: Number of the chunk that comes first.
        conceal: Go on after problems; otherwise the first one is raised.
        problems: Those that cost no frames are added.

    Attributes:
        header: With the length, once it is known.
    """

    def __init__(self, header: Header, first: int, conceal: bool, problems: list[str]) -> None:
        self.header = header
        self._next = first
        self._due = first
        self._conceal = conceal
        self._problems = problems
        self._allowed = MAX_LOST
        self._waiting: dict[int, Piece] = {}
        # Damaged places, by the number of the chunk that was due there.
        self._causes: dict[int, str] = {}

    @property
    def complete(self) -> bool:
        """Whether all chunks of the stream were given, and it is known that there are no more."""
        return self._next == self.header.num_chunks

    def report(self, error: BitstreamError) -> None:
        """Note that the bytes behind the chunk that was added last are damaged.

        Raises:
            BitstreamError: It is not to be concealed.
        """
        if not self._conceal:
            raise error
        if self._due in self._causes:
            self._note(str(error))
        else:
            self._causes[self._due] = str(error)

    def add(self, piece: Piece | End) -> Iterator[Piece | Gap]:
        """Take what stands next in the file; return what follows from it.

        Raises:
            BitstreamError: It must not stand there, and that is not to be concealed.
        """
        wrong = self._end(piece) if isinstance(piece, End) else self._wait(piece)
        if wrong:
            if not self._conceal:
                raise BitstreamError(piece.position, wrong)
            self._note(f"byte {piece.position}: {wrong}")
        while self._next in self._waiting or self._next in self._causes or len(self._waiting) > MAX_WAITING:
            if not self._waiting:
                return
            yield self._give()

    def finish(self) -> Iterator[Piece | Gap]:
        """Return what is left when nothing more stands in the file."""
        while self._waiting:
            yield self._give()
        if self.header.num_chunks is not None and self._next < self.header.num_chunks:
            end = min(self.header.num_chunks, self._next + self._allowed // self.header.frames_per_chunk)
            if end > self._next:
                yield self._lose(end)
            if end < self.header.num_chunks:
                self._note(
                    f"{chunk_name(self.header, end)} and all behind it are lost too, and left out: they are too many"
                )
        for cause in self._causes.values():
            self._note(cause)

    def _wait(self, piece: Piece) -> str | None:
        """Keep a chunk until it is given; what is wrong with it, if it is not kept."""
        header, number = self.header, piece.number
        if number < self._next or number in self._waiting:
            return f"{self._due_name()} must come here; got chunk {number}, which was there already, or comes too late"
        if number > self._next and not self._conceal:
            return f"{self._due_name()} must come here; got chunk {number}"
        if (number - self._next) * header.frames_per_chunk > self._allowed:
            return f"{self._due_name()} must come here; got chunk {number}, which is too far ahead"
        frames = header.frames_in(number) if number < MAX_CHUNKS else 0
        is_last = header.num_frames is None and all(other < number for other in self._waiting)
        if not 0 < piece.frames <= frames or not (piece.frames == frames or is_last):
            return f"{chunk_name(header, number)} must have {frames} frames; got {piece.frames}"
        if piece.frames < frames:
            self.header = replace(header, num_frames=number * header.frames_per_chunk + piece.frames)
        self._waiting[number] = piece
        self._due = number + 1
        return None

    def _end(self, end: End) -> str | None:
        """Learn where the stream ends; what is wrong with that, if anything."""
        header = self.header
        if header.num_frames not in (None, end.num_frames) or header.length not in (None, end.length):
            said = f"{header.num_frames} frames and {header.length} samples"
            return f"end block must say {said} as the rest of the file; got {end.num_frames} and {end.length}"
        whole = replace(header, num_frames=end.num_frames, length=end.length)
        assert whole.num_chunks is not None
        if self._next > whole.num_chunks or any(number >= whole.num_chunks for number in self._waiting):
            return f"end block must count the chunks before it; got {whole.num_chunks}"
        if self._next < whole.num_chunks and not self._conceal:
            return f"{self._due_name()} must come here; got the end block"
        self.header = whole
        return None

    def _give(self) -> Piece | Gap:
        """Give the next chunk, or those that are lost before the next that there is."""
        if self._next not in self._waiting:
            return self._lose(min(self._waiting))
        piece = self._waiting.pop(self._next)
        self._next += 1
        self._allowed += piece.frames
        for number in [number for number in self._causes if number < self._next]:
            self._note(self._causes.pop(number))
        return piece

    def _lose(self, end: int) -> Gap:
        causes = [self._causes.pop(number) for number in sorted(self._causes) if number < end]
        first, self._next = self._next, end
        self._allowed -= (end - first) * self.header.frames_per_chunk
        where = f"byte {self._waiting[end].position}: " if end in self._waiting else ""
        return Gap(first, end, "; ".join(causes) or f"{where}{chunk_name(self.header, first)} is missing")

    def _due_name(self) -> str:
        return chunk_name(self.header, self._next)

    def _note(self, problem: str) -> None:
        if len(self._problems) < MAX_PROBLEMS:
            self._problems.append(problem)
        elif len(self._problems) == MAX_PROBLEMS:
            self._problems.append("and more")
