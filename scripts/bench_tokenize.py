"""Speed of tokenizing a corpus with one and two processes, beside encoding its files one after the other.

Each way works on the whole corpus in processes of its own, one way after the other, and all of them again, so that a
machine that changes its speed changes all. What is read from files and written to them counts. Starting Python,
importing and loading the model are told apart: a large corpus does not notice them.
"""

import argparse
import random
import statistics
import tempfile
import time
from collections.abc import Callable, Iterator
from concurrent.futures import ProcessPoolExecutor
from functools import partial
from itertools import cycle
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import numpy as np
import soundfile
import torch
from einops import reduce

from codec import Codec
from codec.audio import find_audio, read_audio, read_info, resample
from codec.cli.batch import Outcome, Report, run_tasks
from codec.corpora.find import find_recordings
from codec.evaluate import markdown_table
from codec.shards.job import finish_job, pending, plan_job, start_job
from codec.shards.shard import make_shard

CLIPS = Path(__file__).parents[1] / "tests" / "data"
SAMPLE_RATE = 16_000
# How long utterances of LibriSpeech are, roughly.
SHORTEST, LONGEST = 2.0, 16.0
JOBS = (1, 2)
NUM_SHARDS = 8
HEADINGS = ("", "to start, s", "to work, s", "seconds of audio a second", "beside the first")


class Times(NamedTuple):
    """How long a way took, in seconds, until it was about to read the first file, and from there to the end."""

    start: float
    work: float


class Span(NamedTuple):
    """When a process worked on something, by the clock of the machine."""

    begun: float
    ended: float


def main() -> None:
    parser = argparse.ArgumentParser(prog="scripts/bench tokenize", description=__doc__.splitlines()[0])
    parser.add_argument("folder", type=Path, nargs="?", help="of audio; default: made of the speech of the tests")
    parser.add_argument("--minutes", type=float, default=10.0, help="how much audio is made, without a folder")
    parser.add_argument("--model", default="speech_16khz", help="name of a shipped model, or a folder that holds one")
    parser.add_argument("--threads", type=int, default=2, help="of encoding one file after the other")
    parser.add_argument("--readings", type=int, default=3, help="how often each way is measured; medians are shown")
    arguments = parser.parse_args()
    with tempfile.TemporaryDirectory() as scratch:
        folder = arguments.folder
        if folder is None:
            folder = Path(scratch, "corpus")
            write_corpus(folder, 60 * arguments.minutes)
        infos = [read_info(path) for path in find_audio(folder)]
        times = measure(folder.absolute(), arguments.model, arguments.threads, arguments.readings, Path(scratch))
    seconds = sum(info.length / info.sample_rate for info in infos)
    print(f"{len(infos)} files, {seconds / 60:.1f} minutes; medians of {arguments.readings} readings\n")
    print(markdown_table(HEADINGS, rows_of(times, seconds)))


def write_corpus(folder: Path, seconds: float) -> None:
    """Cut the clips that come with the tests, over and over, into files of various lengths."""
    folder.mkdir()
    lengths = random.Random(0)
    speech = np.concatenate([soundfile.read(clip, dtype="int16")[0] for clip in sorted(CLIPS.glob("*.flac"))])
    samples = cycle(speech.tolist())
    number = 0
    while seconds > 0:
        length = min(seconds, lengths.uniform(SHORTEST, LONGEST))
        cut = np.fromiter(samples, np.int16, max(1, round(length * SAMPLE_RATE)))
        soundfile.write(folder / f"{number:05d}.flac", cut, SAMPLE_RATE)
        seconds -= length
        number += 1


def measure(folder: Path, model: str, threads: int, readings: int, scratch: Path) -> dict[str, Times]:
    """Medians of each way, by its name."""
    ways: dict[str, Callable[[Path], Span]] = {
        f"Codec.encode, {threads} threads": partial(encode_one_by_one, folder, model, threads)
    }
    ways |= {f"tokenize --jobs {jobs}": partial(tokenize, folder, model, jobs) for jobs in JOBS}
    read: dict[str, list[Times]] = {name: [] for name in ways}
    for reading in range(readings):
        for number, (name, way) in enumerate(ways.items()):
            read[name].append(in_new_process(way, scratch / f"{reading}_{number}"))
    return {name: Times(*map(statistics.median, zip(*times, strict=True))) for name, times in read.items()}


def in_new_process(way: Callable[[Path], Span], target: Path) -> Times:
    launched = time.monotonic()
    with ProcessPoolExecutor(1, mp_context=get_context("spawn")) as pool:
        span = pool.submit(way, target).result()
    return Times(span.begun - launched, span.ended - span.begun)


@torch.inference_mode()
def encode_one_by_one(folder: Path, model: str, threads: int, target: Path) -> Span:
    """What a user writes who has no other tool."""
    torch.set_num_threads(threads)
    codec = Codec.from_pretrained(model)
    target.mkdir()
    begun = time.monotonic()
    for number, path in enumerate(find_audio(folder)):
        audio = read_audio(path)
        mono = resample(reduce(audio.waveform, "c t -> 1 1 t", "mean"), audio.sample_rate, codec.sample_rate)
        np.save(target / f"{number:05d}.npy", codec.encode(mono).numpy().astype(np.uint16))
    return Span(begun, time.monotonic())


def tokenize(folder: Path, model: str, jobs: int, target: Path) -> Span:
    """What `codec tokenize` does, with shards that are small enough to be divided evenly."""
    recordings = find_recordings([folder])
    shard_size = min(512, -(-len(recordings) // NUM_SHARDS))
    start_job(target, plan_job(Codec.from_pretrained(model), recordings, shard_size=shard_size), recordings)
    outcomes = run_tasks(pending(target), partial(start_shards, target, model), jobs, lambda *progress: None)
    spans = list(spans_of(outcomes))
    finish_job(target)
    return Span(min(span.begun for span in spans), time.monotonic())


def spans_of(outcomes: Iterator[Outcome[int, Span]]) -> Iterator[Span]:
    for outcome in outcomes:
        if outcome.problem is not None:
            raise RuntimeError(f"shard {outcome.task}: {outcome.problem.message}")
        yield outcome.result


def start_shards(folder: Path, model: str) -> Callable[[int, Report], Span]:
    return partial(time_shard, folder, Codec.from_pretrained(model))


def time_shard(folder: Path, codec: Codec, index: int, report: Report) -> Span:
    begun = time.monotonic()
    make_shard(folder, index, codec)
    return Span(begun, time.monotonic())


def rows_of(times: dict[str, Times], seconds: float) -> Iterator[tuple[str, ...]]:
    """As text, under `HEADINGS`."""
    first = next(iter(times.values()))
    for name, (start, work) in times.items():
        yield name, f"{start:.1f}", f"{work:.1f}", f"{seconds / work:.1f}", f"{first.work / work:.2f}"


if __name__ == "__main__":
    main()
