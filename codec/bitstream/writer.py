"""Writing a file of codes while they come."""

import os
from array import array
from dataclasses import replace
from typing import BinaryIO

import numpy as np
from numpy.typing import NDArray

from codec.bitstream import version_2
from codec.bitstream.block import CHUNK, PACKED_CHUNK
from codec.bitstream.packing import ChunkCoder, Packed, packed_size
from codec.bitstream.stream import Header, check_fit


class StreamWriter:
    """A file of codes that grows with every chunk.

    The header is written at once, every chunk as soon as it is whole, and both are flushed, so that whoever reads from
    the other end of a pipe has them. Nothing is closed but the stream: the file stays open.

    Args:
        file: Any binary file, also a pipe. The stream begins where it stands.
        header: What `header.length` and `header.num_frames` say must come true; None: not known yet.
        coder: What turns chunks to bytes, except for those that take fewer if they are packed. Default: `Packed`.

    Attributes:
        num_bytes: Written so far.
        num_frames: Given to `write` so far.

    Raises:
        ValueError: `coder` is not the one that `header.entropy` names, or does not fit the header.
    """

    def __init__(self, file: BinaryIO, header: Header, coder: ChunkCoder | None = None) -> None:
        self.num_bytes = 0
        self.num_frames = 0
        self._file = file
        self._header = header
        self._packed = Packed(header.bits)
        self._coder = coder or self._packed
        if self._coder.fingerprint != header.entropy:
            raise ValueError(f"coder must be the one of the header, {header.entropy}; got {self._coder.fingerprint}")
        check_fit(self._coder, header)
        self._waiting = np.empty((header.channels, header.num_quantizers, header.frames_in(0)), dtype=np.int64)
        self._num_waiting = 0
        self._sizes = array("Q")
        self._closed = False
        self._origin = file.tell() if _can_rewrite(file) else None
        self._put(version_2.write_header(header))
        self._file.flush()

    def write(self, codes: NDArray[np.integer]) -> None:
        """Add frames.

        Args:
            codes: Integers in [0, 2 ** bits), [channels, num_quantizers, frames], any number of frames.

        Raises:
            ValueError: The shape is another one, there are more frames than the header says, or the coder cannot
                write a code.
            RuntimeError: The stream is closed.
        """
        self._check_open()
        channels, num_quantizers, longest = self._waiting.shape
        if codes.ndim != 3 or codes.shape[:2] != (channels, num_quantizers):
            raise ValueError(f"codes must have the shape ({channels}, {num_quantizers}, frames); got {codes.shape}")
        if codes.dtype.kind not in "iu":
            raise ValueError(f"codes must be integers; got {codes.dtype}")
        if self._header.num_frames is not None and self.num_frames + codes.shape[2] > self._header.num_frames:
            raise ValueError(f"there must be {self._header.num_frames} frames; got more")
        self.num_frames += codes.shape[2]
        while codes.shape[2]:
            fitting = codes[:, :, : longest - self._num_waiting]
            self._waiting[:, :, self._num_waiting : self._num_waiting + fitting.shape[2]] = fitting
            self._num_waiting += fitting.shape[2]
            codes = codes[:, :, fitting.shape[2] :]
            if self._num_waiting == self._header.frames_per_chunk:
                self._put_chunk()

    def close(self, length: int) -> None:
        """End the stream: write what waits and the end block, and complete the header if the file can seek.

        Args:
            length: Samples per channel of the original audio, at least 1.

        Raises:
            ValueError: There are no frames, or others than the header says, or another length.
            RuntimeError: The stream is closed already.
        """
        self._check_open()
        for name, value in (("length", length), ("num_frames", self.num_frames)):
            if getattr(self._header, name) not in (None, value):
                raise ValueError(f"{name} must be {getattr(self._header, name)} as the header says; got {value}")
        header = replace(self._header, length=length, num_frames=self.num_frames)
        if self._num_waiting:
            self._put_chunk()
        self._put(version_2.write_end(header, self._sizes))
        if self._origin is not None and header != self._header:
            end = self._file.tell()
            self._file.seek(self._origin)
            self._write(version_2.write_header(header))
            self._file.seek(end)
        self._file.flush()
        self._closed = True

    def _put_chunk(self) -> None:
        frames = self._num_waiting
        codes, kind = self._waiting[:, :, :frames], CHUNK
        payload = self._coder.encode(codes)
        if len(payload) > packed_size(self._header.bits, codes.size):
            payload, kind = self._packed.encode(codes), PACKED_CHUNK
        chunk = version_2.write_chunk(len(self._sizes), frames, payload, kind=kind)
        self._sizes.append(len(chunk))
        self._num_waiting = 0
        self._put(chunk)
        self._file.flush()

    def _put(self, data: bytes) -> None:
        self._write(data)
        self.num_bytes += len(data)

    def _write(self, data: bytes) -> None:
        rest = memoryview(data)
        while rest:  # a raw file may take a part only
            rest = rest[self._file.write(rest) :]

    def _check_open(self) -> None:
        if self._closed:
            raise RuntimeError("the stream is closed: nothing can be added")


def _can_rewrite(file: BinaryIO) -> bool:
    """Whether bytes at the start can be changed later: a file opened for appending seeks, but writes to its end."""
    if not file.seekable():
        return False
    try:
        import fcntl

        return not fcntl.fcntl(file.fileno(), fcntl.F_GETFL) & os.O_APPEND
    except (ImportError, OSError):  # not on Windows, and not for bytes in memory
        return True
