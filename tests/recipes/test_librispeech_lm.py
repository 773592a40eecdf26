"""The training script of language models as it is started from a shell, on made-up codes."""

import json
import math
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import Tensor

from codec.lm import CodeLM
from codec.lm.loss import score, to_score
from codec.lm.windows import MappedSequences
from codec.shards import CodecFacts, Row, finish, write_shard
from codec.tokens import CodecTokenizer
from codec.train.checkpoint import list_checkpoints, load_checkpoint, step_of

ROOT = Path(__file__).parents[2]
SCRIPT = ROOT / "recipes" / "librispeech_lm" / "train.py"
TIMEOUT = 600
CODES, FRAME_RATE = 8, 12.5

RECIPE = """
name = "smallest_lm"
[data]
window_steps = 16
batch_size = 4
[model]
hidden_size = 16
layers = 1
heads = 2
feed_forward = 32
max_steps = 64
dropout = 0.1
[optimizer]
learning_rate = 1e-2
warmup_steps = 2
[run]
steps = 40
mixed_precision = "no"
log_every = 1
save_every = 4
validate_every = 8
"""


def write_corpus(folder: Path, seed: int, pattern: str = "delay", fingerprint: str = "00ff") -> None:
    """Eight clips of two stages: the first counts up from a random code, the second is one ahead of it."""
    tokenizer = CodecTokenizer(2, CODES, pattern, fingerprint=fingerprint, frame_rate=FRAME_RATE)
    facts = CodecFacts("tiny", fingerprint, 16_000, FRAME_RATE, CODES, 2)
    generator = np.random.default_rng(seed)
    rows = []
    for index in range(8):
        first = np.arange(generator.integers(10, 30)) + generator.integers(CODES)
        codes = (np.stack([first, first + 1]) % CODES).astype(np.uint16)
        rows.append(Row(f"{index}", f"{index}.flac", codes, codes.shape[1] / FRAME_RATE, None, None))
    tokenizer.save_pretrained(folder)
    write_shard(folder, 0, rows, [], facts, tokenizer)
    finish(folder)


@pytest.fixture(scope="module")
def tokens(tmp_path_factory) -> Path:
    """Two corpora, train and valid."""
    root = tmp_path_factory.mktemp("tokens")
    for seed, name in enumerate(("train", "valid")):
        write_corpus(root / name, seed)
    return root


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "smallest_lm.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def start(recipe, tokens) -> Iterator[Callable[..., subprocess.Popen[str]]]:
    """Start a run: `start(output, *arguments, launcher=())`."""
    processes = []

    def start(output, *arguments, launcher=()):
        command = [sys.executable, *launcher, SCRIPT, recipe, "--data", tokens, "--output", output, *arguments]
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=ROOT,
            env={**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1", "ACCELERATE_USE_CPU": "true"},
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
            start_new_session=True,  # so that a signal reaches the processes that it starts, too
        )
        processes.append(process)
        return process

    yield start
    for process in processes:
        if process.poll() is None:
            os.killpg(process.pid, signal.SIGKILL)
        process.communicate()


def finish_run(process: subprocess.Popen[str]) -> str:
    """Wait for a run to succeed; what it printed."""
    stdout, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, stderr
    return stdout


@pytest.fixture(scope="module")
def finished(start, tmp_path_factory) -> Path:
    """The folder of a run that was not interrupted."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    finish_run(start(output))
    return output


@pytest.fixture
def script(monkeypatch, load_script) -> Iterator[Any]:
    """The script inside of this process, which is quicker."""
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
    script = load_script(SCRIPT)
    monkeypatch.setattr("codec.train.accelerator.keep_freed_memory", lambda: True)
    yield script
    AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture
def train(script, monkeypatch, recipe, tokens, tmp_path) -> Callable[..., None]:
    """Train inside of this process: `train(*arguments)`."""

    def train(*arguments):
        defaults = [recipe, "--data", tokens, "--output", tmp_path / "run"]
        monkeypatch.setattr(sys, "argv", ["train.py", *map(str, [*defaults, *arguments])])
        script.main()

    return train


@pytest.fixture
def refuse(train) -> Callable[..., str]:
    """What `train(*arguments)` ends with, one line."""

    def refuse(*arguments):
        with pytest.raises(SystemExit) as ending:
            train(*arguments)
        assert str(ending.value).count("\n") == 0
        return str(ending.value)

    return refuse


def read_lines(path: Path) -> list[dict[str, Any]]:
    """The lines of a log, without the number that differs from run to run."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        line.pop("steps_per_second", None)
    return lines


def leaves(state: Any, where: str = "") -> dict[str, Any]:
    """What nested dicts and lists hold, by path."""
    if isinstance(state, dict | list | tuple):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {path: leaf for key, value in items for path, leaf in leaves(value, f"{where}/{key}").items()}
    return {where: state}


