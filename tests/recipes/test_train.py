"""The training script as it is started from a shell, on a few seconds of real speech."""

import json
import os
import random
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import soundfile
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file
from torch import Tensor

from codec.evaluate import si_sdr
from codec.model import Codec
from codec.train.checkpoint import list_checkpoints, load_checkpoint, step_of
from codec.train.recipe import load_recipe

ROOT = Path(__file__).parents[2]
TIMEOUT = 600

# As small as can be, with everything in it that a recipe can have.
RECIPE = """
name = "smallest"
[model]
look_ahead = 320
dim = 16
encoder_depth = 1
decoder_depth = 1
latent_dim = 16
[quantizer]
num_quantizers = 4
codebook_size = 16
[discriminators]
kinds = ["stft", "period"]
stft_windows = [256]
stft_channels = 2
periods = [3]
period_channels = 1
[data]
crop_seconds = 0.25
batch_size = 4
gain_db = [-6.0, 6.0]
workers = 0
[loss]
window_lengths = [512, 256]
num_mels = [40, 20]
balanced = true
[optimizer]
learning_rate = 1e-4
warmup_steps = 2
[adversarial]
start = 3
every = 2
[run]
steps = 6
mixed_precision = "no"
initial_examples = 8
log_every = 1
save_every = 2
validate_every = 3
example_clips = 1
"""

# Runs the training script, and leaves what each process ends with.
LEAVE_STATE = """
import os, runpy
import codec.model
from codec.train.launch import start_missing_processes
from safetensors.torch import save_file

start_missing_processes()  # here, that they run this script too

build, built = codec.model.build_codec, []
codec.model.build_codec = lambda config: built.append(build(config)) or built[-1]
runpy.run_path("recipes/train.py", run_name="__main__")
save_file(built[0].state_dict(), f"{os.environ['LEFT']}/{os.environ.get('RANK', 0)}.safetensors")
"""

