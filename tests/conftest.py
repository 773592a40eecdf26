"""What every test runs under, and the speech that many of them use."""

import random
from pathlib import Path

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
