"""The last step of `scripts/quickstart`: score the decoded clips, time the codec, print a table."""

import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from statistics import median
from time import perf_counter

import rich
import torch

from codec import Codec
from codec.audio import read_audio
from codec.bitstream import read_header
from codec.evaluate import pesq_wb, rich_table, stoi

HEADINGS = ("clip", "seconds", "bit/s on disk", "PESQ-WB", "STOI", "encode", "decode")


def main(originals: Path, results: Path) -> None:
    codec = Codec.from_pretrained("speech_16khz")
    with torch.inference_mode():
        rows = [describe(codec, original, results) for original in sorted(originals.glob("*.flac"))]
    title = f"{codec.name} on {torch.get_num_threads()} CPU threads; speeds in times real time, without loading"
    rich.print(rich_table(HEADINGS, rows, title=title))
    print(f"Listen: {results}/*.wav, decoded from {results}/*.rvq; the originals are in {originals}/")


def describe(codec: Codec, original: Path, results: Path) -> tuple[str, ...]:
    """One row of the table, for a clip that has been encoded and decoded."""
    coded = (results / f"{original.stem}.rvq").read_bytes()
    waveform, sample_rate = read_audio(original)
    decoded = read_audio(results / f"{original.stem}.wav").waveform
    num_quantizers = read_header(coded).num_quantizers
    seconds = waveform.shape[1] / sample_rate

    encode = partial(codec.encode, waveform[None], num_quantizers, rate_weight=codec.rate_weight)
    codes = encode()
    encode_seconds = time(encode)
    decode_seconds = time(lambda: codec.decode(codes))
    return (
        original.stem,
        f"{seconds:.1f}",
        f"{8 * len(coded) / seconds:.0f}",
        f"{pesq_wb(waveform[0], decoded[0], sample_rate):.2f}",
        f"{stoi(waveform[0], decoded[0], sample_rate):.3f}",
        f"{seconds / encode_seconds:.0f}x",
        f"{seconds / decode_seconds:.0f}x",
    )


def time(run: Callable[[], object]) -> float:
    """Seconds, the median of five runs after a first one, which is slower."""
    run()
    durations = []
    for _ in range(5):
        start = perf_counter()
        run()
        durations.append(perf_counter() - start)
    return median(durations)


if __name__ == "__main__":
    main(Path(sys.argv[1]), Path(sys.argv[2]))
