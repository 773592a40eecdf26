"""Throughput of training recipes, without and with discriminators, and where the time goes.

The steps are those of a run: the trainer's, on random crops of real speech, which the recipe's workers read meanwhile.
They have read ahead when the first step begins, so a few steps hardly wait for data that comes too slowly: that shows
when reading a batch takes a worker longer than a step.
"""

import argparse
import functools
import platform
import statistics
import sys
import time
from collections.abc import Iterator
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass, replace
from importlib.metadata import version
from multiprocessing import get_context
from pathlib import Path
from typing import NamedTuple

import torch
from accelerate import Accelerator
from profile_step import Profile, label_codec, label_training, part, profile_step
from rich.console import Console
from rich.progress import track
from torch import Tensor, nn

from codec.corpora.clip import Clip
from codec.corpora.corpus import find_clips
from codec.discriminators import DiscriminatorConfig, build_discriminators
from codec.evaluate import markdown_table
from codec.train.batches import Batch, batches
from codec.train.crops import Crops
from codec.train.memory import keep_freed_memory
from codec.train.precision import choose_precision
from codec.train.recipe import Recipe, load_recipe
from codec.train.step import DivergedError, Trainer

# What a run places its codebooks by takes long to read, and does not matter for the speed.
INITIAL_EXAMPLES = 64
# So that workers read ahead until the last timed step, as they do in the midst of a run.
ENDLESS = 10**9
READINGS = 5
PROFILED_ROUNDS = 3
TOP = 5

WHAT_HEADINGS = ("recipe", "precision", "discriminators")
HEADINGS = (
    *WHAT_HEADINGS,
    "codec, M parameters",
    "discriminators, M parameters",
    "step, ms",
    "audio, s/s",
    "waiting for data",
    "reading a batch, CPU ms",
    "reading / step",
)


