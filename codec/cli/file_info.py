"""What a file of codes holds, told without torch."""

import os
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING

from codec.cli.code_file import open_code_file
from codec.cli.log import printable

if TYPE_CHECKING:
    import numpy as np
    from numpy.typing import NDArray

    from codec.bitstream import Header, StreamReader
    from codec.model.folder import StoredTables

PCM_BYTES = 2
# Counts of all codes of all stages that are kept; a header may claim stages and bits for more memory than there is.
MAX_COUNTS = 1 << 24


@dataclass(frozen=True)
class FileInfo:
    """What a file of codes holds. None stands for what is not known.

    Attributes:
        file: Its path.
        version: Of the format.
        model: Name of the model that made the codes.
        fingerprint: Of the model's weights.
        sample_rate: Of the original audio, Hz.
        channels: Of the original audio.
        length: Samples of each channel.
        duration: Seconds.
        tags: Title and others of the original.
        num_quantizers: Stages.
        bits: Of a code, packed.
        entropy: Fingerprint of the tables that the codes are entropy-coded with; None: they are packed.
        model_rate: Of the model, Hz.
        frame_rate: Code frames per second.
        latency: Of the model, ms, if the model is on this machine.
        num_frames: Of each channel.
        frames_per_chunk: In every chunk but the last.
        num_chunks: In the file.
        size: Of the file, bytes.
        packed_bitrate: Of the codes of all channels, if they were packed, bit/s.
        bitrate: Of the file, with all that is in it, bit/s.
        bits_per_code: Of the chunks, without what goes around their codes.
        stage_entropies: Of the codes of each stage on their own, bit; None where the codes cannot be read.
        problems: What is damaged.
    """

    file: str
    version: int
    model: str
    fingerprint: str
    sample_rate: int
    channels: int
    length: int | None
    duration: float | None
    tags: dict[str, str]
    num_quantizers: int
    bits: int
    entropy: str | None
    model_rate: int | None
    frame_rate: float | None
    latency: float | None
    num_frames: int
    frames_per_chunk: int
    num_chunks: int
    size: int
    packed_bitrate: float | None
    bitrate: float | None
    bits_per_code: float | None
    stage_entropies: list[float] | None
    problems: list[str]

    def rows(self) -> dict[str, str]:
        """Names and values, as text."""
        packed = "packed" if self.entropy is None else f"entropy-coded with tables {self.entropy}"
        return {
            "file": printable(self.file),
            "format version": f"{self.version}",
            "model": f"{self.model} ({self.fingerprint})",
            "model rate": _text(self.model_rate, "{} Hz"),
            "latency": _text(self.latency, "{:g} ms", none="not known: the model is not on this machine"),
            "sample rate": f"{self.sample_rate} Hz",
            "channels": f"{self.channels}",
            "length": _text(self.length, "{} samples"),
            "duration": _text(self.duration, "{:.3f} s"),
            **{f"tag {name}": value for name, value in self.tags.items()},
            "stages": f"{self.num_quantizers}",
            "codes": f"{self.bits} bits, {packed}",
            "frames": f"{self.num_frames}",
            "frame rate": _text(self.frame_rate, "{:g} frames/s"),
            "chunks": f"{self.num_chunks} of {self.frames_per_chunk} frames",
            "size": f"{self.size} bytes",
            "bitrate packed": _text(self.packed_bitrate, "{:.0f} bit/s"),
            "bitrate on disk": _text(self.bitrate, "{:.0f} bit/s"),
            "bits per code": _text(self.bits_per_code, "{:.3f}"),
            "entropy by stage": " ".join(f"{bits:.2f}" for bits in self.stage_entropies)
            if self.stage_entropies is not None
            else "not known: it takes intact codes and, of entropy-coded ones, the tables of the model",
            "compression": _text(self._compression(), "{:.1f} times smaller than 16-bit PCM"),
        }

    def _compression(self) -> float | None:
        return None if self.length is None else PCM_BYTES * self.channels * self.length / self.size


