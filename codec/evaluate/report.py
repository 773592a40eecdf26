"""A codec on a set of clips: bitrate on disk, quality, use of the codebooks, speed."""

import math
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import Future, ProcessPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial
from multiprocessing import get_context
from pathlib import Path
from threading import BoundedSemaphore
from time import perf_counter
from typing import NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from codec.audio import read_audio, resample
from codec.bitstream import Stream, write_stream
from codec.distributed import gather_objects, rank, sum_over_ranks, world_size
from codec.evaluate.metrics import mean_of_known, mel_distance, pesq_wb, si_sdr, stoi
from codec.model.codec import Codec
from codec.model.header import make_header
from codec.quantize.usage import count_codes, dead_share, perplexity

Samples = NDArray[np.float32]

ROW_HEADINGS = ("bit/s", "stages", "PESQ-WB", "STOI", "SI-SDR", "mel dB", "clips", "encode", "decode")
STAGE_HEADINGS = ("stage", "perplexity", "dead")


class Scores(NamedTuple):
    """How close an estimate is to its reference; see `codec.evaluate.metrics`."""

    pesq_wb: float
    stoi: float
    si_sdr: float
    mel_distance: float


class _Cost(NamedTuple):
    """Of coding a clip."""

    num_bytes: float
    audio_seconds: float
    encode_seconds: float
    decode_seconds: float


Scorer = Callable[[Samples, Samples, int], Future[Scores]]


@dataclass(frozen=True)
class Row:
    """A codec at one bitrate.

    Attributes:
        num_quantizers: Stages used; None if the latents went to the decoder unquantized.
        bitrate: Of the files of codes, headers included, bit/s; None if unquantized.
        scores: Means over the clips, without those whose reference gives nothing to judge.
        clips: Number of clips.
        encode_speed: Seconds of audio encoded in one second.
        decode_speed: Seconds of audio decoded in one second.
    """

    num_quantizers: int | None
    bitrate: float | None
    scores: Scores
    clips: int
    encode_speed: float
    decode_speed: float

    def cells(self) -> tuple[str, ...]:
        """As text, under `ROW_HEADINGS`."""
        return (
            "-" if self.bitrate is None else f"{self.bitrate:.0f}",
            "none" if self.num_quantizers is None else f"{self.num_quantizers}",
            f"{self.scores.pesq_wb:.2f}",
            f"{self.scores.stoi:.3f}",
            f"{self.scores.si_sdr:.1f}",
            f"{self.scores.mel_distance:.2f}",
            f"{self.clips}",
            f"{self.encode_speed:.1f}x",
            f"{self.decode_speed:.1f}x",
        )


@dataclass(frozen=True)
class Report:
    """A codec at several bitrates.

    Attributes:
        rows: From the lowest bitrate to the highest; the unquantized one last.
        perplexity: Effective number of codes, for each stage that the highest bitrate uses.
        dead_share: Share of each stage's codes that never occurred, which means little on few clips.
    """

    rows: list[Row]
    perplexity: list[float]
    dead_share: list[float]

    def stage_cells(self) -> list[tuple[str, ...]]:
        """The use of each stage as text, under `STAGE_HEADINGS`."""
        stages = zip(self.perplexity, self.dead_share, strict=True)
        return [(f"{stage}", f"{used:.1f}", f"{dead:.1%}") for stage, (used, dead) in enumerate(stages, start=1)]