@dataclass(frozen=True)
class Case:
    """A recipe in a precision, and how it is measured."""

    recipe: Recipe
    clips: list[Clip]
    precision: str
    device: str
    threads: int
    steps: int

    @property
    def rounds(self) -> int:
        return -(-self.steps // self.recipe.adversarial.every)


class Measurement(NamedTuple):
    """Of the steps of a case, without or with discriminators.

    Attributes:
        what: Recipe, precision, discriminators.
        codec_parameters: How many.
        discriminator_parameters: How many.
        audio: Seconds of audio in a step.
        seconds: Of a step.
        waiting: Share of the time in which the step waits for data.
        reading: CPU seconds that it takes to read a batch.
        profile: Where the time goes.
    """

    what: tuple[str, str, str]
    codec_parameters: int
    discriminator_parameters: int
    audio: float
    seconds: float
    waiting: float
    reading: float
    profile: Profile

    def cells(self) -> tuple[str, ...]:
        return (
            *self.what,
            f"{self.codec_parameters / 1e6:.2f}",
            f"{self.discriminator_parameters / 1e6:.2f}",
            f"{1e3 * self.seconds:.0f}",
            f"{self.audio / self.seconds:.1f}",
            f"{self.waiting:.1%}",
            f"{1e3 * self.reading:.1f}",
            f"{self.reading / self.seconds:.1%}",
        )


def main() -> None:
    arguments = parse_arguments()
    try:
        cases = list_cases(arguments)
        measured = list(measure_all(cases))
    except (ValueError, OSError, DivergedError) as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
    print(f"{circumstances(arguments, cases)}\n")
    print(markdown_table(HEADINGS, [each.cells() for each in measured]))
    for by in ("parts", "operators"):
        print(f"\nWhere the time goes, the first {TOP} {by}:\n")
        rows = [(*each.what, *largest(getattr(each.profile, by))) for each in measured]
        print(markdown_table((*WHAT_HEADINGS, *map(str, range(1, TOP + 1)), "rest"), rows))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(prog="scripts/bench train", description="Measure the speed of training recipes.")
    parser.add_argument("recipes", nargs="+", type=Path, metavar="RECIPE", help="a TOML file")
    parser.add_argument("--data", metavar="ROOT", help="folder that holds the audio; replaces data.root")
    parser.add_argument("--set", action="append", default=[], metavar="'TABLE.KEY = VALUE'", help="replace a setting")
    parser.add_argument("--steps", type=int, default=6, help="timed steps without and with discriminators (default: 6)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: all cores")
    parser.add_argument(
        "--precision", nargs="+", choices=["auto", "no", "bf16", "fp16"], help="one or more (default: the recipe's)"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    if min(arguments.steps, arguments.threads) < 1:
        parser.error("--steps and --threads must be positive")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU; found none")
    if arguments.data:
        arguments.set.append(f"data.root = '''{arguments.data}'''")
    return arguments


def list_cases(arguments: argparse.Namespace) -> list[Case]:
    find = functools.cache(find_clips)
    cases = []
    for path in arguments.recipes:
        recipe = load_recipe(path, arguments.set)
        clips = find(Path(recipe.data.root) / recipe.data.train, recipe.data.min_seconds).clips
        names = arguments.precision or [recipe.run.mixed_precision]
        for precision in dict.fromkeys(choose_precision(name, torch.device(arguments.device)) for name in names):
            cases.append(Case(recipe, clips, precision, arguments.device, arguments.threads, arguments.steps))
    return cases


def measure_all(cases: list[Case]) -> Iterator[Measurement]:
    """Each case in a process of its own, since a process has one precision, and keeps the memory that it frees."""
    with ProcessPoolExecutor(1, mp_context=get_context("spawn"), max_tasks_per_child=1) as pool:
        done = pool.map(measure, cases)
        for measured in track(done, "Measuring", len(cases), console=Console(stderr=True), transient=True):
            yield from measured


def measure(case: Case) -> list[Measurement]:
    """Take steps without and with discriminators in turn, so that what else the machine does falls on both."""
    torch.set_num_threads(case.threads)
    if case.device == "cpu":
        keep_freed_memory()
    data, run = case.recipe.data, case.recipe.run
    accelerator = Accelerator(cpu=case.device == "cpu", mixed_precision=case.precision)
    examples = next(read(case, min(INITIAL_EXAMPLES, run.initial_examples)))
    reading = reading_seconds(case)
    kinds = [Steps(case, recipe, accelerator, examples.waveforms[0]) for recipe in kinds_of(case.recipe)]
    stream = read(case, data.batch_size, micro_batches=run.micro_batches, workers=data.workers)
    for kind in kinds:
        kind.take_round(stream)  # which is slower than those after it
    for _ in range(case.rounds):
        for kind in kinds:
            kind.time_round(stream)
    label_training()
    return [kind.describe(reading, kind.profile(stream)) for kind in kinds]


def kinds_of(recipe: Recipe) -> list[Recipe]:
    """Without discriminators, and, where the recipe has some, with discriminators that judge from the first step."""
    without = replace(recipe, discriminators=DiscriminatorConfig())
    judged = replace(recipe, adversarial=replace(recipe.adversarial, start=0))
    return [without, judged] if recipe.discriminators.kinds else [without]


def read(case: Case, batch_size: int, *, micro_batches: int = 1, workers: int = 0) -> Iterator[Batch]:
    data = case.recipe.data
    crops = Crops(
        case.clips,
        case.recipe.model.sample_rate,
        case.recipe.crop_length,
        case.recipe.run.seed,
        sampling=data.sampling,
        gain_db=data.gain_db,
        speed=data.speed,
    )
    return batches(
        crops,
        first_step=0,
        steps=ENDLESS,
        batch_size=batch_size,
        micro_batches=micro_batches,
        workers=workers,
        pin_memory=case.device == "cuda",
    )


def reading_seconds(case: Case) -> float:
    """CPU time of reading a batch, in this process, whose other threads are idle."""
    stream = read(case, case.recipe.data.batch_size)
    times = []
    for _ in range(READINGS):
        start = time.process_time()
        next(stream)
        times.append(time.process_time() - start)
    return statistics.median(times)


class Steps:
    """Steps of one kind, and what they took.

    They come in rounds of `adversarial.every`, in each of which the discriminators learn once.
    """

    def __init__(self, case: Case, recipe: Recipe, accelerator: Accelerator, examples: Tensor):
        torch.manual_seed(recipe.run.seed)
        self.case, self.recipe = case, recipe
        self.trainer = Trainer(accelerator, recipe)
        self.trainer.initialize(examples.to(case.device))
        self.step = 0
        self.seconds: list[float] = []  # of each round
        self.waiting = 0.0

    def time_round(self, stream: Iterator[Batch]) -> None:
        start = time.perf_counter()
        self.waiting += self.take_round(stream)
        self.seconds.append(time.perf_counter() - start)

    def take_round(self, stream: Iterator[Batch]) -> float:
        """Take steps; seconds of waiting for data."""
        waiting = 0.0
        for _ in range(self.recipe.adversarial.every):
            start = time.perf_counter()
            with part("data"):
                waveforms = [waveform.to(self.case.device, non_blocking=True) for waveform in next(stream).waveforms]
            waiting += time.perf_counter() - start
            self.trainer.take(self.step, waveforms)
            self.step += 1
        if self.case.device == "cuda":
            torch.cuda.synchronize()
        return waiting

    def profile(self, stream: Iterator[Batch]) -> Profile:
        label_codec(self.trainer.codec)
        rounds = min(PROFILED_ROUNDS, self.case.rounds)
        return profile_step(lambda: [self.take_round(stream) for _ in range(rounds)], self.case.device)

    def describe(self, reading: float, profile: Profile) -> Measurement:
        recipe, judges = self.recipe, self.recipe.discriminators
        return Measurement(
            what=(recipe.name, self.case.precision, ", ".join(judges.kinds) or "none"),
            codec_parameters=count_parameters(self.trainer.codec),
            discriminator_parameters=count_parameters(build_discriminators(judges)) if judges.kinds else 0,
            audio=recipe.data.batch_size * recipe.data.crop_seconds,
            seconds=statistics.median(self.seconds) / recipe.adversarial.every,
            waiting=self.waiting / sum(self.seconds),
            reading=reading,
            profile=profile,
        )


def count_parameters(network: nn.Module) -> int:
    return sum(parameter.numel() for parameter in network.parameters())


def largest(shares: dict[str, float]) -> list[str]:
    """Cells of the first few, and of what is left."""
    first = [f"{name} {share:.0%}" for name, share in list(shares.items())[:TOP]]
    rest = sum(list(shares.values())[TOP:])
    return [*first, *[""] * (TOP - len(first)), f"{rest:.0%}"]


def circumstances(arguments: argparse.Namespace, cases: list[Case]) -> str:
    """What the numbers hold for."""
    precisions = ", ".join(dict.fromkeys(case.precision for case in cases))
    gpu = f"{torch.cuda.get_device_name()}, " if arguments.device == "cuda" else ""
    return (
        f"torch {torch.__version__}, accelerate {version('accelerate')}, {gpu}{processor()}, "
        f"threads {arguments.threads}, precision {precisions}; medians of {arguments.steps} steps "
        "(or the next multiple of adversarial.every), without and with discriminators in turn"
    )


def processor() -> str:
    """Name of the CPU, and whether it has instructions for bfloat16: without them that is emulated, and slow."""
    # torch 2.11 has no such list.
    capabilities: dict[str, object] = getattr(torch.cpu, "get_capabilities", dict)()
    name = capabilities.get("cpu_name") or platform.processor() or platform.machine()
    instructions = [f"{'with' if capabilities.get(each) else 'no'} {each}" for each in ("avx512_bf16", "amx_bf16")]
    return f"{name} ({', '.join(instructions)})"


if __name__ == "__main__":
    main()
