"""Audio block by block, from files and from pipes: never all of it in memory."""

import math
import os
import re
import tempfile
from collections.abc import Callable, Iterator
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass, field
from functools import partial
from io import BytesIO, FileIO

import soundfile
import torch
from torch import Tensor

from codec.audio.raw import RawFormat
from codec.audio.sound import (
    UNKNOWN_LENGTH,
    AudioFileError,
    audio_errors,
    check_finite,
    check_rate,
    is_regular,
    name_of,
    open_sound,
)
from codec.audio.wav import WavStart, ends_with_chunks, read_wav_start

# What libsndfile calls the encodings that can be read without it.
ENCODINGS_OF_SUBTYPES = {"PCM_U8": "u8", "PCM_16": "s16", "PCM_24": "s24", "PCM_32": "s32", "FLOAT": "f32"}
COPY_BYTES = 1 << 16
BLOCK_LENGTH = 1 << 18
# How libsndfile notes in its log that the samples of AIFF or AU are fewer bytes than the header says.
SHORTENED = re.compile(r"(?:SSND|Data Size) *: (\d+) \(should be (\d*[1-9]\d*)\)")
# What sox writes into a pipe for an unknown size, and more, stands for one.
AIFF_OPEN_SIZE = 0x7F000000
TAGS = ("title", "artist", "album", "date", "comment", "copyright", "genre", "tracknumber")


@dataclass
class AudioSource:
    """Audio that is read from its beginning to its end; nothing is normalized, scaled or mixed.

    Attributes:
        name: For messages: the path, or "standard input".
        sample_rate: Hz, 1 kHz to 1 MHz.
        channels: How many.
        stated_length: Samples of each channel, as far as can be told before reading them: what the header says, or less
            where the file is too short for it. None: not known.
        tags: Title, artist and others that the file has.
        live: Whether it is a pipe whose samples are read as they arrive.
        warning: Set after the last block: what the header promised and is not there.
    """

    name: str
    sample_rate: int
    channels: int
    stated_length: int | None
    tags: dict[str, str]
    live: bool
    # [channels, at most as many as asked for], and none only at the end.
    read_block: Callable[[int], Tensor] = field(repr=False)
    promised_length: int | None = field(repr=False)
    warning: str | None = None
    _length: int = field(default=0, repr=False)

    def read(self, length: int) -> Tensor:
        """Read what comes next. A live source waits for some samples, and gives those that have arrived.

        Args:
            length: Samples at most, of each channel; positive.

        Returns:
            float32, finite, [channels, n]; n is 0 only after the last sample.

        Raises:
            AudioFileError: The file is damaged, has NaN or infinite samples, or none at all.
        """
        with audio_errors(self.name):
            waveform = self.read_block(length)
        check_finite(waveform, self.name)
        self._length += waveform.shape[1]
        if not waveform.shape[1]:
            self._end()
        return waveform

    def blocks(self, length: int) -> Iterator[Tensor]:
        """Read all that is left, in blocks of at most `length` samples; see `read`."""
        while (waveform := self.read(length)).shape[1]:
            yield waveform

    def read_all(self, max_length: float = math.inf) -> Tensor:
        """Read all that is left, or so many samples of it at most, [channels, n]; see `read`."""
        blocks = []
        while max_length > 0 and (waveform := self.read(math.ceil(min(max_length, BLOCK_LENGTH)))).shape[1]:
            blocks.append(waveform)
            max_length -= waveform.shape[1]
        return torch.cat(blocks, dim=1)

    def _end(self) -> None:
        if not self._length:
            raise AudioFileError(f"{self.name}: holds no samples")
        if self.promised_length is not None and self._length < self.promised_length:
            promised, there = (length / self.sample_rate for length in (self.promised_length, self._length))
            self.warning = f"header promises {promised:.2f} s, {there:.2f} s are there"


@contextmanager
def open_source(path: str | os.PathLike[str] | int, raw: RawFormat | None = None) -> Iterator[AudioSource]:
    """Open audio of any format that libsndfile knows, found from the contents, or of raw samples.

    WAV and raw samples are read from a pipe as they arrive. Other formats cannot be: from a pipe they are first copied,
    to their end, into a temporary file.

    Args:
        path: The file; or a descriptor open for reading, which stays open: 0 is standard input.
        raw: What samples without a header are. An incomplete one at the end is left out.

    Raises:
        AudioFileError: The file cannot be opened, is not audio, or claims a sample rate outside of 1 kHz to 1 MHz.
            Reading the source raises it too, but nothing else that goes on in the block does.
    """
    name = name_of(path)
    with ExitStack() as stack:
        with audio_errors(name):
            # Read by os.read, which waits for no more than has arrived; and from a pipe that does not block, "nothing
            # yet" is an error, not the end.
            descriptor = stack.enter_context(FileIO(path, closefd=not isinstance(path, int))).fileno()
            if raw is not None:
                source = _pcm_source(name, descriptor, raw, {})
            elif is_regular(descriptor):
                source = _open_file(name, descriptor, stack)
            else:
                source = _open_pipe(name, descriptor, stack)
        yield source


