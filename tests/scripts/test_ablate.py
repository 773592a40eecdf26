"""scripts/ablate.py: rows of a plan are trained once, on equal settings, and told in a table."""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import ModuleType
from typing import NamedTuple

import pytest
import typer

ROOT = Path(__file__).parents[2]
RECIPE = ROOT / "recipes/librispeech/tiny.toml"

PLAN = f"""
recipe = "{RECIPE}"
settings = [
    "run.steps = 2", "run.save_every = 1", "run.trackers = []", "discriminators.kinds = []", "data.valid_seconds = 1.0",
]

[rows]
"base" = []
"depth: 1 block" = ["model.decoder_depth = 1"]
"no such codec" = ["model.dim = 0"]
"""
TRAINED = ["base", "depth: 1 block"]


class Trained(NamedTuple):
    plan: Path
    data: Path
    runs: Path
    printed: subprocess.CompletedProcess[str]


@pytest.fixture(scope="module")
def script(load_script: Callable[[Path], ModuleType]) -> ModuleType:
    return load_script(ROOT / "scripts/ablate.py")


@pytest.fixture
def ablate(script: ModuleType, capsys: pytest.CaptureFixture[str]) -> Callable[..., tuple[int, str, str]]:
    """The script with other arguments: exit status, what it printed, and its errors."""

    def run(*arguments: Path, **options: object) -> tuple[int, str, str]:
        try:
            script.main(*arguments, **options)
        except typer.Exit as end:
            return end.exit_code, *capsys.readouterr()
        return 0, *capsys.readouterr()

    return run


def start(plan: Path, data: Path, runs: Path, *options: str) -> subprocess.Popen[str]:
    return subprocess.Popen(
        [sys.executable, ROOT / "scripts/ablate.py", plan, "--data", data, "--output", runs, *options],
        env={**os.environ, "PYTHONPATH": str(ROOT)},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
        start_new_session=True,
    )


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory, librispeech: Path) -> Trained:
    """All rows of the plan, one of them after a run that was killed before its first step."""
    folder = tmp_path_factory.mktemp("ablations")
    plan, runs = folder / "plan.toml", folder / "runs"
    plan.write_text(PLAN)
    (runs / "base").mkdir(parents=True)
    process = start(plan, librispeech, runs, "--jobs", "2")
    output, errors = process.communicate(timeout=900)
    return Trained(plan, librispeech, runs, subprocess.CompletedProcess([], process.returncode, output, errors))


@pytest.mark.slow
def test_rows_are_trained_once_and_a_failing_one_is_named(trained: Trained, ablate: Callable) -> None:
    assert trained.printed.returncode == 1
    message = "no such codec: training ended with status 1 and printed error: dim must be positive; got 0\n"
    assert trained.printed.stderr == message
    lines = trained.printed.stdout.splitlines()
    assert [line.split(" |")[0] for line in lines] == ["| row", "| ---", "| base", "| depth: 1 block"]
    scores = json.loads((trained.runs / "base/valid.jsonl").read_text())
    key = list(scores)[-1]
    assert f"{scores[key]['pesq_wb']:.2f} / {scores[key]['stoi']:.3f}" in lines[2]
    # Again: nothing is trained anew, whatever else is told or kept.
    written = (trained.runs / "base/log.jsonl").stat().st_mtime_ns
    told = ["run.log_every = 7", "run.save_every = 7", "run.validate_every = 7", "data.workers = 0", "run.keep = 1"]
    assert ablate(*trained[:3], row=TRAINED, setting=told) == (0, trained.printed.stdout, "")
    assert (trained.runs / "base/log.jsonl").stat().st_mtime_ns == written


@pytest.mark.slow
def test_a_row_with_a_result_of_other_settings_is_refused(trained: Trained, ablate: Callable, tmp_path: Path) -> None:
    plan = tmp_path / "plan.toml"
    plan.write_text(PLAN.replace("decoder_depth = 1", "decoder_depth = 2"))
    status, output, errors = ablate(plan, *trained[1:3], row=TRAINED)
    assert status == 1
    assert output.splitlines() == trained.printed.stdout.splitlines()[:-1]
    folder, remedy = trained.runs / "depth_1_block", "remove the folder, or pass another --output"
    assert errors == (
        f"depth: 1 block: {folder} holds a run of other settings: model.decoder_depth: 1, now 2; {remedy}\n"
    )
    status, output, errors = ablate(*trained[:3], row=TRAINED, setting=["run.steps = 3"])
    assert (status, output) == (1, "no results yet\n")
    assert errors.count("run.steps: 2, now 3;") == 2


@pytest.mark.slow
def test_a_run_from_before_a_setting_had_its_default(trained: Trained, ablate: Callable, tmp_path: Path) -> None:
    shutil.copytree(trained.runs, tmp_path, dirs_exist_ok=True)
    path = tmp_path / "base/recipe.json"
    recipe = json.loads(path.read_text())
    assert recipe["quantizer"].pop("beam_size") == 1
    path.write_text(json.dumps(recipe))
    arguments = trained.plan, trained.data, tmp_path
    assert ablate(*arguments, row=TRAINED) == (0, trained.printed.stdout, "")
    assert "quantizer.beam_size: 1, now 2;" in ablate(*arguments, row=["base"], setting=["quantizer.beam_size = 2"])[2]
    path.write_text(json.dumps({**recipe, "no_setting": 1}))
    assert ablate(*arguments, row=["base"])[2] == f"base: unknown setting {path}: no_setting\n"


