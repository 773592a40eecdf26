"""A model small enough for every test, and two ways to run the command."""

import signal
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import NamedTuple

import pytest
import soundfile
import torch
from typer.testing import CliRunner, Result

from codec import CodecConfig, build_codec
from codec.cli.main import app
from codec.model import ModelConfig, QuantizerConfig

ROOT = Path(__file__).parents[2]


class Finished(NamedTuple):
    """What a process left."""

    exit_code: int
    stdout: str
    stderr: str


def save_tiny_model(folder: Path, clip: Path, seed: int) -> Path:
    """A codec of 300, 600, ... 3000 bit/s that never learned anything but its codebooks, from one clip."""
    torch.manual_seed(seed)
    config = CodecConfig(
        name=f"tiny_{seed}",
        model=ModelConfig(dim=32, encoder_depth=1, decoder_depth=1, latent_dim=16),
        quantizer=QuantizerConfig(num_quantizers=10, codebook_size=64),
    )
    codec = build_codec(config).train()
    samples, _ = soundfile.read(clip, dtype="float32")
    with torch.no_grad():
        codec(torch.from_numpy(samples)[None, None])
    codec.save_pretrained(folder)
    return folder


@pytest.fixture(scope="session")
def model_folder(tmp_path_factory, clips) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "tiny", clips[-1], seed=1)


@pytest.fixture(scope="session")
def other_model_folder(tmp_path_factory, clips) -> Path:
    return save_tiny_model(tmp_path_factory.mktemp("models") / "other", clips[-1], seed=2)


@pytest.fixture(autouse=True)
def _signals() -> Iterator[None]:
    """Signals as a terminal has them, whatever started the tests: `nohup` ignores some, and its children with it."""
    usual = {
        signal.SIGINT: signal.default_int_handler,
        signal.SIGTERM: signal.SIG_DFL,
        signal.SIGHUP: signal.SIG_DFL,
    }
    before = {number: signal.signal(number, handler) for number, handler in usual.items()}
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.fixture
def run() -> Callable[..., Result]:
    """Run the command inside of this process: `run("encode", path)`."""
    return lambda *arguments: CliRunner().invoke(app, [str(argument) for argument in arguments])


@pytest.fixture
def start_python() -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start Python in a process of its own: `start_python("-m", "codec.cli.main", "encode", path)`.

    Options are those of `Popen`.
    """
    processes = []

    def start(*arguments, stdin=subprocess.DEVNULL, stdout=subprocess.PIPE, **options):
        command = [sys.executable, *map(str, arguments)]
        options = {"cwd": ROOT, "stderr": subprocess.PIPE, "text": True, **options}
        processes.append(subprocess.Popen(command, stdin=stdin, stdout=stdout, **options))
        return processes[-1]

    yield start
    for process in processes:
        process.kill()
        process.communicate()


@pytest.fixture
def run_process(start_python) -> Callable[..., Finished]:
    """Run the command as a shell does, in a process of its own."""

    def run(*arguments):
        process = start_python("-m", "codec.cli.main", *arguments)
        stdout, stderr = process.communicate(timeout=300)
        return Finished(process.returncode, stdout, stderr)

    return run


@pytest.fixture
def speech_file(tmp_path, clips) -> Path:
    """A WAV file of half a second of speech, alone in its folder."""
    samples, sample_rate = soundfile.read(clips[-1], start=16_000, frames=8_000)
    (tmp_path / "work").mkdir()
    soundfile.write(tmp_path / "work" / "speech.wav", samples, sample_rate)
    return tmp_path / "work" / "speech.wav"


@pytest.fixture
def code_file(speech_file, model_folder, run) -> Path:
    """A file of codes of the tiny model, alone in its folder."""
    result = run("encode", speech_file, "--model", model_folder)
    assert result.exit_code == 0, result.output
    speech_file.unlink()
    return speech_file.with_suffix(".rvq")
