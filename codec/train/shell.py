"""What the scripts of the recipes have in common at the shell: arguments, a progress bar, errors on one line."""

import argparse
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn, TimeRemainingColumn


def parse_arguments(description: str, data: str) -> argparse.Namespace:
    """The arguments of a training script: `recipe`, `output`, `set` (--data among it) and `resume`.

    Args:
        description: What the script does.
        data: What the folder holds that --data names.
    """
    parser = argparse.ArgumentParser(description=description)
    parser.add_argument("recipe", type=Path, help="a TOML file")
    parser.add_argument("--data", metavar="ROOT", help=f"folder that holds {data}; replaces data.root")
    parser.add_argument("--output", type=Path, help="folder of the run (default: runs/NAME)")
    parser.add_argument("--set", action="append", default=[], metavar="'TABLE.KEY = VALUE'", help="replace a setting")
    parser.add_argument("--resume", action="store_true", help="go on from the last checkpoint in the folder of the run")
    arguments = parser.parse_args()
    if arguments.data:
        arguments.set.append(f"data.root = '''{arguments.data}'''")
    return arguments


def progress_bar(console: Console) -> Progress:
    """Steps that were taken, and the time that the rest will take."""
    columns = (TextColumn("{task.description}"), BarColumn(), MofNCompleteColumn(), TimeElapsedColumn())
    return Progress(*columns, TimeRemainingColumn(), console=console)


@contextmanager
def one_line(*kinds: type[Exception]) -> Iterator[None]:
    """Turn errors that the user can put right into one line on stderr and exit status 1."""
    try:
        yield
    except kinds as error:
        sys.exit(f"error: {' '.join(str(error).split())}")
