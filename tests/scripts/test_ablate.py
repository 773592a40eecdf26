"""scripts/ablate.py: rows of a plan are trained once, and told in a table."""

import importlib.util
import json
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]

PLAN = """
recipe = "recipe.toml"
settings = ["run.steps = 2", "discriminators.kinds = []"]

[rows]
"base" = []
"depth: 1 block" = ["model.decoder_depth = 1"]
"no such codec" = ["model.dim = 0"]
"""


@pytest.mark.slow
def test_rows_are_trained_once_and_a_failing_one_is_named(tmp_path: Path, librispeech: Path) -> None:
    (tmp_path / "plan.toml").write_text(PLAN)
    shutil.copy(ROOT / "recipes/librispeech/tiny.toml", tmp_path / "recipe.toml")
    runs = tmp_path / "runs"
    command = [sys.executable, "scripts/ablate.py", tmp_path / "plan.toml", "--data", librispeech, "--output", runs]
    command += ["--jobs", 2, "--set", "run.trackers = []", "--set", "data.valid_seconds = 1.0"]

    def ablate() -> subprocess.CompletedProcess[str]:
        return subprocess.run([str(word) for word in command], cwd=ROOT, capture_output=True, text=True, check=True)

    first = ablate()
    assert first.stderr == "no such codec: error: dim must be positive; got 0\n"
    lines = first.stdout.splitlines()
    assert [line.split(" |")[0] for line in lines] == ["| row", "| ---", "| base", "| depth: 1 block"]
    scores = json.loads((runs / "base/valid.jsonl").read_text())
    key = list(scores)[-1]
    assert f"{scores[key]['pesq_wb']:.2f} / {scores[key]['stoi']:.3f}" in lines[2]
    # Again: nothing is trained anew, whatever the recipe says now.
    shutil.copy(runs / "base/log.jsonl", tmp_path)
    assert ablate().stdout == first.stdout
    assert (runs / "base/log.jsonl").read_bytes() == (tmp_path / "log.jsonl").read_bytes()


@pytest.mark.parametrize(("name", "folder"), [("base, seed 1", "base_seed_1"), ("Head: MDCT", "head_mdct")])
def test_a_row_has_a_folder_of_its_name(name: str, folder: str) -> None:
    spec = importlib.util.spec_from_file_location("ablate", ROOT / "scripts/ablate.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    assert script.slug(name) == folder
