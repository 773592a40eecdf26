"""Speed and memory of the quantizer, side by side with vector-quantize-pytorch and with the floor.

The floor is what no quantizer that compares each row with each code vector can leave out, written as one would: for
each stage the matrix of distances, and its argmin.
"""

import argparse
import ctypes
import gc
import multiprocessing
import re
import statistics
import sys
import time
from collections.abc import Callable
from dataclasses import dataclass, replace
from importlib.metadata import version
from pathlib import Path
from typing import NamedTuple

import torch
from rich.console import Console
from rich.progress import track
from torch import Tensor
from vector_quantize_pytorch import ResidualVQ as PackageResidualVQ

from codec.quantize import ResidualVQ, VectorQuantize

IMPLEMENTATIONS = ["this project", "package", "floor"]


@dataclass(frozen=True)
class Case:
    """What is measured: a residual stack on random rows.

    `cosine` compares on the unit sphere, as the package does. The mode "encode" asks for codes alone: the package has
    nothing cheaper than its forward pass for them, which gives the quantized vectors as well.
    """

    rows: int
    dim: int
    codes: int
    stages: int
    distance: str
    mode: str
    estimator: str = "straight_through"
    device: str = "cpu"

    @property
    def size(self) -> str:
        return f"{self.rows} x {self.dim} x {self.codes} x {self.stages}"


SIZES = [(2400, 128, 1024, 8), (16000, 64, 4096, 4)]
CASES = [
    Case(*size, distance, mode)
    for size in SIZES
    for distance in ("euclidean", "cosine")
    for mode in ("train", "eval", "encode")
]


class Measurement(NamedTuple):
    """Milliseconds of a step, and MB that the process holds at its height beyond what it held before."""

    milliseconds: float
    megabytes: float


def main() -> None:
    arguments = parse_arguments()
    torch.set_num_threads(arguments.threads)
    cases = [replace(case, device=arguments.device, estimator=arguments.estimator) for case in CASES]
    measured = [
        measure(case, arguments.rounds, arguments.threads)
        for case in track(cases, "Measuring", console=Console(stderr=True), transient=True)
    ]
    where = f"{arguments.threads} threads" if arguments.device == "cpu" else torch.cuda.get_device_name()
    versions = f"torch {torch.__version__}, vector-quantize-pytorch {version('vector-quantize-pytorch')}"
    print(f"{arguments.estimator}, {versions}, {where}, float32, medians of {arguments.rounds} interleaved rounds\n")
    print(table(cases, measured))


def parse_arguments() -> argparse.Namespace:
    parser = argparse.ArgumentParser(
        prog="scripts/bench quantize", description="Measure one stack, trained and in eval mode."
    )
    parser.add_argument("--rounds", type=int, default=9, help="how often each is measured (default: 9)")
    parser.add_argument("--threads", type=int, default=torch.get_num_threads(), help="default: all cores")
    parser.add_argument(
        "--estimator", choices=["straight_through", "rotation"], default="straight_through", help="on both sides"
    )
    parser.add_argument("--device", choices=["cpu", "cuda"], default="cpu")
    arguments = parser.parse_args()
    if min(arguments.rounds, arguments.threads) < 1:
        parser.error("--rounds and --threads must be positive")
    if arguments.device == "cuda" and not torch.cuda.is_available():
        parser.error("--device cuda needs a GPU; found none")
    return arguments


def measure(case: Case, rounds: int, threads: int) -> dict[str, Measurement]:
    """Time all implementations in turn, so that what else the machine does falls on all; memory in fresh processes."""
    steps = {name: step_of(name, case) for name in IMPLEMENTATIONS}
    for step in steps.values():
        step()
    times: dict[str, list[float]] = {name: [] for name in steps}
    for _ in range(rounds):
        for name, step in steps.items():
            times[name].append(seconds(step, case.device))
    with multiprocessing.get_context("spawn").Pool(1, maxtasksperchild=1) as pool:
        memory = {name: pool.apply(peak_memory, (name, case, threads)) for name in steps}
    return {name: Measurement(1e3 * statistics.median(times[name]), memory[name]) for name in steps}


def seconds(step: Callable[[], None], device: str) -> float:
    synchronize(device)
    start = time.perf_counter()
    step()
    synchronize(device)
    return time.perf_counter() - start


def synchronize(device: str) -> None:
    if device == "cuda":
        torch.cuda.synchronize()


def peak_memory(name: str, case: Case, threads: int) -> float:
    """MB that a step takes at its height, once it has been taken before, scratch space of libraries included."""
    torch.set_num_threads(threads)
    step = step_of(name, case)
    for _ in range(3):
        step()
    if case.device == "cuda":
        return statistics.median(gpu_memory(step) for _ in range(3))
    if sys.platform != "linux":
        return float("nan")  # no other kernel tells the peak of a part of a process's life
    return statistics.median(process_memory(step) for _ in range(3))


