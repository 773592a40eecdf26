"""The training script as it is started from a shell, on a few seconds of speech."""

import importlib.util
import json
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
import torch
from accelerate.state import AcceleratorState
from safetensors.torch import load_file

from codec.model import Codec
from codec.train.checkpoint import list_checkpoints
from codec.train.recipe import load_recipe

ROOT = Path(__file__).parents[2]
TIMEOUT = 600

RECIPE = """
name = "tiny"
[model]
look_ahead = 320
dim = 16
encoder_depth = 1
decoder_depth = 1
latent_dim = 16
[quantizer]
num_quantizers = 4
codebook_size = 16
[data]
crop_seconds = 0.25
batch_size = 4
gain_db = [-6.0, 6.0]
workers = 0
[loss]
window_lengths = [512, 256]
num_mels = [40, 20]
[optimizer]
warmup_steps = 2
[run]
steps = 6
mixed_precision = "no"
initial_examples = 8
log_every = 1
save_every = 2
validate_every = 3
"""

# Runs the training script, and leaves what each process ends with.
LEAVE_STATE = """
import os, runpy, sys
import codec.model
from safetensors.torch import save_file

build, built = codec.model.build_codec, []
codec.model.build_codec = lambda config: built.append(build(config)) or built[-1]
folder = sys.argv.pop(1)
runpy.run_path("recipes/train.py", run_name="__main__")
save_file(built[0].state_dict(), f"{folder}/{os.environ['RANK']}.safetensors")
"""

Start = Callable[..., subprocess.Popen[str]]


@pytest.fixture(scope="module")
def recipe(tmp_path_factory) -> Path:
    path = tmp_path_factory.mktemp("recipes") / "tiny.toml"
    path.write_text(RECIPE)
    return path


