"""Audio block by block into WAV files and pipes, or as raw samples."""

import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from io import FileIO

from torch import Tensor

from codec.audio.raw import RawFormat
from codec.audio.sound import MAX_CHANNELS, AudioFileError, audio_errors, is_regular, name_of
from codec.audio.wav import LONG_HEADER_BYTES, wav_header

# What the header of a WAV file has room for.
MAX_BYTES_PER_SECOND = (1 << 32) - 1


class AudioSink:
    """Audio that is written from its beginning to its end: made by `open_sink`.

    Args:
        name: For messages.
        file: Unbuffered: each write goes out at once.
        format: Of the samples.
        length: Samples that will come, if known.
    """

    def __init__(self, name: str, file: FileIO, format: RawFormat, length: int | None):
        self.name = name
        self.format = format
        self.length = length
        self.written = 0
        self._file = file

    def write(self, waveform: Tensor) -> None:
        """Write what comes next: samples outside of [-1, 1] are clipped.

        Args:
            waveform: Finite floats, [channels, n]; n may be 0.

        Raises:
            ValueError: `waveform` has other axes or another number of channels, has NaN or infinite samples, or goes on
                beyond the length that was to come.
            AudioFileError: The samples cannot be written: the disk is full.
            BrokenPipeError: Whoever read the pipe has gone: as it comes, since that is often meant so.
        """
        data = self.format.encode(waveform)
        written = self.written + waveform.shape[1]
        if self.length is not None and written > self.length:
            raise ValueError(f"waveform must end after {self.length} samples; got {written}")
        _write(self.name, self._file, data)
        self.written = written


@contextmanager
def open_sink(
    path: str | os.PathLike[str] | int,
    sample_rate: int,
    channels: int,
    *,
    length: int | None = None,
    raw: RawFormat | None = None,
) -> Iterator[AudioSink]:
    """Open a file or pipe for audio: 16-bit WAV, whatever the extension, or RF64 beyond 4 GiB.

    Args:
        path: The file, which is replaced if it exists; or a descriptor open for writing, which stays open: 1 is
            standard output.
        sample_rate: Hz.
        channels: How many.
        length: Samples of each channel that will come. None: not known. The header of a file is corrected at the end;
            that of a pipe or a descriptor cannot be, and says with sizes of 0xFFFFFFFF that they are not known.
        raw: Write samples of this encoding, and no header.

    Raises:
        ValueError: `raw` is of another rate or number of channels.
        AudioFileError: The file cannot be opened or written, or there is no WAV file of such a rate or so many
            channels. Writing into the sink raises it too, but nothing else that goes on in the block does.
        BrokenPipeError: As in `AudioSink.write`.
    """
    name = name_of(path)
    if raw is not None and (raw.sample_rate, raw.channels) != (sample_rate, channels):
        raise ValueError(f"raw format must be of {channels} channels at {sample_rate} Hz, as the audio is; got {raw}")
    format = RawFormat(sample_rate, channels, "s16") if raw is None else raw
    if not (1 <= channels <= MAX_CHANNELS and 1 <= sample_rate * format.frame_bytes <= MAX_BYTES_PER_SECOND):
        raise AudioFileError(f"{name}: not writable (no {channels} channels at {sample_rate} Hz)")
    with ExitStack() as stack:
        with audio_errors(name):
            file = stack.enter_context(FileIO(path, "w", closefd=not isinstance(path, int)))
        # Only what was opened here begins with this header: a descriptor may stand behind other bytes.
        can_seek = not isinstance(path, int) and is_regular(file.fileno())
        header = b"" if raw else wav_header(sample_rate, channels, length, long=length is None and can_seek)
        _write(name, file, header)
        sink = AudioSink(name, file, format, length)
        yield sink
        if header and can_seek and sink.written != length:
            file.seek(0)
            long = len(header) == LONG_HEADER_BYTES
            _write(name, file, wav_header(sample_rate, channels, sink.written, long=long))
        with _writing(name):
            file.close()  # what a network file system could not write is reported only here


def _write(name: str, file: FileIO, data: bytes) -> None:
    rest = memoryview(data)
    with _writing(name):
        # A write may take a part only: a disk's last bytes, and then the next one says that it is full.
        while len(rest):
            rest = rest[os.write(file.fileno(), rest) :]


@contextmanager
def _writing(name: str) -> Iterator[None]:
    try:
        yield
    except BrokenPipeError:
        raise
    except OSError as error:
        raise AudioFileError(f"{name}: not writable ({error.strerror})") from error
