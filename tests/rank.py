"""One of several processes that work together: runs functions of test files, as the fixture `two_ranks` asks for them.

    python tests/rank.py INDEX COUNT FOLDER

Calls come as pickles on stdin, `(file, function, arguments)`; answers go as pickles to stdout, `(value, traceback)`.
"""

import importlib.util
import itertools
import os
import pickle
import sys
import traceback
from datetime import timedelta
from functools import cache
from pathlib import Path
from types import ModuleType
from typing import Any

import torch
import torch.distributed as dist


class Rank:
    """This process, as the functions of the tests see it.

    Attributes:
        index: Of this process.
        collectives: How many collectives it entered since it joined.
    """

    def __init__(self, index: int, count: int, store: Path):
        self.index = index
        self.collectives = 0
        self._count = count
        self._store = store

    def join(self) -> None:
        """Make the process group."""
        # A rank that waits for one that does not come must not wait forever.
        options = {"rank": self.index, "world_size": self._count, "timeout": timedelta(minutes=5)}
        dist.init_process_group("gloo", init_method=f"file://{self._store}", **options)
        # None may leave while another is still on its way: gloo would report a lost connection.
        dist.barrier()

    def all_reduce(self, *arguments: Any, **options: Any) -> Any:
        self.collectives += 1
        return ALL_REDUCE(*arguments, **options)


ALL_REDUCE = dist.all_reduce


@cache
def load(file: str) -> ModuleType:
    spec = importlib.util.spec_from_file_location(Path(file).stem, file)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def call(rank: Rank, file: str, function: str, arguments: tuple[Any, ...]) -> tuple[Any, str]:
    torch.manual_seed(0)
    dist.all_reduce = rank.all_reduce
    try:
        return getattr(load(file), function)(rank, *arguments), ""
    except Exception:
        return None, traceback.format_exc()
    finally:
        if dist.is_initialized():
            dist.destroy_process_group()


def main(index: int, count: int, folder: Path) -> None:
    sys.path[0] = str(Path(__file__).parents[1])  # the repository rather than this folder
    torch.set_num_threads(1)
    answers = os.fdopen(os.dup(1), "wb")
    os.dup2(2, 1)  # what a test prints is no answer
    for number in itertools.count():
        try:
            file, function, arguments = pickle.load(sys.stdin.buffer)
        except EOFError:
            return
        rank = Rank(index, count, folder / f"store_{number}")
        pickle.dump(call(rank, file, function, arguments), answers)
        answers.flush()


if __name__ == "__main__":
    main(int(sys.argv[1]), int(sys.argv[2]), Path(sys.argv[3]))