@pytest.mark.slow
def test_a_run_that_was_killed_before_its_validation_is_resumed(
    trained: Trained, ablate: Callable, tmp_path: Path
) -> None:
    shutil.copytree(trained.runs / "base", tmp_path / "base")
    (tmp_path / "base/valid.jsonl").write_text("")
    (tmp_path / "base/checkpoints/step-00000002.pt").unlink()
    status, output, errors = ablate(trained.plan, trained.data, tmp_path, row=["base"])
    assert (status, errors) == (0, "")
    assert "steps 1 to 2" in (tmp_path / "base.log").read_text()
    # As if it had never been killed, but for the time of a step.
    assert output.splitlines()[2].split(" | ")[:-1] == trained.printed.stdout.splitlines()[2].split(" | ")[:-1]


@pytest.mark.slow
def test_ctrl_c_ends_the_row_at_work_and_begins_no_other(tmp_path: Path, librispeech: Path) -> None:
    (tmp_path / "plan.toml").write_text(PLAN)
    # Where tests run in the background, interrupts may be ignored, and a child inherits that.
    before = signal.signal(signal.SIGINT, signal.default_int_handler)
    process = start(tmp_path / "plan.toml", librispeech, tmp_path / "runs")
    signal.signal(signal.SIGINT, before)
    while not (tmp_path / "runs/base.log").exists():
        assert process.poll() is None
        time.sleep(0.05)
    os.killpg(process.pid, signal.SIGINT)  # as a terminal does
    assert process.communicate(timeout=300)[0] == ""
    assert process.returncode == 130
    assert not (tmp_path / "runs/depth_1_block.log").exists()


@pytest.mark.parametrize(
    ("code", "message"),
    [
        ("import os, signal; os.kill(os.getpid(), signal.SIGKILL)", "status -9 and printed nothing"),
        ("print('full disk')", "status 0 and printed full disk"),
    ],
)
def test_a_row_without_a_result_has_failed(
    script: ModuleType, ablate: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: str, message: str
) -> None:
    (tmp_path / "plan.toml").write_text(PLAN)
    (tmp_path / "train.py").write_text(code)
    monkeypatch.setattr(script, "TRAIN", tmp_path / "train.py")
    ended = ablate(tmp_path / "plan.toml", tmp_path, tmp_path / "runs", row=["base"])
    assert ended == (1, "no results yet\n", f"base: training ended with {message}\n")


@pytest.mark.parametrize(
    ("plan", "message"),
    [
        (PLAN, "row must be one of base, depth: 1 block, no such codec; got 'bose'; did you mean 'base'?"),
        (PLAN.replace("settings", "# "), "plan.toml must be TOML; "),
        ("settings = []\nrows = {}", "setting recipe must be given; it has no default"),
        (PLAN + '"Base!" = []', "names of rows must differ in letters or digits; got 'base' and 'Base!'"),
        (PLAN + '"dim" = "model.dim = 1"', "row 'dim' must be a list of settings; got 'model.dim = 1'"),
        (None, "No such file or directory"),
    ],
)
def test_a_wrong_plan_or_row_is_told_in_a_line(
    ablate: Callable, tmp_path: Path, plan: str | None, message: str
) -> None:
    if plan is not None:
        (tmp_path / "plan.toml").write_text(plan)
    status, output, errors = ablate(tmp_path / "plan.toml", tmp_path, tmp_path / "runs", row=["bose"])
    assert (status, output) == (1, "")
    assert errors.startswith("error: ")
    assert message in errors
    assert errors.count("\n") == 1


def test_scores_stand_under_their_bitrate(script: ModuleType) -> None:
    low, high = {"pesq_wb": 1.234, "stoi": 0.5}, {"pesq_wb": 2.0, "stoi": 0.75}
    results = {
        "fast": script.Result({600: low, 1200: high}, 1_250_000, 0.125),
        "slow": script.Result({1200: high, 10_000: high}, 30_000_000, 2.0),
    }
    assert script.table(results) == [
        "| row | 600 bit/s | 1200 bit/s | 10000 bit/s | M parameters | s a step |",
        "| --- | --- | --- | --- | ---: | ---: |",
        "| fast | 1.23 / 0.500 | 2.00 / 0.750 | - | 1.2 | 0.12 |",
        "| slow | - | 2.00 / 0.750 | 2.00 / 0.750 | 30.0 | 2.00 |",
    ]


@pytest.mark.parametrize(("name", "folder"), [("base, seed 1", "base_seed_1"), ("Head: MDCT", "head_mdct")])
def test_a_row_has_a_folder_of_its_name(script: ModuleType, name: str, folder: str) -> None:
    assert script.slug(name) == folder