@pytest.mark.slow
def test_it_learns_what_codes_follow_each_other(finished, tokens):
    log, validations = read_lines(finished / "log.jsonl"), read_lines(finished / "valid.jsonl")
    assert [line["step"] for line in log] == list(range(1, 41))
    assert [line["step"] for line in validations] == [8, 16, 24, 32, 40]
    # What codes cost without a model that learned.
    uniform = 2 * FRAME_RATE * math.log2(CODES)
    assert 0.6 * uniform < validations[0]["bits_per_second"] < 1.3 * uniform
    assert validations[-1]["bits_per_second"] < 0.5 * uniform
    for line in validations:
        assert sum(line["bits_by_stage"]) == pytest.approx(line["bits_per_second"])
        frames = line["seconds"] * FRAME_RATE
        # Tokens: two a frame, and an end for each of eight clips.
        nats = line["nats"] * (2 * frames + 8)
        assert nats / math.log(2) / line["seconds"] == pytest.approx(line["bits_per_second"])
    rates = [line["learning_rate"] for line in log]
    assert rates[:2] == [5e-3, 1e-2]
    assert rates[1:] == sorted(rates[1:], reverse=True)


@pytest.mark.slow
def test_it_leaves_models_checkpoints_facts_and_events(finished, tokens):
    validations = {line["step"]: line["bits_per_second"] for line in read_lines(finished / "valid.jsonl")}
    sequences = MappedSequences(tokens / "valid")
    for folder, expected in [("model", validations[40]), ("best_model", min(validations.values()))]:
        lm = CodeLM.from_pretrained(finished / folder)
        told = to_score(score(lm, sequences, range(8)), 8, lm.tokenizer.frame_rate)
        assert told.bits_per_second == pytest.approx(expected, rel=1e-4)
        assert lm.tokenizer.fingerprint == "00ff"
    assert [step_of(path) for path in list_checkpoints(finished / "checkpoints")] == [36, 40]
    facts = json.loads((finished / "run.json").read_text())
    assert (facts["clips"], facts["pattern"], facts["processes"]) == (8, "delay", 1)
    assert facts["steps_of_corpus"] == MappedSequences(tokens / "train").num_steps.sum()
    assert json.loads((finished / "recipe.json").read_text())["run"]["steps"] == 40
    (events,) = finished.glob("**/events.out.tfevents.*")
    content = events.read_bytes()
    assert all(name in content for name in (b"train/nats_by_stage/stage_02", b"valid/bits_per_second"))


@pytest.mark.slow
def test_a_run_that_is_killed_ends_as_if_it_had_not_been(start, finished, tmp_path):
    killed = tmp_path / "killed"
    chance, log = random.Random(0), killed / "log.jsonl"
    process = start(killed)
    # At a random moment after a random step: while it computes, validates or saves.
    target = f'{{"step": {chance.randint(5, 19)},'
    deadline = time.monotonic() + TIMEOUT
    while target not in (log.read_text() if log.exists() else ""):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)
    time.sleep(chance.uniform(0, 0.1))
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert not list((killed / "checkpoints").glob("*40.pt"))
    printed = finish_run(start(killed, "--resume"))
    assert "steps 0 to 40" not in printed
    for file in ("model/model.safetensors", "best_model/model.safetensors"):
        assert (killed / file).read_bytes() == (finished / file).read_bytes(), file
    ends = [leaves(load_checkpoint(list_checkpoints(run / "checkpoints")[-1])) for run in (killed, finished)]
    assert ends[0].keys() == ends[1].keys()
    for path, leaf in ends[0].items():
        other = ends[1][path]
        if not path.startswith("/recipe"):
            assert torch.equal(leaf, other) if isinstance(leaf, Tensor) else leaf == other, path
    for name in ("log.jsonl", "valid.jsonl"):
        assert read_lines(killed / name) == read_lines(finished / name)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns(start, train, tmp_path):
    settings = ["--set", "model.dropout = 0", "--set", "run.steps = 8"]
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node=2")
    two = start(tmp_path / "two", *settings, launcher=launcher)
    train(*settings)
    assert "2 x cpu" in finish_run(two)
    for name in ("log.jsonl", "valid.jsonl"):
        logs = [read_lines(tmp_path / run / name) for run in ("two", "run")]
        for lines in zip(*logs, strict=True):
            assert leaves(lines[0]) == pytest.approx(leaves(lines[1]), rel=1e-3)
    weights = [load_file(tmp_path / run / "model" / "model.safetensors") for run in ("two", "run")]
    for name, tensor in weights[0].items():
        torch.testing.assert_close(tensor, weights[1][name], rtol=1e-3, atol=1e-4, msg=name)


def test_the_best_model_is_that_of_the_best_validation(script, train, monkeypatch, tokens, tmp_path):
    # From step 16 on it goes uphill.
    monkeypatch.setattr(script, "cosine_with_warmup", lambda step, *rest: 1.0 if step < 16 else -1.0)
    train("--set", "run.steps = 24", "--set", "model.dropout = 0")
    bits = {line["step"]: line["bits_per_second"] for line in read_lines(tmp_path / "run" / "valid.jsonl")}
    assert bits[16] < min(bits[8], bits[24])
    best, last = (CodeLM.from_pretrained(tmp_path / "run" / name) for name in ("best_model", "model"))
    sequences = MappedSequences(tokens / "valid")
    for lm, expected in ((best, bits[16]), (last, bits[24])):
        assert to_score(score(lm, sequences, range(8)), 8, FRAME_RATE).bits_per_second == pytest.approx(expected)