def gpu_memory(step: Callable[[], None]) -> float:
    torch.cuda.empty_cache()
    torch.cuda.reset_peak_memory_stats()
    before = torch.cuda.memory_allocated()
    step()
    return (torch.cuda.max_memory_allocated() - before) / 1e6


def process_memory(step: Callable[[], None]) -> float:
    gc.collect()
    ctypes.CDLL(None).malloc_trim(0)
    before = process_status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the peak starts anew
    step()
    return (process_status("VmHWM") - before) / 1e3


def process_status(field: str) -> int:
    """KB, of this process."""
    match = re.search(rf"{field}:\s+(\d+) kB", Path("/proc/self/status").read_text())
    assert match is not None
    return round(int(match[1]) * 1.024)


def step_of(name: str, case: Case) -> Callable[[], None]:
    """A training step, forward, backward and EMA; or codes in eval mode."""
    torch.manual_seed(0)
    latents = torch.randn(1, case.dim, case.rows, device=case.device)  # [batch, dim, frames]
    if name == "floor":
        return floor_step(case, latents)
    if name == "package":
        return package_step(case, latents)
    return own_step(case, latents)


def own_step(case: Case, latents: Tensor) -> Callable[[], None]:
    distance = "unit_cosine" if case.distance == "cosine" else case.distance
    stages = [
        VectorQuantize(case.dim, case.codes, distance=distance, estimator=case.estimator, initializer="samples")
        for _ in range(case.stages)
    ]
    quantizer = ResidualVQ(stages).to(case.device)

    def train() -> None:
        x = latents.clone().requires_grad_()
        result = quantizer(x)
        (result.quantized.square().mean() + result.losses["commitment"]).backward()

    def encode() -> None:
        with torch.no_grad():
            quantizer.encode(latents)

    def evaluate() -> None:
        with torch.no_grad():
            quantizer(latents)

    train()  # places the code vectors
    return train if case.mode == "train" else prepared(quantizer, encode if case.mode == "encode" else evaluate)


def package_step(case: Case, latents: Tensor) -> Callable[[], None]:
    cosine = case.distance == "cosine"
    quantizer = PackageResidualVQ(
        dim=case.dim,
        codebook_size=case.codes,
        num_quantizers=case.stages,
        use_cosine_sim=cosine,
        rotation_trick=case.estimator == "rotation",
    ).to(case.device)
    rows = latents.transpose(1, 2).contiguous()  # the order that it prefers

    def train() -> None:
        x = rows.clone().requires_grad_()
        quantized, _, losses = quantizer(x)
        (quantized.square().mean() + losses.sum()).backward()

    def evaluate() -> None:
        with torch.no_grad():
            quantizer(rows)

    return train if case.mode == "train" else prepared(quantizer, evaluate)


def floor_step(case: Case, latents: Tensor) -> Callable[[], None]:
    rows = latents[0].T.contiguous()
    codebooks = [torch.randn(case.codes, case.dim, device=case.device) for _ in range(case.stages)]

    def step() -> None:
        with torch.no_grad():
            for vectors in codebooks:
                torch.addmm(vectors.square().sum(1), rows, vectors.T, alpha=-2).argmin(1)

    return step


def prepared(quantizer: torch.nn.Module, step: Callable[[], None]) -> Callable[[], None]:
    quantizer.eval()
    return step


def table(cases: list[Case], measured: list[dict[str, Measurement]]) -> str:
    """Markdown."""
    head = [
        "rows x dim x codes x stages",
        "distance",
        "mode",
        *(f"{name}, {unit}" for unit in ("ms", "MB") for name in IMPLEMENTATIONS),
        "package / this, time",
        "this / floor, time",
        "this / package, memory",
    ]
    lines = [head, ["---"] * 3 + ["---:"] * (len(head) - 3)]
    for case, of in zip(cases, measured, strict=True):
        own, package, floor = (of[name] for name in IMPLEMENTATIONS)
        lines.append(
            [
                case.size,
                case.distance,
                case.mode,
                *(f"{part.milliseconds:.1f}" for part in (own, package, floor)),
                *(f"{part.megabytes:.0f}" for part in (own, package, floor)),
                f"{package.milliseconds / own.milliseconds:.1f}",
                f"{own.milliseconds / floor.milliseconds:.2f}",
                f"{own.megabytes / package.megabytes:.2f}",
            ]
        )
    return "\n".join(f"| {' | '.join(line)} |" for line in lines)


if __name__ == "__main__":
    main()
