"""Speed and peak memory of coding a long file block by block, beside coding a short one as a whole.

Encoding and decoding each run in a process of their own. It codes the short file as a whole, then the long one, then
the short one again, so that a machine that changes its speed changes both. What is read from files and written to them
counts, for both.
"""

import argparse
import statistics
import tempfile
import time
from collections.abc import Callable
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import soundfile
import torch

from codec import Codec
from codec.audio import open_sink, open_source, read_audio, write_audio
from codec.bitstream import Stream, read_stream, write_stream
from codec.evaluate import markdown_table
from codec.model.header import make_header
from codec.transcode import decode_file, encode_source

CLIPS = Path(__file__).parents[1] / "tests" / "data"
SAMPLE_RATE = 16_000
SHORT_SECONDS = 10
READINGS = 5
HEADINGS = (
    "",
    "short as a whole, x real time",
    "long in blocks, x real time",
    "long / short",
    "MB above the libraries",
)


class Measured(NamedTuple):
    """What coding cost.

    Attributes:
        short_speed: Seconds of audio a second, of the short file as a whole.
        long_speed: Seconds of audio a second, of the long file.
        megabytes: Peak memory above that of the process once its libraries were imported; None where the system has
            no /proc.
    """

    short_speed: float
    long_speed: float
    megabytes: float | None

    def cells(self, name: str) -> tuple[str, ...]:
        """As text, under `HEADINGS`."""
        memory = "?" if self.megabytes is None else f"{self.megabytes:.0f}"
        ratio = self.long_speed / self.short_speed
        return (name, f"{self.short_speed:.1f}", f"{self.long_speed:.1f}", f"{ratio:.2f}", memory)


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench files", description=__doc__.splitlines()[0])
    parser.add_argument("--minutes", type=float, default=180.0, help="length of the long file")
    parser.add_argument("--model", default="speech_16khz", help="name of a shipped model, or a folder that holds one")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        encoded, decoded = measure(arguments.model, arguments.minutes, Path(folder))
    print(f"{arguments.minutes:g} minutes beside {SHORT_SECONDS} s of speech; {torch.get_num_threads()} threads\n")
    print(markdown_table(HEADINGS, [encoded.cells("encode"), decoded.cells("decode")]))


def measure(model: str, minutes: float, folder: Path) -> tuple[Measured, Measured]:
    """Encode and decode a short and a long file, which are made in a folder.

    Returns:
        Of encoding, and of decoding.
    """
    for name, seconds in (("short", SHORT_SECONDS), ("long", 60 * minutes)):
        write_speech(folder / f"{name}.wav", round(seconds * SAMPLE_RATE))
    # In a process of its own each, whose memory begins anew.
    return in_new_process("encode", model, folder), in_new_process("decode", model, folder)


def write_speech(path: Path, length: int) -> None:
    """Write the clips that come with the tests, over and over, until there are `length` samples."""
    utterances = [soundfile.read(clip, dtype="int16")[0] for clip in sorted(CLIPS.glob("*.flac"))]
    with soundfile.SoundFile(path, "w", SAMPLE_RATE, 1) as sound:
        while length > 0:
            for utterance in utterances:
                sound.write(utterance[:length])
                length = max(0, length - len(utterance))


def in_new_process(step: str, model: str, folder: Path) -> Measured:
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        return pool.submit(measure_step, step, model, folder).result()


def measure_step(step: str, model: str, folder: Path) -> Measured:
    imported = peak_megabytes()
    codec = Codec.from_pretrained(model)
    code_whole, code_in_blocks, source, target = STEPS[step]
    return compare(
        partial(code_whole, codec, folder / f"short{source}", folder / f"short{target}"),
        partial(code_in_blocks, codec, folder / f"long{source}", folder / f"long{target}"),
        soundfile.info(folder / "long.wav").duration,
        imported,
    )


def compare(
    code_short: Callable[[], object], code_long: Callable[[], object], long_seconds: float, imported: float | None
) -> Measured:
    code_short()  # the first run of a network is slower
    before = [seconds_of(code_short) for _ in range(READINGS)]
    long = seconds_of(code_long)
    after = [seconds_of(code_short) for _ in range(READINGS)]
    megabytes = None if imported is None else (peak_megabytes() or 0) - imported
    return Measured(SHORT_SECONDS / statistics.median(before + after), long_seconds / long, megabytes)


def seconds_of(run: Callable[[], object]) -> float:
    start = time.perf_counter()
    run()
    return time.perf_counter() - start


def peak_megabytes() -> float | None:
    """Most memory that this process ever had."""
    # Not getrusage: its peak counts the process that started this one.
    status = Path("/proc/self/status")
    if not status.exists():
        return None
    return next(int(line.split()[1]) / 1000 for line in status.read_text().splitlines() if line.startswith("VmHWM"))


@torch.inference_mode()
def encode_whole(codec: Codec, source: Path, target: Path) -> None:
    """All at once, without streaming."""
    audio = read_audio(source)
    codes = codec.encode(audio.waveform[:, None], rate_weight=codec.rate_weight).numpy()
    length, (_, stages, num_frames) = audio.waveform.shape[1], codes.shape
    header = make_header(codec, stages, sample_rate=audio.sample_rate, length=length, num_frames=num_frames)
    target.write_bytes(write_stream(Stream(header, codes), codec.entropy))


def encode_in_blocks(codec: Codec, source: Path, target: Path) -> None:
    with open_source(source) as audio, target.open("wb") as file:
        encode_source(codec, audio, file)


@torch.inference_mode()
def decode_whole(codec: Codec, source: Path, target: Path) -> None:
    """All at once, without streaming."""
    stream = read_stream(source.read_bytes(), codec.entropy)
    waveform = codec.decode(torch.from_numpy(stream.codes))[:, 0]
    write_audio(target, waveform[:, : stream.header.length], stream.header.sample_rate)


def decode_in_blocks(codec: Codec, source: Path, target: Path) -> None:
    with source.open("rb") as file:
        decode_file(codec, file, lambda rate, channels, length: open_sink(target, rate, channels, length=length))


# By name: how it is done as a whole and in blocks, and the suffixes of what it reads and writes.
STEPS = {
    "encode": (encode_whole, encode_in_blocks, ".wav", ".rvq"),
    "decode": (decode_whole, decode_in_blocks, ".rvq", "_decoded.wav"),
}


if __name__ == "__main__":
    main()