@pytest.fixture(scope="module")
def start(recipe, librispeech) -> Iterator[Start]:
    """Start a run: `start(output, *arguments)`."""
    processes = []

    def start(output, *arguments, program=("recipes/train.py",)):
        process = subprocess.Popen(
            [sys.executable, *program, recipe, "--data", librispeech, "--output", output, *arguments],
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


def finish(process) -> str:
    """Wait for a run to succeed; what it printed."""
    stdout, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 0, stderr
    return stdout


@pytest.fixture(scope="module")
def finished(start, tmp_path_factory) -> Path:
    """The folder of a run that was not interrupted."""
    output = tmp_path_factory.mktemp("runs") / "whole"
    finish(start(output))
    return output


def read_log(output) -> list[dict[str, object]]:
    """The lines of the log, without the one number that differs from run to run."""
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    assert all(line.pop("audio_seconds_per_second") > 0 for line in lines)
    return lines


@pytest.mark.slow
def test_a_run_logs_every_loss_and_the_use_of_every_stage(finished):
    log = read_log(finished)
    assert [line["step"] for line in log] == [1, 2, 3, 4, 5, 6]
    for line in log:
        losses = {name: line[name] for name in ("loss", "log_mel", "stft", "waveform", "commitment", "gradient_norm")}
        assert all(value > 0 for value in losses.values())
        assert losses["loss"] == pytest.approx(
            losses["log_mel"] + losses["stft"] + losses["waveform"] + 0.25 * losses["commitment"], rel=1e-5
        )
        assert all(len(line[name]) == 4 for name in ("perplexity", "entropy", "dead_share", "bits_per_frame"))
        assert all(1 <= value <= 16 for value in line["perplexity"])
        assert all(0 <= value < 1 for value in line["dead_share"])
    assert [line["learning_rate"] for line in log] == pytest.approx(
        [0.0005, 0.001, 0.001, 0.000853553, 0.0005, 0.000146447], rel=1e-5
    )


@pytest.mark.slow
def test_a_run_is_validated_at_three_bitrates(finished):
    lines = [json.loads(line) for line in (finished / "valid.jsonl").read_text().splitlines()]
    assert [line.pop("step") for line in lines] == [3, 6]
    for line in lines:
        assert list(line) == ["200 bit/s", "400 bit/s", "800 bit/s"]
        for scores in line.values():
            assert set(scores) == {"pesq_wb", "stoi", "si_sdr", "mel_distance"}
            assert 1 <= scores["pesq_wb"] < 4.65


@pytest.mark.slow
def test_a_run_keeps_its_last_two_checkpoints(finished):
    assert sorted(path.name for path in (finished / "checkpoints").iterdir()) == ["step-00000004", "step-00000006"]


@pytest.mark.slow
def test_a_run_leaves_a_model_that_codes_speech(finished, recipe, speech):
    codec = Codec.from_pretrained(finished / "model")
    assert codec.config == load_recipe(recipe).codec
    codes = codec.encode(speech)
    assert codes.shape == (1, 4, 295)
    assert codec.decode(codes).abs().max() > 0.01


@pytest.mark.slow
def test_the_model_is_the_moving_average_of_the_weights_with_the_codebooks_of_the_last_step(finished):
    averaged = load_file(finished / "model" / "model.safetensors")
    last = load_file(finished / "checkpoints" / "step-00000006" / "model.safetensors")
    assert averaged.keys() == last.keys()
    for name, tensor in averaged.items():
        assert torch.equal(tensor, last[name]) == name.startswith("quantizer."), name
        torch.testing.assert_close(tensor, last[name], atol=0.02, rtol=0)


@pytest.mark.slow
def test_a_run_that_is_killed_and_resumed_ends_as_if_it_had_not_been(finished, start, tmp_path):
    output = tmp_path / "killed"
    process = start(output)
    deadline = time.monotonic() + TIMEOUT
    # The third line comes before a validation, which takes its time, and after the checkpoint of the second step.
    log = output / "log.jsonl"
    while process.poll() is None and time.monotonic() < deadline:
        if log.exists() and log.read_text().count("\n") >= 3:
            break
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGKILL)
    assert process.wait() == -signal.SIGKILL
    assert "step-00000006" not in [path.name for path in list_checkpoints(output / "checkpoints")]
    with (output / "valid.jsonl").open("a") as file:
        file.write('{"step": 3, "200 b')

    finish(start(output, "--resume"))
    assert read_log(output) == read_log(finished)
    assert (output / "valid.jsonl").read_text() == (finished / "valid.jsonl").read_text()
    for file in ("model/model.safetensors", "checkpoints/step-00000006/model.safetensors"):
        assert (output / file).read_bytes() == (finished / file).read_bytes()

    # A run that is over has nothing to go on with.
    assert "steps 6 to 6" in finish(start(output, "--resume"))
    assert read_log(output) == read_log(finished)


@pytest.mark.slow
def test_the_temperature_ends_where_the_recipe_says(start, tmp_path):
    settings = ['quantizer.estimator = "gumbel_softmax"', "quantizer.temperature = [2.0, 0.25]", "run.steps = 3"]
    finish(start(tmp_path, *(argument for setting in settings for argument in ("--set", setting))))
    weights = load_file(tmp_path / "model" / "model.safetensors")
    assert [weights[f"quantizer.stages.{stage}.temperature"].item() for stage in range(4)] == [0.25] * 4


@pytest.mark.slow
def test_two_processes_end_with_equal_codebooks_and_weights(start, tmp_path):
    (tmp_path / "leave_state.py").write_text(LEAVE_STATE)
    launcher = ("-m", "torch.distributed.run", "--standalone", "--nproc_per_node", "2")
    # The more so in half precision.
    precision = ("--set", "run.mixed_precision = 'bf16'")
    finish(start(tmp_path / "run", *precision, program=(*launcher, tmp_path / "leave_state.py", tmp_path)))

    first, second = (load_file(tmp_path / f"{rank}.safetensors") for rank in (0, 1))
    assert all(torch.equal(tensor, second[name]) for name, tensor in first.items())
    saved = load_file(tmp_path / "run" / "checkpoints" / "step-00000006" / "model.safetensors")
    assert all(torch.equal(tensor, saved[name]) for name, tensor in first.items())
    assert [line["step"] for line in read_log(tmp_path / "run")] == [1, 2, 3, 4, 5, 6]
    assert first["quantizer.stages.0.codebook.steps"] == 1 + 6