Start = Callable[..., subprocess.Popen[str]]
Train = Callable[..., None]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "smallest.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def start(recipe, librispeech) -> Iterator[Start]:
    """Start a run: `start(output, *arguments)`; settings as keywords, `steps=3` for `run.steps`."""
    processes = []

    def start(
        output, *arguments, program=("recipes/train.py",), recipe=recipe, data=librispeech, environment=(), **settings
    ):
        command = [sys.executable, *program, recipe, "--data", data, "--output", output, *arguments, *to_set(settings)]
        process = subprocess.Popen(
            [str(word) for word in command],
            cwd=ROOT,
            env={
                **os.environ,
                "PYTHONPATH": str(ROOT),
                "OMP_NUM_THREADS": "1",
                "ACCELERATE_USE_CPU": "true",
                **dict(environment),
            },
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


@pytest.fixture(scope="module")
def finished(start, tmp_path_factory) -> Path:
    """The folder of a run that was not interrupted."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    finish(start(output))
    return output


@pytest.fixture
def train(monkeypatch, recipe, librispeech, load_script) -> Train:
    """Train inside of this process, which has imported what takes a new one longer than its steps."""
    script = load_script(ROOT / "recipes" / "train.py")
    monkeypatch.setattr("codec.train.accelerator.keep_freed_memory", lambda: True)
    monkeypatch.setenv("ACCELERATE_USE_CPU", "true")

    def train(output, *arguments, recipe=recipe, data=librispeech, **settings):
        words = ["train.py", recipe, "--data", data, "--output", output, *arguments, *to_set(settings)]
        monkeypatch.setattr(sys, "argv", [str(word) for word in words])
        try:
            script.main()
        finally:
            AcceleratorState._reset_state(reset_partial_state=True)

    return train


@pytest.fixture
def refuse(train) -> Callable[..., str]:
    """The line that `train(*arguments)` ends with."""

    def refuse(*arguments, **options):
        with pytest.raises(SystemExit) as ending:
            train(*arguments, **options)
        assert str(ending.value).count("\n") == 0
        return str(ending.value)

    return refuse


def to_set(settings: dict[str, object]) -> list[str]:
    """The arguments that set `run.steps` for `steps`, and so on."""
    return [word for name, value in settings.items() for word in ("--set", f"run.{name} = {json.dumps(value)}")]


def finish(process: subprocess.Popen[str]) -> str:
    """Wait for a run to succeed; what it printed."""
    stdout, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, stderr
    return stdout


def read_lines(path: Path) -> list[dict[str, object]]:
    """The lines of a log, without the numbers that differ from run to run."""
    lines = [json.loads(line) for line in path.read_text().splitlines()]
    for line in lines:
        for name in ("audio_seconds_per_second", "data_share"):
            line.pop(name, None)
    return lines


def leaves(state: Any, where: str = "") -> dict[str, Any]:
    """What nested dicts and lists hold, by path."""
    if isinstance(state, dict | list | tuple):
        items = state.items() if isinstance(state, dict) else enumerate(state)
        return {path: leaf for key, value in items for path, leaf in leaves(value, f"{where}/{key}").items()}
    return {where: state}


def assert_ended_alike(first: Path, second: Path) -> None:
    """Two runs left the same, to the bit: weights, averaged weights, optimizers, random states, logs."""
    for file in ("model/model.safetensors", "best_model/model.safetensors"):
        assert (first / file).read_bytes() == (second / file).read_bytes(), file
    states = [leaves(load_checkpoint(list_checkpoints(run / "checkpoints")[-1])) for run in (first, second)]
    assert states[0].keys() == states[1].keys()
    for path, leaf in states[0].items():
        other = states[1][path]
        assert torch.equal(leaf, other) if isinstance(leaf, Tensor) else leaf == other, path
    for log in ("log.jsonl", "valid.jsonl"):
        assert read_lines(first / log) == read_lines(second / log)


@pytest.mark.slow
def test_a_run_logs_every_loss_and_the_use_of_every_stage(finished):
    log = read_lines(finished / "log.jsonl")
    assert [line["step"] for line in log] == [1, 2, 3, 4, 5, 6]
    weights = {"log_mel": 1, "stft": 1, "waveform": 1, "commitment": 0.25, "adversarial": 1, "feature_matching": 2}
    for line in log:
        losses = {name: line[name] for name in weights if name in line}
        assert all(value > 0 for value in [*losses.values(), line["gradient_norm"]])
        assert line["loss"] == pytest.approx(sum(weights[name] * loss for name, loss in losses.items()), rel=1e-5)
        assert all(len(line[name]) == 4 for name in ("perplexity", "entropy", "dead_share", "bits_per_frame"))
        assert all(1 <= value <= 16 for value in line["perplexity"])
        assert (line["skipped_steps"], line["skipped_files"]) == (0, 0)
    assert ["discriminator" in line for line in log] == [False, False, False, True, True, True]
    assert ["discriminator_gradient_norm" in line for line in log] == [False, False, False, False, True, False]
    rates = [5e-5, 1e-4, 1e-4, 0.0000853553, 5e-5, 0.0000146447]
    assert [line["learning_rate"] for line in log] == pytest.approx(rates, rel=1e-5)


@pytest.mark.slow
def test_a_run_is_validated_at_three_bitrates(finished):
    lines = read_lines(finished / "valid.jsonl")
    assert [line.pop("step") for line in lines] == [3, 6]
    for line in lines:
        assert list(line) == ["200 bit/s", "400 bit/s", "800 bit/s"]
        for scores in line.values():
            assert set(scores) == {"pesq_wb", "stoi", "si_sdr", "mel_distance"}


@pytest.mark.slow
def test_a_run_leaves_a_model_checkpoints_facts_events_and_a_report(finished, recipe, speech):
    codec = Codec.from_pretrained(finished / "model")
    assert codec.config == load_recipe(recipe).codec
    codes = codec.encode(speech)
    assert codes.shape == (1, 4, 295)
    assert codec.decode(codes).abs().max() > 0.01
    # The last two, and that of the best validation.
    scores = {line["step"]: line["800 bit/s"]["pesq_wb"] for line in read_lines(finished / "valid.jsonl")}
    best = max(scores, key=scores.get)
    assert [step_of(path) for path in list_checkpoints(finished / "checkpoints")] == sorted({4, 6, best})
    assert Codec.from_pretrained(finished / "best_model").config == codec.config
    facts = json.loads((finished / "run.json").read_text())
    assert (facts["speakers"], facts["processes"], facts["clips"]) == (3, 1, 6)
    assert json.loads((finished / "recipe.json").read_text())["run"]["steps"] == 6
    assert list(finished.glob("**/events.out.tfevents.*"))
    assert "<img" in (finished / "report.html").read_text() or "<svg" in (finished / "report.html").read_text()


def last_checkpoint(run: Path) -> int:
    return max(map(step_of, list_checkpoints(run / "checkpoints")), default=0)


def wait_for_step(log: Path, step: int, process: subprocess.Popen[str]) -> None:
    deadline = time.monotonic() + TIMEOUT
    # A run that goes on has cut its log back to the checkpoint when it writes the first line.
    while f'{{"step": {step},' not in (log.read_text() if log.exists() else ""):
        assert process.poll() is None, process.communicate()[1]
        assert time.monotonic() < deadline
        time.sleep(0.002)


@pytest.mark.slow
def test_a_run_that_is_killed_six_times_ends_as_if_it_had_not_been(start, train, capsys, tmp_path):
    # Pictures for trackers would take most of the time.
    settings = {"steps": 120, "save_every": 4, "validate_every": 60, "log_every": 1, "trackers": []}
    whole, killed = tmp_path / "whole", tmp_path / "killed"
    uninterrupted = start(whole, **settings)
    chance, resumed_at = random.Random(0), []
    for number in range(6):
        # One of them reads its audio in a process of its own.
        process = start(killed, *["--resume"] * bool(number), "--set", f"data.workers = {number % 5 // 4}", **settings)
        # At a random moment of a random step after the checkpoint that it starts from: while it computes, writes a
        # checkpoint or validates; every other time surely after the next checkpoint, however fast the machine is.
        checkpoint = last_checkpoint(killed)
        resumed_at.append(checkpoint)
        wait_for_step(killed / "log.jsonl", checkpoint + chance.randint(1, 4) + 4 * (number % 2 == 0), process)
        time.sleep(chance.uniform(0, 0.1))
        os.killpg(process.pid, signal.SIGKILL)
        assert process.wait() == -signal.SIGKILL
    assert resumed_at == sorted(resumed_at)
    assert len(set(resumed_at)) >= 4
    assert last_checkpoint(killed) < 120
    finish(start(killed, "--resume", **settings))
    finish(uninterrupted)
    assert_ended_alike(killed, whole)
    # A run that is over has nothing to go on with.
    capsys.readouterr()
    train(killed, "--resume", **settings)
    assert "steps 120 to 120" in capsys.readouterr().out
    assert_ended_alike(killed, whole)


@pytest.mark.slow
def test_two_processes_learn_what_one_learns_on_the_joined_batch(start, tmp_path):
    (tmp_path / "leave_state.py").write_text(LEAVE_STATE)
    settings = {"steps": 30, "save_every": 30, "validate_every": 30, "trackers": []}
    launch = ("-m", "accelerate.commands.launch", "--num_processes", "2", "--cpu", tmp_path / "leave_state.py")
    two = start(tmp_path / "two", program=launch, environment={"LEFT": tmp_path}, **settings)
    one = start(tmp_path / "one", **settings)
    assert "2 x cpu" in finish(two)
    finish(one)

    for first, second in zip(
        read_lines(tmp_path / "two/log.jsonl"), read_lines(tmp_path / "one/log.jsonl"), strict=True
    ):
        assert leaves(first) == pytest.approx(leaves(second), abs=1e-4)
    for first, second in zip(*(read_lines(tmp_path / run / "valid.jsonl") for run in ("two", "one")), strict=True):
        for bitrate in ("200 bit/s", "400 bit/s", "800 bit/s"):
            assert first[bitrate] == pytest.approx(second[bitrate], abs=1e-2)
    ranks = [load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1)]
    (checkpoint,) = list_checkpoints(tmp_path / "one/checkpoints")
    alone = load_checkpoint(checkpoint)["trainer"]["generator"]["network"]
    for name, tensor in ranks[0].items():
        assert torch.equal(tensor, ranks[1][name]), name
        torch.testing.assert_close(tensor, alone[name], atol=1e-4, rtol=1e-4, msg=name)


@pytest.mark.slow
def test_two_processes_in_half_precision_and_two_parts_go_on_with_one(start, train, capsys, tmp_path):
    launch = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2", "recipes/train.py")
    settings = {"mixed_precision": "bf16", "micro_batches": 2, "trackers": []}
    finish(start(tmp_path / "run", program=launch, steps=4, **settings))
    train(tmp_path / "run", "--resume", steps=6, **settings)
    assert "changed since the checkpoint: run.steps: 4, now 6" in capsys.readouterr().out
    assert [line["step"] for line in read_lines(tmp_path / "run/log.jsonl")] == [1, 2, 3, 4, 5, 6]


@pytest.mark.slow
def test_the_temperature_ends_where_the_recipe_says(train, tmp_path):
    settings = ['quantizer.estimator = "gumbel_softmax"', "quantizer.temperature = [2.0, 0.25]"]
    train(tmp_path, *(argument for setting in settings for argument in ("--set", setting)), steps=4, trackers=[])
    weights = load_file(tmp_path / "model" / "model.safetensors")
    assert [weights[f"quantizer.stages.{stage}.temperature"].item() for stage in range(4)] == [0.25] * 4


@pytest.mark.slow
def test_files_that_cannot_be_read_are_named_once_and_counted(train, librispeech, capsys, tmp_path):
    data = tmp_path / "data"
    shutil.copytree(librispeech, data)
    folder = next((data / "train-clean-100").glob("*/*"))
    (folder / "broken.flac").write_bytes(b"fLaC but no more")
    soundfile.write(folder / "short.wav", torch.randn(1000).numpy(), 16_000)
    # Its header is whole, so that only reading finds out.
    whole = (clip := next(folder.glob("*-0000.flac"))).read_bytes()
    clip.write_bytes(whole[: len(whole) // 3])
    next((data / "dev-clean").glob("*/*/*.flac")).with_name("b.flac").write_bytes(whole[: len(whole) // 3])
    train(tmp_path / "run", data=data, steps=12, save_every=12, validate_every=12, trackers=[])
    stdout = capsys.readouterr().out
    assert "broken.flac: not readable as audio" in stdout
    assert "b.flac: not readable as audio" in stdout
    assert "short.wav: lasts 0.0625 s, less than 0.5 s" in stdout
    assert stdout.count(f"skipped {clip}: ") == 1
    assert json.loads((tmp_path / "run/run.json").read_text())["skipped_clips"] == 3
    assert read_lines(tmp_path / "run/log.jsonl")[-1]["skipped_files"] == 1


@pytest.mark.slow
def test_a_full_disk_costs_a_checkpoint_and_not_the_run(start, train, tmp_path):
    output = tmp_path / "run"
    train(output, steps=4, trackers=[])
    kept = {path: path.read_bytes() for path in list_checkpoints(output / "checkpoints")}
    size = max(len(content) for content in kept.values())
    # The nearest to a full disk that needs no rights: no file may grow to the size of a checkpoint.
    (tmp_path / "limited.py").write_text(
        "import resource, runpy, signal\n"
        "signal.signal(signal.SIGXFSZ, signal.SIG_IGN)\n"
        f"resource.setrlimit(resource.RLIMIT_FSIZE, ({size // 2}, {size // 2}))\n"
        "runpy.run_path('recipes/train.py', run_name='__main__')\n"
    )
    printed = finish(start(output, "--resume", program=(tmp_path / "limited.py",), steps=6, trackers=[]))
    assert "step-00000006.pt cannot be written; File too large" in printed
    assert {path: path.read_bytes() for path in list_checkpoints(output / "checkpoints")} == kept
    assert read_lines(output / "log.jsonl")[-1]["step"] == 6
    train(output, "--resume", steps=6, trackers=[])
    assert step_of(list_checkpoints(output / "checkpoints")[-1]) == 6


@pytest.mark.slow
def test_a_run_that_diverges_says_so_and_keeps_its_checkpoints(refuse, tmp_path):
    settings = {"steps": 30, "max_skipped": 3, "validate_every": 30, "trackers": []}
    message = refuse(tmp_path, "--set", "optimizer.learning_rate = 1e38", **settings)
    assert "error: 4 steps in a row had a loss or gradient that is not finite; lower optimizer.learning_rate" in message


@pytest.mark.slow
def test_a_second_run_into_the_same_folder_is_refused_on_one_line(finished, start):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    process = start(finished)
    _, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    assert stderr == f"error: {finished} holds a run; pass --resume to go on with it, or another --output\n"
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_a_checkpoint_of_another_model_is_refused_by_the_settings_that_differ(finished, refuse):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    message = refuse(finished, "--resume", "--set", "model.dim = 24")
    (checkpoint,) = list_checkpoints(finished / "checkpoints")[-1:]
    assert message == f"error: {checkpoint} must be of the recipe's model; the recipe is another: model.dim: 16, now 24"
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


@pytest.mark.slow
def test_the_tiny_recipe_makes_a_model_that_encodes_and_decodes(start, clips, tmp_path):
    finish(start(tmp_path / "run", recipe=ROOT / "recipes/librispeech/tiny.toml"))
    log = read_lines(tmp_path / "run/log.jsonl")
    assert log[-1]["step"] == load_recipe(ROOT / "recipes/librispeech/tiny.toml").run.steps
    # It learns: waveforms first.
    assert log[-1]["log_mel"] < 0.9 * log[0]["log_mel"]
    assert min(log[-1]["perplexity"]) > 4

    codec = [sys.executable, "-m", "codec.cli.main"]
    codes, decoded = tmp_path / "speech.rvq", tmp_path / "decoded.wav"
    subprocess.run([*codec, "encode", clips[-1], "-o", codes, "--model", tmp_path / "run/model"], cwd=ROOT, check=True)
    subprocess.run([*codec, "decode", codes, "-o", decoded, "--model", tmp_path / "run/model"], cwd=ROOT, check=True)
    original, _ = soundfile.read(clips[-1])
    samples, rate = soundfile.read(decoded)
    assert (rate, samples.shape) == (16_000, original.shape)
    assert si_sdr(original, samples) > 0


class TestErrors:
    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--set", "run.steps=many"], "error: override 'run.steps=many' must be TOML; "),
            (["--set", "run.mixed_precision='fp8000'"], "error: Unknown mixed_precision mode: fp8000"),
            (["--set", "data.train='train-other'"], "train-other must be a folder with audio files"),
            (["--set", "data.valid='dev-other'"], "dev-other must be a folder with audio files"),
            (
                ["--data", "/none"],
                "error: /none/train-clean-100 must be a folder with audio files (.aif, .aiff, .flac, ",
            ),
            (["--set", "model.look_ahead=1"], "error: look_ahead must be a positive multiple of transform_hop"),
            (["--set", "loss.num_mels=[40]"], "error: num_mels must have one entry a window length"),
            (
                ["--set", "data.valid=''", "--set", "data.min_seconds=2"],
                "must list audio of at least 2 s; skipped 6 files, ",
            ),
            (
                ["--set", "data.batch_size=3", "--set", "run.micro_batches=2"],
                "data.batch_size must be a multiple of 1 processes times 2 micro-batches; got 3",
            ),
            (
                ["--set", "discriminators.kinds=['stf']"],
                "error: kind of discriminator must be one of band, period, stft; got 'stf'",
            ),
            (["--set", "data.sampling='speakers'"], "sampling must be one of"),
            (["--set", "run.steps=2"], "error: adversarial.start must be less than run.steps 2, or "),
            (["--set", "loss.stft=-1.0"], "weights of losses must not be negative"),
            (["--resume"], "run must hold a run to resume; found none"),
        ],
    )
    def test_what_cannot_be_trained_is_refused_and_leaves_nothing(self, refuse, tmp_path, arguments, message):
        assert message in refuse(tmp_path / "run", *arguments)
        assert not (tmp_path / "run").exists()

    def test_a_folder_with_the_log_of_a_run_without_checkpoints_is_refused(self, refuse, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "log.jsonl").write_text("{}\n")
        assert "holds a run; pass --resume" in refuse(tmp_path / "run")
        assert (tmp_path / "run" / "log.jsonl").read_text() == "{}\n"

    def test_a_manifest_of_files_that_are_not_there_is_refused(self, refuse, tmp_path):
        (tmp_path / "train.tsv").write_text("path\tduration\n" + "".join(f"{name}.wav\t9\n" for name in "abc"))
        message = refuse(tmp_path / "run", "--set", f"data.train = '{tmp_path / 'train.tsv'}'")
        assert message.startswith("error: audio must be readable; 100 files in a row were not, the last ")

    def test_a_recipe_that_is_not_there_is_named(self, refuse, tmp_path):
        path = tmp_path / "none.toml"
        assert refuse(tmp_path / "run", recipe=path) == f"error: [Errno 2] No such file or directory: '{path}'"
