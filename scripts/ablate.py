"""Compare changes of a recipe on equal budgets: `scripts/ablate --help`."""

import json
import re
import signal
import subprocess
import sys
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import asdict, dataclass
from pathlib import Path
from statistics import median_high
from typing import Annotated, NamedTuple

import typer

from codec.choose import choose
from codec.cli.errors import CommandError, one_line_errors
from codec.evaluate.history import read_lines, scores_by_bitrate
from codec.evaluate.page import FACTS, LOG, RECIPE, VALIDATIONS
from codec.settings import load_settings, settings_from
from codec.train.checkpoint import differences
from codec.train.recipe import Recipe, load_recipe

TRAIN = Path(__file__).parents[1] / "recipes/train.py"
# What is told or kept how often: a result does not depend on it.
INDIFFERENT = (
    *("name:", "data.workers:", "run.trackers:", "run.example_clips:", "run.keep:", "run.best:"),
    *("run.log_every:", "run.save_every:", "run.validate_every:"),
)
# Statuses of a run that Ctrl-C ended, as a shell and as Python tell them.
INTERRUPTED = (128 + signal.SIGINT, -signal.SIGINT)


@dataclass(frozen=True)
class Plan:
    """What to compare: a recipe (its path from the plan on), settings of all rows, and those of each by its name."""

    recipe: str
    settings: tuple[str, ...]
    rows: dict


class Result(NamedTuple):
    """What a row came to: scores by their bitrate in bit/s, parameters, and the median time of a step."""

    scores: dict[int, dict[str, float]]
    parameters: int
    step_seconds: float


def main(
    plan: Annotated[Path, typer.Argument(help="TOML: recipe, settings of all rows, and settings of each row.")],
    data: Annotated[Path, typer.Option(help="Folder that the recipe's data lies in.")],
    output: Annotated[Path, typer.Option(help="Folder of the runs, one folder a row.")] = Path("runs/ablations"),
    row: Annotated[list[str] | None, typer.Option(help="Only this row; may be repeated.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at the same time, one thread each.")] = 1,
    setting: Annotated[list[str] | None, typer.Option("--set", help="A setting of all rows, as in recipes.")] = None,
) -> None:
    """Train each row that has no result yet, and print all results as a Markdown table."""
    with one_line_errors(ValueError):
        text = load_settings(plan, Plan)
        check_rows(text.rows)
        rows = {name: choose(text.rows, name, "row") for name in row or text.rows}
    recipe, common = plan.parent / text.recipe, [*text.settings, *(setting or [])]
    with ThreadPoolExecutor(jobs) as pool:

        @contextmanager
        def interruptible() -> Iterator[None]:
            """Let Ctrl-C, whichever of the threads hears of it first, keep the rows that wait from beginning."""
            try:
                yield
            except KeyboardInterrupt:
                pool.shutdown(wait=False, cancel_futures=True)
                raise

        def run(name: str) -> Result:
            with interruptible():
                return train(recipe, data, output / slug(name), [*common, *rows[name]])

        with interruptible():
            results = collect({name: pool.submit(run, name) for name in rows})
    for line in table(results):
        print(line)
    if len(results) < len(rows):
        raise typer.Exit(1)


def check_rows(rows: dict) -> None:
    """Refuse, by ValueError, a row that is no list of settings, and two that would share a folder."""
    names: dict[str, str] = {}
    for name, settings in rows.items():
        if not isinstance(settings, list) or not all(isinstance(each, str) for each in settings):
            raise ValueError(f"row {name!r} must be a list of settings; got {settings!r}")
        if (other := names.setdefault(slug(name), name)) != name:
            raise ValueError(f"names of rows must differ in letters or digits; got {other!r} and {name!r}")


def slug(name: str) -> str:
    """A folder's name for a row."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def collect(tasks: dict[str, Future]) -> dict[str, Result]:
    """Results of the rows that come to one; why another does not is told."""
    results = {}
    for name, task in tasks.items():
        try:
            results[name] = task.result()
        except (CommandError, OSError, ValueError) as error:
            print(f"{name}: {error}", file=sys.stderr)
    return results


def train(recipe: Path, data: Path, folder: Path, settings: list[str]) -> Result:
    """Run a row that has no result, or the rest of it.

    Raises:
        CommandError: The training failed.
        KeyboardInterrupt: It was interrupted.
        ValueError: The settings are no recipe's, or others than those of the run in the folder.
        OSError: The recipe cannot be read, or the folder not written to.
    """
    planned = load_recipe(recipe, [*settings, f"data.root = {json.dumps(str(data))}"])
    if begun := (folder / RECIPE).exists():
        check_settings(folder / RECIPE, planned)
        if result := read_result(folder, planned):
            return result
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(TRAIN), str(recipe), "--data", str(data), "--output", str(folder)]
    command += ["--resume"] if begun else []
    for each in settings:
        command += ["--set", each]
    printed = folder.with_suffix(".log")
    with printed.open("w") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    if code in INTERRUPTED:
        raise KeyboardInterrupt
    result = read_result(folder, planned)
    if code or not result:
        last = printed.read_text(errors="replace").strip()[-1000:]
        raise CommandError(f"training ended with status {code} and printed {last or 'nothing'}")
    return result


def check_settings(path: Path, planned: Recipe) -> None:
    """Refuse, by ValueError, a run whose result is not that of the planned recipe."""
    # What a run before a new setting did is what its default does.
    before = settings_from(json.loads(path.read_text()), Recipe, f"{path}: ")
    changed = [line for line in differences(asdict(before), asdict(planned)) if not line.startswith(INDIFFERENT)]
    if changed:
        remedy = "remove the folder, or pass another --output"
        raise ValueError(f"{path.parent} holds a run of other settings: {'; '.join(changed)}; {remedy}")


def read_result(folder: Path, recipe: Recipe) -> Result | None:
    """What a run came to; None unless it was validated after its last step."""
    validations = read_lines(folder / VALIDATIONS) if (folder / VALIDATIONS).exists() else []
    if not validations or validations[-1]["step"] != recipe.run.steps:
        return None
    parameters = json.loads((folder / FACTS).read_text())["parameters"]
    speed = median_high(line["audio_seconds_per_second"] for line in read_lines(folder / LOG))
    step_seconds = recipe.data.batch_size * recipe.data.crop_seconds / speed
    return Result(scores_by_bitrate(validations[-1]), parameters, step_seconds)


def table(results: dict[str, Result]) -> list[str]:
    """Lines of Markdown: for each row its scores at each bitrate, parameters, and the time of training."""
    if not results:
        return ["no results yet"]
    bitrates = sorted({bitrate for result in results.values() for bitrate in result.scores})
    headings = ["row", *(f"{bitrate} bit/s" for bitrate in bitrates), "M parameters", "s a step"]
    ruler = [*["---"] * (1 + len(bitrates)), "---:", "---:"]
    rows = [
        [name, *(cell(scores.get(bitrate)) for bitrate in bitrates), f"{parameters / 1e6:.1f}", f"{seconds:.2f}"]
        for name, (scores, parameters, seconds) in results.items()
    ]
    return [f"| {' | '.join(cells)} |" for cells in (headings, ruler, *rows)]


def cell(scores: dict[str, float] | None) -> str:
    return f"{scores['pesq_wb']:.2f} / {scores['stoi']:.3f}" if scores else "-"


if __name__ == "__main__":
    typer.run(main)