@pytest.mark.slow
def test_at_the_shell_an_error_is_one_line_and_a_status(start, tmp_path):
    process = start(tmp_path / "run", "--set", "run.step = 3")
    stdout, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    assert (stdout, stderr) == ("", "error: unknown setting run.step; did you mean 'steps'?\n")
    assert not (tmp_path / "run").exists()


@pytest.mark.slow
def test_a_second_run_into_the_same_folder_is_refused_on_one_line(finished, start):
    before = {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()}
    process = start(finished)
    _, stderr = process.communicate(timeout=TIMEOUT)
    assert process.returncode == 1
    assert stderr == f"error: {finished} holds a run; pass --resume to go on with it, or another --output\n"
    assert {path: path.read_bytes() for path in finished.rglob("*") if path.is_file()} == before


class TestErrors:
    """Inside of this process, which is quicker."""

    @pytest.fixture(autouse=True)
    def _leave_no_trace(self, monkeypatch) -> Iterator[None]:
        monkeypatch.setenv("ACCELERATE_USE_CPU", "true")
        yield
        AcceleratorState._reset_state(reset_partial_state=True)

    @pytest.fixture
    def refuse(self, monkeypatch, recipe, librispeech, tmp_path) -> Callable[..., str]:
        """Run the script, and give the message it ends with: `refuse(*arguments)`."""
        spec = importlib.util.spec_from_file_location("train", ROOT / "recipes" / "train.py")
        script = importlib.util.module_from_spec(spec)
        spec.loader.exec_module(script)
        monkeypatch.setattr(script, "keep_freed_memory", lambda: True)

        def refuse(*arguments, recipe=recipe):
            defaults = [recipe, "--data", librispeech, "--output", tmp_path / "run"]
            monkeypatch.setattr(sys, "argv", ["train.py", *map(str, [*defaults, *arguments])])
            with pytest.raises(SystemExit) as ending:
                script.main()
            assert str(ending.value).count("\n") == 0
            return str(ending.value)

        return refuse

    @pytest.mark.parametrize(
        ("arguments", "message"),
        [
            (["--set", "run.steps=many"], "error: override 'run.steps=many' must be TOML; "),
            (["--set", "run.mixed_precision='fp8000'"], "error: Unknown mixed_precision mode: fp8000"),
            (["--set", "data.train='train-other'"], "train-other must hold SPEAKER/CHAPTER/*.flac; found none"),
            (["--set", "data.valid='dev-other'"], "dev-other must hold SPEAKER/CHAPTER/*.flac; found none"),
            (["--data", "/none"], "error: /none/train-clean-100 must hold"),
            (
                ["--set", "model.sample_rate=8000"],
                "error: clips must have the model's sample rate, 8000 Hz; got [16000]",
            ),
            (["--set", "model.look_ahead=1"], "error: look_ahead must be a positive multiple of transform_hop"),
            (["--set", "loss.num_mels=[40]"], "error: num_mels must have one entry a window length"),
            (["--resume"], "checkpoints must hold a checkpoint to resume from; found none"),
        ],
    )
    def test_what_cannot_be_trained_is_refused_and_leaves_nothing(self, refuse, tmp_path, arguments, message):
        assert message in refuse(*arguments)
        assert not (tmp_path / "run").exists()

    def test_a_folder_with_the_log_of_a_run_without_checkpoints_is_refused(self, refuse, tmp_path):
        (tmp_path / "run").mkdir()
        (tmp_path / "run" / "log.jsonl").write_text("{}\n")
        assert "holds a run; pass --resume" in refuse()
        assert (tmp_path / "run" / "log.jsonl").read_text() == "{}\n"

    def test_a_recipe_that_is_not_there_is_named(self, refuse, tmp_path):
        path = tmp_path / "none.toml"
        assert refuse(recipe=path) == f"error: [Errno 2] No such file or directory: '{path}'"
