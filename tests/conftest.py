"""What every test runs under, and the speech that many of them use."""

import importlib.util
import inspect
import pickle
import random
import subprocess
import sys
import threading
from collections.abc import Callable, Iterator
from pathlib import Path
from types import ModuleType
from typing import Any

import numpy as np
import pytest
import soundfile
import torch
from torch import Tensor

# Small tensors: more threads cost more to wake than they save.
torch.set_num_threads(1)


@pytest.fixture(autouse=True)
def _seed() -> None:
    """The same random numbers in every test, whichever tests ran before it."""
    random.seed(0)
    np.random.seed(0)
    torch.manual_seed(0)


@pytest.fixture(scope="session")
def load_script() -> Callable[[Path], ModuleType]:
    """Makes a module of a script that is in no package."""

    def load(path: Path) -> ModuleType:
        spec = importlib.util.spec_from_file_location(path.stem, path)
        script = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(script)
        return script

    return load


@pytest.fixture(scope="session")
def clips() -> list[Path]:
    """Short clips of real speech by three speakers, 16 kHz mono FLAC."""
    return sorted((Path(__file__).parent / "data").glob("*.flac"))


@pytest.fixture(scope="session")
def _samples(clips: list[Path]) -> Tensor:
    samples, sample_rate = soundfile.read(clips[-1], dtype="float32")
    assert sample_rate == 16_000
    return torch.from_numpy(samples)


@pytest.fixture
def speech(_samples: Tensor) -> Tensor:
    """5.9 s of real speech at 16 kHz, [1, 1, time]; a copy, so that a test may write into it."""
    return _samples.clone()[None, None]


@pytest.fixture(scope="session")
def librispeech(clips: list[Path], tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A corpus in the layout of LibriSpeech: train-clean-100 of three speakers, dev-clean of one; read only."""
    root = tmp_path_factory.mktemp("LibriSpeech")
    for clip in clips:
        speaker, chapter, _ = clip.stem.split("-")
        samples, sample_rate = soundfile.read(clip, dtype="int16")
        splits = ["train-clean-100", "train-clean-100", "dev-clean"] if clip == clips[0] else ["train-clean-100"] * 2
        for number, split in enumerate(splits):
            folder = root / split / speaker / chapter
            folder.mkdir(parents=True, exist_ok=True)
            utterance = samples[sample_rate * number : sample_rate * (number + 1)]
            soundfile.write(folder / f"{speaker}-{chapter}-{number:04d}.flac", utterance, sample_rate)
    return root


class Ranks:
    """Processes that work together. They live for many tests, since importing torch takes each of them seconds.

    Args:
        count: How many.
        folder: For what they leave.
    """

    def __init__(self, count: int, folder: Path):
        self.count = count
        self.folder = folder
        self._processes: list[subprocess.Popen[bytes]] = []

    def __call__(self, function: Callable[..., Any], *arguments: Any) -> list[Any]:
        """Call `function(rank, *arguments)`, of a test file, in every process; what each returned.

        `rank` is a `Rank` of `tests/rank.py`.
        """
        if any(process.poll() is not None for process in self._processes):
            self.stop()
        if not self._processes:
            self._start()
        watchdog = threading.Timer(600, self._kill)
        watchdog.start()
        try:
            for process in self._processes:
                pickle.dump((inspect.getfile(function), function.__name__, arguments), process.stdin)
                process.stdin.flush()
            answers = [pickle.load(process.stdout) for process in self._processes]
        except (EOFError, OSError):
            self.stop()
            pytest.fail("\n".join(path.read_text() for path in sorted(self.folder.glob("*.stderr"))) or "no answer")
        finally:
            watchdog.cancel()
        if any(error for _, error in answers):
            pytest.fail("\n".join(f"rank {index}: {error}" for index, (_, error) in enumerate(answers)))
        return [value for value, _ in answers]

    def stop(self) -> None:
        """End the processes; another call starts new ones."""
        self._kill()
        for process in self._processes:
            process.communicate()
        self._processes = []

    def _start(self) -> None:
        script = Path(__file__).with_name("rank.py")
        for store in self.folder.glob("store_*"):
            store.unlink()
        for index in range(self.count):
            with (self.folder / f"{index}.stderr").open("w") as stderr:
                command = [sys.executable, script, str(index), str(self.count), self.folder]
                pipe = subprocess.PIPE
                self._processes.append(subprocess.Popen(command, stdin=pipe, stdout=pipe, stderr=stderr))

    def _kill(self) -> None:
        for process in self._processes:
            process.kill()


@pytest.fixture(scope="session")
def two_ranks(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Ranks]:
    """Two processes: `two_ranks(function, *arguments)` calls `function(rank, *arguments)` in both."""
    ranks = Ranks(2, tmp_path_factory.mktemp("ranks"))
    yield ranks
    ranks.stop()