def test_sequences_of_another_pattern_are_made_from_the_codes(train, tmp_path):
    train("--set", "data.pattern = 'flatten'", "--set", "data.num_quantizers = 1", "--set", "run.steps = 1")
    lm = CodeLM.from_pretrained(tmp_path / "run" / "model")
    assert (lm.tokenizer.pattern, lm.tokenizer.num_quantizers) == ("flatten", 1)
    (line,) = read_lines(tmp_path / "run" / "valid.jsonl")
    assert len(line["bits_by_stage"]) == 1


def test_a_run_that_diverges_says_so(refuse):
    message = refuse("--set", "optimizer.learning_rate = 1e30")
    assert message.startswith("error: loss and gradient must be finite; got ")
    assert message.endswith("; lower optimizer.learning_rate")


def test_a_run_goes_on_with_the_same_model_and_the_same_tokens_only(train, refuse, capsys, tmp_path):
    root = tmp_path / "tokens"
    for name in ("train", "valid"):
        write_corpus(root / name, 0)
    data = ["--data", root]
    train(*data, "--set", "run.steps = 2")
    assert "holds a run; pass --resume to go on with it" in refuse(*data)
    message = refuse(*data, "--resume", "--set", "model.hidden_size = 20")
    assert message.endswith("must be of the recipe's model; model.hidden_size: 16, now 20; run.steps: 2, now 40")
    capsys.readouterr()
    train(*data, "--resume", "--set", "run.steps = 3")
    assert "changed since the checkpoint: run.steps: 2, now 3" in capsys.readouterr().out
    assert [line["step"] for line in read_lines(tmp_path / "run" / "log.jsonl")] == [1, 2, 3]
    for name in ("train", "valid"):
        write_corpus(root / name, 0, fingerprint="0100")
    message = refuse(*data, "--resume")
    assert message.endswith("must be of the recipe's tokens; they are others: tokenizer.fingerprint: 00ff, now 0100")


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["--data", "/none"], "error: /none/train/codec_tokenizer.json: cannot be read: No such file or directory"),
        (["--set", "data.train = 'other'"], "other/codec_tokenizer.json: cannot be read"),
        (["--set", "model.max_steps = 8"], "error: model.max_steps must be at least data.window_steps 16; got 8"),
        (["--set", "data.window_steps = 65"], "error: model.max_steps must be at least data.window_steps 65; got 64"),
        (["--set", "data.window_steps = 1"], "error: data.window_steps must be more than a frame's 1 steps; got 1"),
        (["--set", "data.num_quantizers = 3"], "error: data.num_quantizers must be at most 2, of "),
        (["--set", "data.pattern = 'zigzag'"], "error: pattern must be one of "),
        (["--set", "model.codec = 'speech_16khz'"], "error: codec must be the one whose codes these are, "),
        (["--set", "model.layer = 3"], "error: unknown setting model.layer; did you mean 'layers'?"),
        (
            ["--set", "run.mixed_precision = 'fp8000'"],
            "error: run.mixed_precision must be one of auto, bf16, no; got 'fp8000'",
        ),
        (["--resume"], "run must hold a run to resume; found none"),
    ],
)
def test_what_cannot_be_trained_is_refused_and_leaves_nothing(refuse, tmp_path, arguments, message):
    assert message in refuse(*arguments)
    assert not (tmp_path / "run").exists()


def test_corpora_that_are_tokenized_differently_are_refused(refuse, tokens, tmp_path):
    write_corpus(tmp_path / "valid", 1, pattern="parallel", fingerprint="0100")
    message = refuse("--set", f"data.valid = '{tmp_path / 'valid'}'")
    assert message == (
        "error: data.train and data.valid must be tokenized alike; got fingerprint 00ff and 0100, "
        "pattern delay and parallel"
    )


def test_without_transformers_one_line_names_the_extra(monkeypatch, load_script):
    for name in [name for name in sys.modules if f"{name}.".startswith("codec.lm.")]:
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    with pytest.raises(SystemExit) as ending:
        load_script(SCRIPT)
    assert str(ending.value) == (
        "error: transformers must be installed for language models: pip install 'rvq-codec[lm]'"
    )


def test_without_tensorboard_one_line_names_the_extra(refuse, monkeypatch):
    # Accelerate looked for it when it was imported.
    monkeypatch.setattr("accelerate.tracking._available_trackers", [])
    with pytest.warns(UserWarning, match="no supported trackers"):
        message = refuse()
    assert message.startswith("error: trackers tensorboard must")
    assert message.endswith(": pip install 'rvq-codec[lm]'")