def usual_bitrates(codec: Codec) -> list[int]:
    """Those of a quarter, half and all of the stages, bit/s."""
    stages = {max(1, codec.num_quantizers // 4), max(1, codec.num_quantizers // 2), codec.num_quantizers}
    return [round(codec.bitrate(count)) for count in sorted(stages)]


def evaluate(
    codec: Codec,
    clips: Iterable[Path],
    bitrates: Sequence[int],
    *,
    unquantized: bool = False,
    jobs: int = 1,
    max_seconds: float = math.inf,
) -> Report:
    """Encode each clip at each bitrate, write the codes to bytes, decode and score them.

    Where several ranks work together, all must call: each takes its share of the clips, and all return one report. It
    is that of a single process, but for the speeds, which are those of a rank on average.

    Args:
        codec: In eval mode, on the device it is to run on.
        clips: Audio files, the same on all ranks. Several channels are averaged, other sample rates converted to the
            codec's.
        bitrates: bit/s, each one that the codec has.
        unquantized: Whether to add a row for the latents decoded as they are, without the quantizer: what is lost
            there, no bitrate brings back.
        jobs: Processes that score while this one codes; with 1, this one scores in between. More of them than there are
            cores left slow the codec down, whose speed is in the report. They import the script that calls this, so it
            must do so under `if __name__ == "__main__"`.
        max_seconds: How much of each clip, from its beginning.

    Raises:
        ValueError: There are no clips or no bitrates, or the codec lacks a bitrate.
        AudioFileError: A clip cannot be read.
        ImportError: The packages of the extra `eval` are missing.
        RuntimeError: One of these happened on another rank.
    """
    if not bitrates:
        raise ValueError("bitrates must hold at least one; got none")
    depths = sorted({codec.stages_at(bitrate) for bitrate in bitrates})
    fingerprint = codec.fingerprint()
    trials = [_Trial(codec, fingerprint, depth) for depth in [*depths, *[None] * unquantized]]
    # NCCL adds up what is on the GPU alone.
    device = codec.device if world_size() > 1 else torch.device("cpu")
    with _raise_on_all_ranks(), torch.inference_mode(), _start_scorer(jobs) as score:
        # The first run of a network takes longer than those that follow.
        codec.decode(codec.encode(torch.zeros(1, 1, codec.sample_rate, device=codec.device)))
        num_clips = 0
        for num_clips, path in enumerate(clips, start=1):
            if (num_clips - 1) % world_size() == rank():
                waveform = load_clip(path, codec.sample_rate, max_seconds)[None, None]
                for trial in trials:
                    trial.run(waveform, score)
        if num_clips == 0:
            raise ValueError("clips must hold at least one audio file; got none")
        own = torch.stack([trial.wait() for trial in trials])
    measured = torch.zeros(len(trials), num_clips, own.shape[2], dtype=torch.float64)
    # Exactly one rank fills each clip in, so the sum is what it measured: nan and infinity, too.
    measured[:, rank() :: world_size()] = own
    measured, counts = sum_over_ranks(measured.to(device), trials[len(depths) - 1].counts.to(device))
    rows = [_to_row(trial.num_quantizers, values) for trial, values in zip(trials, measured, strict=True)]
    return Report(rows, perplexity(counts).tolist(), dead_share(counts).tolist())


class _Trial:
    """A row in the making: runs the codec at one depth, and keeps what each clip takes and gives."""

    def __init__(self, codec: Codec, fingerprint: str, num_quantizers: int | None):
        self.codec = codec
        self.fingerprint = fingerprint
        self.num_quantizers = num_quantizers
        self.counts = torch.zeros(num_quantizers or 0, codec.codebook_size, dtype=torch.int64)
        self._costs: list[_Cost] = []
        self._scores: list[Future[Scores]] = []

    def run(self, waveform: Tensor, score: Scorer) -> None:
        """Encode and decode a clip, [1, 1, time], to one of the same length, within [-1, 1] as files are; score it."""
        on_device = waveform.to(self.codec.device)
        length = waveform.shape[-1]
        num_bytes = 0
        if self.num_quantizers is None:
            latents, encode_seconds = _time(self.codec.encode_latents, on_device)
            estimate, decode_seconds = _time(self.codec.decoder, latents)
        else:
            encode = partial(self.codec.encode, num_quantizers=self.num_quantizers, rate_weight=self.codec.rate_weight)
            codes, encode_seconds = _time(encode, on_device)
            estimate, decode_seconds = _time(self.codec.decode, codes)
            num_bytes = len(write_stream(self._to_stream(codes.cpu(), length), self.codec.entropy))
            self.counts += count_codes(codes.cpu(), self.codec.codebook_size)
        self._costs.append(_Cost(num_bytes, length / self.codec.sample_rate, encode_seconds, decode_seconds))
        estimate = estimate[..., :length].clamp(-1, 1)
        self._scores.append(score(_to_samples(waveform), _to_samples(estimate), self.codec.sample_rate))

    def wait(self) -> Tensor:
        """Scores and costs of every clip that was run, [clips, values], float64."""
        values = [[*future.result(), *cost] for future, cost in zip(self._scores, self._costs, strict=True)]
        return torch.tensor(values, dtype=torch.float64).view(-1, len(Scores._fields) + len(_Cost._fields))

    def _to_stream(self, codes: Tensor, length: int) -> Stream:
        _, stages, num_frames = codes.shape
        header = make_header(
            self.codec,
            stages,
            sample_rate=self.codec.sample_rate,
            length=length,
            num_frames=num_frames,
            fingerprint=self.fingerprint,
        )
        return Stream(header, codes.numpy())


def _to_row(num_quantizers: int | None, measured: Tensor) -> Row:
    """Average scores, and add up costs, of all clips, [clips, values]."""
    scores, costs = measured.split([len(Scores._fields), len(_Cost._fields)], dim=1)
    cost = _Cost(*costs.sum(0).tolist())
    return Row(
        num_quantizers=num_quantizers,
        bitrate=8 * cost.num_bytes / cost.audio_seconds if num_quantizers else None,
        scores=Scores(*map(mean_of_known, scores.T.tolist())),
        clips=len(measured),
        encode_speed=cost.audio_seconds / cost.encode_seconds,
        decode_speed=cost.audio_seconds / cost.decode_seconds,
    )


@contextmanager
def _raise_on_all_ranks() -> Iterator[None]:
    """Let no rank wait for one that failed in the block: if one raises, all do."""
    error = None
    try:
        yield
    except Exception as caught:
        error = caught
    messages = gather_objects(None if error is None else f"{type(error).__name__}: {error}")
    if error is not None:
        raise error
    for index, message in enumerate(messages):
        if message is not None:
            raise RuntimeError(f"evaluation must succeed on every rank; on rank {index} it failed: {message}")


@contextmanager
def _start_scorer(jobs: int) -> Iterator[Scorer]:
    """Give a function that scores a pair of signals, here or in other processes."""
    if jobs < 1:
        raise ValueError(f"jobs must be positive; got {jobs}")
    if jobs == 1:
        yield _score_now
        return
    # Not forked: a fork copies the locks of torch's threads in whatever state they are.
    with ProcessPoolExecutor(jobs, mp_context=get_context("spawn")) as pool:
        places = BoundedSemaphore(4 * jobs)

        def score_later(reference: Samples, estimate: Samples, sample_rate: int) -> Future[Scores]:
            places.acquire()  # coding is faster than scoring, and the signals that wait are in memory
            future = pool.submit(_score, reference, estimate, sample_rate)
            future.add_done_callback(lambda _: places.release())
            return future

        yield score_later


def _score_now(reference: Samples, estimate: Samples, sample_rate: int) -> Future[Scores]:
    future: Future[Scores] = Future()
    future.set_result(_score(reference, estimate, sample_rate))
    return future


def _score(reference: Samples, estimate: Samples, sample_rate: int) -> Scores:
    return Scores(
        pesq_wb=pesq_wb(reference, estimate, sample_rate),
        stoi=stoi(reference, estimate, sample_rate),
        si_sdr=si_sdr(reference, estimate),
        mel_distance=mel_distance(reference, estimate, sample_rate),
    )


def load_clip(path: Path, sample_rate: int, max_seconds: float = math.inf) -> Tensor:
    """A clip as it is scored, channels averaged, at a sample rate in Hz, [time].

    Raises:
        AudioFileError: It cannot be read.
    """
    audio = read_audio(path, max_seconds)
    return resample(audio.waveform.mean(0), audio.sample_rate, sample_rate)


def _time(function: Callable[..., Tensor], *arguments: Tensor | int) -> tuple[Tensor, float]:
    start = perf_counter()
    result = function(*arguments)
    if result.is_cuda:
        torch.cuda.synchronize(result.device)
    return result, perf_counter() - start


def _to_samples(waveform: Tensor) -> Samples:
    return waveform.cpu().numpy().ravel()