def read_file_info(path: Path, model_folder: Path | None = None) -> FileInfo:
    """Check every byte of a file of codes, and tell what it holds.

    Args:
        path: The file.
        model_folder: Of the model that made it. Default: the shipped model of the name in its header, if there is one.

    Raises:
        CommandError: The file cannot be opened, or not even its header can be read.
    """
    from codec.bitstream import StreamReader, verify
    from codec.model.folder import shipped_models

    with open_code_file(path) as file:
        verified = verify(file)
        header, problems = verified.header, verified.problems
        file.seek(0)
        reader = StreamReader(file, conceal=True)
        # Not any path that a file asks for: its header is anyone's.
        folder = model_folder or shipped_models().get(header.model)
        stored = _stored_tables(folder)
        entropies = None if problems else _stage_entropies(reader, stored)
        size = file.seek(0, os.SEEK_END)
    length = verified.length
    num_codes = header.codes_in(verified.num_frames)
    frame_bits = header.channels * header.num_quantizers * header.bits
    return FileInfo(
        file=str(path),
        version=reader.version,
        model=header.model,
        fingerprint=header.fingerprint,
        sample_rate=header.sample_rate,
        channels=header.channels,
        length=length,
        duration=None if length is None else length / header.sample_rate,
        tags=dict(header.tags),
        num_quantizers=header.num_quantizers,
        bits=header.bits,
        entropy=header.entropy,
        model_rate=header.model_rate,
        frame_rate=header.frame_rate,
        latency=_latency(folder, stored, header),
        num_frames=verified.num_frames,
        frames_per_chunk=header.frames_per_chunk,
        num_chunks=verified.num_chunks,
        size=size,
        packed_bitrate=None if header.frame_rate is None else frame_bits * header.frame_rate,
        bitrate=None if length is None else 8 * size * header.sample_rate / length,
        bits_per_code=8 * verified.payload_bytes / num_codes if num_codes else None,
        stage_entropies=entropies,
        problems=problems,
    )


def _latency(folder: Path | None, stored: "list[StoredTables]", header: "Header") -> float | None:
    """Of the model in a folder, ms; None if it is not that of the header, as far as can be told without its weights."""
    from codec.model.folder import load_config

    if folder is None:
        return None
    try:
        model = load_config(folder).model
    except ValueError:
        return None
    weights = {each.belongs_to for each in stored} - {None}
    if weights and header.fingerprint not in weights:
        return None
    same = (model.sample_rate, model.hop_length) == (header.model_rate, header.hop_length)
    return 1000 * model.latency if same else None


def _stored_tables(folder: Path | None) -> "list[StoredTables]":
    """Tables beside a model, those that can be read."""
    from codec.model.folder import load_tables, tables_files

    stored = []
    for path in [] if folder is None else tables_files(folder):
        with suppress(ValueError):
            stored.append(load_tables(path))
    return stored


def _stage_entropies(reader: "StreamReader", stored: "list[StoredTables]") -> list[float] | None:
    import numpy as np

    header = reader.header
    if header.num_quantizers << header.bits > MAX_COUNTS:
        return None
    if header.entropy is not None:
        tables = next((each.tables for each in stored if each.tables.fingerprint == header.entropy), None)
        if tables is None:
            return None
        reader.use(tables)
    counts = np.zeros((header.num_quantizers, 1 << header.bits), dtype=np.int64)
    for chunk in reader.chunks():
        if chunk.codes is None:
            return None
        for stage, codes in enumerate(np.moveaxis(chunk.codes, 1, 0)):
            counts[stage] += np.bincount(codes.reshape(-1), minlength=1 << header.bits)
    return [_entropy(each) for each in counts]


def _entropy(counts: "NDArray[np.int64]") -> float:
    """Of the distribution that counts stand for, in bit."""
    import numpy as np

    shares = counts[counts > 0] / counts.sum()
    return float(-(shares * np.log2(shares)).sum()) + 0.0


def _text(value: float | None, pattern: str, none: str = "not known") -> str:
    return none if value is None else pattern.format(value)