def _open_file(name: str, descriptor: int, stack: ExitStack) -> AudioSource:
    place = os.lseek(descriptor, 0, os.SEEK_CUR)
    start = read_wav_start(lambda size: os.read(descriptor, size))
    os.lseek(descriptor, place, os.SEEK_SET)
    sound = stack.enter_context(open_sound(descriptor, name))
    raw = _raw_format(sound)
    if raw is not None and start.has_open_end and not _is_true(start, descriptor, place):
        # libsndfile would take the size for the truth, and lose what is beyond: of a size of 0, everything.
        os.lseek(descriptor, place + len(start.data), os.SEEK_SET)
        return _pcm_source(name, descriptor, raw, _tags(sound))
    stated = None if sound.frames == UNKNOWN_LENGTH else sound.frames
    promised = stated
    if raw is not None and start.audio_bytes is not None:
        promised = max(sound.frames, start.audio_bytes // raw.frame_bytes)
    elif (match := SHORTENED.search(sound.extra_info)) and int(match[1]) < AIFF_OPEN_SIZE:
        promised = sound.frames * int(match[1]) // int(match[2])

    def read_block(length: int) -> Tensor:
        samples = sound.read(length, dtype="float32", always_2d=True)
        return torch.from_numpy(samples).T.contiguous()

    return AudioSource(
        name, sound.samplerate, sound.channels, stated, _tags(sound), False, read_block, promised_length=promised
    )


def _is_true(start: WavStart, descriptor: int, place: int) -> bool:
    """Whether a size that may stand for an unknown one is none: of a file without samples, or one of almost 2 GiB."""
    end = os.fstat(descriptor).st_size
    audio_bytes = start.audio_bytes or 0
    audio_end = place + len(start.data) + audio_bytes + audio_bytes % 2  # chunks begin at even places
    return audio_end < end and ends_with_chunks(partial(os.pread, descriptor), audio_end, end)


def _open_pipe(name: str, descriptor: int, stack: ExitStack) -> AudioSource:
    start = read_wav_start(lambda size: _read_exactly(descriptor, size))
    if not start.data:
        raise AudioFileError(f"{name}: gave no data")
    if start.audio_bytes is not None:
        # libsndfile reads what a WAV header says from the header alone.
        with soundfile.SoundFile(BytesIO(start.data)) as sound:
            check_rate(sound.samplerate, name)
            if (raw := _raw_format(sound)) is not None:
                return _pcm_source(name, descriptor, raw, _tags(sound), start)
    return _open_file(name, stack.enter_context(_copy(descriptor, start.data)), stack)


def _pcm_source(
    name: str, descriptor: int, raw: RawFormat, tags: dict[str, str], start: WavStart | None = None
) -> AudioSource:
    """Samples from where a file stands to its end, or as many as the start of a WAV file says."""
    num_bytes = None if start is None or start.has_open_end else start.audio_bytes
    stated = None if num_bytes is None else num_bytes // raw.frame_bytes
    live = not is_regular(descriptor)
    if not live:
        stated = (os.fstat(descriptor).st_size - os.lseek(descriptor, 0, os.SEEK_CUR)) // raw.frame_bytes
    reader = _PcmReader(descriptor, raw, num_bytes)
    return AudioSource(
        name, raw.sample_rate, raw.channels, stated, tags, live, reader.read_block, promised_length=stated
    )


class _PcmReader:
    """Samples from bytes, as many as have arrived.

    Args:
        descriptor: Of a file or a pipe.
        raw: What they are.
        num_bytes: Where the samples end. None: with the file.
    """

    def __init__(self, descriptor: int, raw: RawFormat, num_bytes: int | None):
        self.descriptor = descriptor
        self.raw = raw
        self.num_bytes = num_bytes
        self.incomplete = b""

    def read_block(self, length: int) -> Tensor:
        data = self.incomplete
        while len(data) < self.raw.frame_bytes:
            more = self._read(length * self.raw.frame_bytes - len(data))
            if not more:
                return torch.empty(self.raw.channels, 0)
            data += more
        whole = len(data) - len(data) % self.raw.frame_bytes
        self.incomplete = data[whole:]
        return self.raw.decode(data[:whole])

    def _read(self, size: int) -> bytes:
        if self.num_bytes is None:
            return os.read(self.descriptor, size)
        if not self.num_bytes:
            # Tags may follow: a program that could not write them into the pipe would fail.
            while os.read(self.descriptor, COPY_BYTES):
                pass
        data = os.read(self.descriptor, min(size, self.num_bytes))
        self.num_bytes -= len(data)
        return data


@contextmanager
def _copy(descriptor: int, beginning: bytes) -> Iterator[int]:
    """A temporary file of what was read already and all that follows."""
    with tempfile.TemporaryFile() as copy:
        copy.write(beginning)
        while data := os.read(descriptor, COPY_BYTES):
            copy.write(data)
        copy.seek(0)
        yield copy.fileno()


def _read_exactly(descriptor: int, size: int) -> bytes:
    data = b""
    while len(data) < size and (more := os.read(descriptor, size - len(data))):
        data += more
    return data


def _raw_format(sound: soundfile.SoundFile) -> RawFormat | None:
    encoding = ENCODINGS_OF_SUBTYPES.get(sound.subtype)
    return None if encoding is None else RawFormat(sound.samplerate, sound.channels, encoding)


def _tags(sound: soundfile.SoundFile) -> dict[str, str]:
    metadata = sound.copy_metadata()
    return {key: metadata[key] for key in TAGS if metadata.get(key, "").strip()}
