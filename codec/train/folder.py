"""The folder of a run: who may write there, and what stands where."""

import json
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from codec.evaluate.page import LOG, RECIPE, VALIDATIONS
from codec.train.checkpoint import list_checkpoints
from codec.whole import clear_partial, write_whole


@dataclass(frozen=True)
class RunFolder:
    """Paths in the folder of a run.

    Attributes:
        path: The folder.
    """

    path: Path

    @property
    def checkpoints(self) -> Path:
        """Folder of what a resumed run needs."""
        return self.path / "checkpoints"

    @property
    def log(self) -> Path:
        """Losses and use of the codes, JSON lines."""
        return self.path / LOG

    @property
    def valid_log(self) -> Path:
        """Scores of the validation clips, JSON lines."""
        return self.path / VALIDATIONS

    @property
    def model(self) -> Path:
        """The averaged weights as of the last validation."""
        return self.path / "model"

    @property
    def best_model(self) -> Path:
        """The averaged weights of the best validation."""
        return self.path / "best_model"

    def check(self, resume: bool) -> None:
        """Refuse to write over another run, or to go on with none.

        Raises:
            ValueError: The folder holds a run that is not to be resumed, or none that could be.
        """
        # The recipe is written before the first step.
        begun = (self.path / RECIPE).exists() or self.log.exists() or bool(list_checkpoints(self.checkpoints))
        if begun and not resume:
            raise ValueError(f"{self.path} holds a run; pass --resume to go on with it, or another --output")
        if resume and not begun:
            raise ValueError(f"{self.path} must hold a run to resume; found none")

    @contextmanager
    def claimed(self, resume: bool) -> Iterator[None]:
        """Make the folder, and keep other runs out of it for as long; the system lets go when the process ends.

        What a killed run left half written is removed.

        Raises:
            ValueError: Another run is at work in it, or what `check` raises.
        """
        self.path.mkdir(parents=True, exist_ok=True)
        lock = FileLock(self.path / ".lock")
        try:
            lock.acquire(timeout=0)
        except Timeout:
            raise ValueError(f"{self.path} is in use by another run; wait for it, or pass another --output") from None
        try:
            self.check(resume)  # another run may have come and gone since it was asked
            for folder in (self.path, self.model, self.best_model):  # `save_checkpoint` clears that of checkpoints
                clear_partial(folder)
            yield
        finally:
            lock.release()

    def write_facts(self, name: str, facts: Mapping[str, Any]) -> None:
        """Write a JSON file for people and for `codec report`."""
        write_whole(self.path / name, (json.dumps(facts, indent=2) + "\n").encode())
