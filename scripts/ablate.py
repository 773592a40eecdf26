"""Compare changes of a recipe on equal budgets: `scripts/ablate --help`."""

import json
import re
import subprocess
import sys
import tomllib
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Annotated, Any

import typer

TRAIN = Path(__file__).parents[1] / "recipes/train.py"


def main(
    plan: Annotated[Path, typer.Argument(help="TOML: recipe, settings of all rows, and settings of each row.")],
    data: Annotated[Path, typer.Option(help="Folder that the recipe's data lies in.")],
    output: Annotated[Path, typer.Option(help="Folder of the runs, one folder a row.")] = Path("runs/ablations"),
    row: Annotated[list[str] | None, typer.Option(help="Only this row; may be repeated.")] = None,
    jobs: Annotated[int, typer.Option(min=1, help="Runs at the same time, one thread each.")] = 1,
    setting: Annotated[list[str] | None, typer.Option("--set", help="A setting of all rows, as in recipes.")] = None,
) -> None:
    """Train each row that has no result yet, and print all results as a Markdown table."""
    text = tomllib.loads(plan.read_text())
    rows = {name: settings for name, settings in text["rows"].items() if not row or name in row}
    common = [*text["settings"], *(setting or [])]
    recipe = plan.parent / text["recipe"]
    with ThreadPoolExecutor(jobs) as pool:
        tasks = [
            pool.submit(train, recipe, data, output / slug(name), [*common, *settings])
            for name, settings in rows.items()
        ]
        for name, task in zip(rows, tasks, strict=True):
            if message := task.result():
                print(f"{name}: {message}", file=sys.stderr)
    for line in table({name: output / slug(name) for name in rows}):
        print(line)


def slug(name: str) -> str:
    """A folder's name for a row."""
    return re.sub(r"[^a-z0-9]+", "_", name.lower()).strip("_")


def train(recipe: Path, data: Path, folder: Path, settings: list[str]) -> str:
    """Run a row that has no result, or the rest of it; what it printed last if it failed, or nothing."""
    if has_ended(folder):
        return ""
    folder.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, str(TRAIN), str(recipe), "--data", str(data), "--output", str(folder)]
    command += ["--resume"] if folder.exists() else []
    for each in settings:
        command += ["--set", each]
    printed = folder.with_suffix(".log")
    with printed.open("w") as log:
        code = subprocess.run(command, stdout=log, stderr=subprocess.STDOUT, check=False).returncode
    return printed.read_text().strip()[-1000:] if code else ""


def table(folders: dict[str, Path]) -> list[str]:
    """Lines of Markdown: for each row its scores at each bitrate, parameters, and the time of training."""
    results = {
        name: json.loads(last_line(folder / "valid.jsonl")) for name, folder in folders.items() if has_ended(folder)
    }
    if not results:
        return ["no results yet"]
    bitrates = [key for key in next(iter(results.values())) if key != "step"]
    lines = [
        f"| row | {' | '.join(bitrates)} | M parameters | s a step |",
        f"| --- | {' | '.join('---' for _ in bitrates)} | ---: | ---: |",
    ]
    for name, result in results.items():
        cells = [cell(result[key]) for key in result if key != "step"]
        facts = load_facts(folders[name] / "run.json")
        lines.append(
            f"| {name} | {' | '.join(cells)} | {facts['parameters'] / 1e6:.1f} | {step_seconds(folders[name]):.2f} |"
        )
    return lines


def cell(scores: dict[str, float]) -> str:
    return f"{scores['pesq_wb']:.2f} / {scores['stoi']:.3f}"


def has_ended(folder: Path) -> bool:
    """Whether the run of a row was validated after its last step."""
    scores = folder / "valid.jsonl"
    return (
        scores.exists() and json.loads(last_line(scores))["step"] == load_facts(folder / "recipe.json")["run"]["steps"]
    )


def load_facts(path: Path) -> dict[str, Any]:
    """What a run wrote about itself."""
    facts: dict[str, Any] = json.loads(path.read_text())
    return facts


def last_line(path: Path) -> str:
    return path.read_text().splitlines()[-1]


def step_seconds(folder: Path) -> float:
    """Median over the lines of the log."""
    data = load_facts(folder / "recipe.json")["data"]
    seconds = data["batch_size"] * data["crop_seconds"]
    rates = sorted(json.loads(line)["audio_seconds_per_second"] for line in (folder / "log.jsonl").open())
    return float(seconds / rates[len(rates) // 2])


if __name__ == "__main__":
    typer.run(main)
