"""One page about a training run, in one file that needs nothing else: facts, curves, use of the codebooks, quality."""

import json
from base64 import b64encode
from collections.abc import Iterable, Iterator, Sequence
from html import escape
from pathlib import Path
from statistics import median
from typing import TYPE_CHECKING, Any

from codec.evaluate.history import Line, read_lines, scalar_names, scores_by_bitrate
from codec.evaluate.plots import SCORES, WIDTH, curves, rate_distortion, to_png, usage_map, validation_curves

if TYPE_CHECKING:
    from matplotlib.figure import Figure

LOG, VALIDATIONS, RECIPE, FACTS, PAGE = "log.jsonl", "valid.jsonl", "recipe.json", "run.json", "report.html"
PIXELS = 1.6  # of the pictures, for each of the page: sharp on fine screens, too

STYLE = """
body { max-width: 920px; margin: 2em auto; padding: 0 10px; font: 15px/1.5 sans-serif; color: #222; }
h1, h2 { font-weight: 600; }
h2 { margin-top: 2em; border-bottom: 1px solid #ccc; }
figure { display: inline-block; margin: 0.5em 0; vertical-align: top; }
figcaption { color: #666; }
img { max-width: 100%; height: auto; }
table { border-collapse: collapse; }
th, td { padding: 2px 12px 2px 0; text-align: left; }
td { font-variant-numeric: tabular-nums; }
pre { overflow-x: auto; background: #f5f5f5; padding: 1em; }
"""


def write_page(run: Path, output: Path | None = None) -> Path:
    """Write the page about a run that is over or goes on.

    Args:
        run: Folder of the run, with `log.jsonl`, and perhaps `valid.jsonl` (validations), `recipe.json` (settings) and
            `run.json` (facts).
        output: The file to write. Default: `report.html` in the folder of the run.

    Returns:
        Path of the page.

    Raises:
        ValueError: There is no log, or one of the files holds something else.
        OSError: A file cannot be read, or the page not be written.
    """
    if not (run / LOG).is_file():
        raise ValueError(f"{run} must hold the log of a training run, {LOG}; found none")
    lines = read_lines(run / LOG)
    if not lines:
        raise ValueError(f"{run / LOG} must hold at least one whole line; got none")
    validations = read_lines(run / VALIDATIONS) if (run / VALIDATIONS).is_file() else []
    recipe = _read_json(run / RECIPE)
    name = str(recipe.get("name", run.resolve().name))
    parts = [
        f"<h1>{escape(name)}</h1>",
        _table(_facts(run, lines, recipe)),
        *_course(lines),
        *_usage(lines),
        *_quality(validations),
    ]
    if recipe:
        settings = escape(json.dumps(recipe, indent=2))
        parts.append(f"<h2>Recipe</h2><details><summary>All settings</summary><pre>{settings}</pre></details>")
    page = output or run / PAGE
    page.write_text(
        f'<!DOCTYPE html>\n<html lang="en">\n<head>\n<meta charset="utf-8">\n<title>{escape(name)}</title>\n'
        f"<style>{STYLE}</style>\n</head>\n<body>\n" + "\n".join(parts) + "\n</body>\n</html>\n",
        encoding="utf-8",
    )
    return page


def _facts(run: Path, lines: Sequence[Line], recipe: dict[str, Any]) -> Iterator[tuple[str, ...]]:
    planned = recipe.get("run", {}).get("steps")
    yield "steps", f"{lines[-1]['step']}" + (f" of {planned}" if planned else "")
    if speeds := [line["audio_seconds_per_second"] for line in lines if "audio_seconds_per_second" in line]:
        yield "speed", f"{median(speeds):.1f} s of audio per second (median)"
    for name, value in _read_json(run / FACTS).items():
        yield name.replace("_", " "), f"{value:,}" if isinstance(value, int) else f"{value}"


def _course(lines: Sequence[Line]) -> Iterator[str]:
    if losses := scalar_names(lines, "loss"):
        yield "<h2>Losses</h2>"
        yield _picture("Losses by step", curves(lines, losses), "A red cross is a value that is not finite.")
    others = [name for group in ("gradient", "learning_rate", "throughput") for name in scalar_names(lines, group)]
    if others:
        yield "<h2>Gradients, learning rates, throughput</h2>"
        yield _picture("Gradients, learning rates and throughput by step", curves(lines, others))


def _usage(lines: Sequence[Line]) -> Iterator[str]:
    lines = [line for line in lines if "perplexity" in line]
    if not lines:
        return
    steps = [line["step"] for line in lines]
    perplexity, entropy, dead_share = (
        [line[name] for line in lines] for name in ("perplexity", "entropy", "dead_share")
    )
    title = "perplexity: effective number of codes"
    yield "<h2>Use of the codebooks</h2>"
    yield _picture(title, usage_map(steps, perplexity, title), "A row that turns dark is a stage that collapses.")
    title = "entropy, as a share of the possible"
    yield _picture(title, usage_map(steps, entropy, title, limits=(0, 1), width=WIDTH / 2))
    title = "share of codes that did not occur"
    yield _picture(title, usage_map(steps, dead_share, title, limits=(0, 1), dark_is_high=True, width=WIDTH / 2))


def _quality(validations: Sequence[Line]) -> Iterator[str]:
    yield "<h2>Quality</h2>"
    scores = scores_by_bitrate(validations[-1]) if validations else {}
    if not scores:
        yield "<p>No validation yet.</p>"
        return
    yield f"<p>The last validation, after step {validations[-1]['step']}:</p>"
    rows = [
        (f"{bitrate}", *(f"{means[name]:.3f}" if name in means else "-" for name in SCORES))
        for bitrate, means in scores.items()
    ]
    yield _table(rows, headings=("bit/s", *SCORES.values()))
    yield _picture("Quality by bitrate", rate_distortion(scores))
    yield "<p>All validations:</p>"
    yield _picture("Quality by step", validation_curves(validations))


def _read_json(path: Path) -> dict[str, Any]:
    """What a file says, nothing if it is not there."""
    if not path.is_file():
        return {}
    try:
        values = json.loads(path.read_text(encoding="utf-8"))
    except ValueError as error:
        raise ValueError(f"{path} must be JSON; {error}") from None
    if not isinstance(values, dict):
        raise ValueError(f"{path} must hold a JSON object; got {type(values).__name__}")
    return values


def _table(rows: Iterable[Sequence[str]], headings: Sequence[str] = ()) -> str:
    head = "".join(f"<th>{escape(heading)}</th>" for heading in headings)
    body = ("".join(f"<td>{escape(cell)}</td>" for cell in row) for row in rows)
    return "\n".join(["<table>", *(f"<tr>{cells}</tr>" for cells in (head, *body) if cells), "</table>"])


def _picture(title: str, figure: "Figure", caption: str = "") -> str:
    data = b64encode(to_png(figure, PIXELS)).decode()
    width = round(100 * figure.get_figwidth())
    return (
        f'<figure><img width="{width}" alt="{escape(title)}" src="data:image/png;base64,{data}">'
        f"<figcaption>{escape(caption)}</figcaption></figure>"
    )
