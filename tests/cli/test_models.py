"""A cache of the Hugging Face hub, laid out as its own library does: links to blobs, and what a branch stands at."""

import json
import os
import shutil
import struct
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import pytest

from codec import Codec
from codec.cli.models import Listed, list_models
from codec.model.folder import ENTROPY_FILE, shipped_models

ROOT = Path(__file__).parents[2]
COMMITS = ("0123456789abcdef0123456789abcdef01234567", "fedcba9876543210fedcba9876543210fedcba98")
SHIPPED = sorted(shipped_models())
MODELS = """
import sys
from codec.cli.main import app
app(["models"], standalone_mode=False)
sys.exit("torch was imported" if "torch" in sys.modules else 0)
"""


@pytest.fixture
def cache(tmp_path) -> Path:
    return tmp_path / "hub"


@pytest.fixture
def download(cache, model_folder) -> Callable[..., Path]:
    """Put a copy of the tiny model into the cache, as a download of one of its commits would."""

    def download(name: str, commit: str = COMMITS[0], source: Path = model_folder) -> Path:
        repository = cache / f"models--{name.replace('/', '--')}"
        snapshot = repository / "snapshots" / commit
        for folder in (snapshot, repository / "blobs", repository / "refs"):
            folder.mkdir(parents=True, exist_ok=True)
        for file in source.iterdir():
            blob = repository / "blobs" / f"{commit}-{file.name}"
            shutil.copyfile(file, blob)
            (snapshot / file.name).symlink_to(os.path.relpath(blob, snapshot))
        (repository / "refs" / "main").write_text(commit)
        return snapshot

    return download


def cached(cache: Path) -> list[Listed]:
    return [model for model in list_models(cache) if model.where == "hub cache"]


@pytest.fixture
def show(run, cache, monkeypatch) -> Callable[..., str]:
    """What the command prints."""

    def show(*arguments) -> str:
        monkeypatch.setattr("huggingface_hub.constants.HF_HUB_CACHE", str(cache))
        result = run("models", *arguments)
        assert (result.exit_code, result.stderr) == (0, "")
        return result.stdout

    return show


def test_every_shipped_model_is_listed_without_a_cache(cache):
    listed = list_models(cache)
    assert [(model.name, model.where, model.problem) for model in listed] == [
        (name, "shipped", None) for name in SHIPPED
    ]


def test_a_model_is_described_as_it_would_describe_itself(cache, download, model_folder):
    folder = download("someone/tiny")
    (model,) = cached(cache)
    codec = Codec.from_pretrained(model_folder)
    assert (model.name, model.folder, model.problem) == ("someone/tiny", str(folder), None)
    assert model.size == sum(path.stat().st_size for path in model_folder.iterdir())
    assert (model.sample_rate, model.frame_rate) == (codec.sample_rate, codec.frame_rate)
    assert model.bitrates == [300 * stages for stages in range(1, 11)]
    assert model.latency == pytest.approx(1000 * codec.latency)


def test_a_model_with_tables_is_told_from_one_without(cache, download):
    folder = download("someone/tiny")
    assert [model.entropy for model in cached(cache)] == [False]
    (folder / ENTROPY_FILE).write_bytes(b"tables")
    assert [model.entropy for model in cached(cache)] == [True]


def test_a_repository_is_listed_as_its_main_branch_was_when_last_fetched(cache, download, other_model_folder):
    download("someone/tiny", COMMITS[1], other_model_folder)
    latest = download("someone/tiny")
    (model,) = cached(cache)
    assert model.folder == str(latest)


def test_repositories_of_other_programs_are_left_out(cache, download, tmp_path):
    download("someone/tiny")
    other = tmp_path / "other"
    other.mkdir()
    (other / "config.json").write_text('{"architectures": ["BertModel"], "model_type": "bert"}')
    (other / "model.safetensors").write_bytes(b"")
    download("google/bert", source=other)
    (other / "config.json").write_text("[]")
    download("someone/list", source=other)
    (other / "config.json").unlink()
    download("someone/without-settings", source=other)
    download("gpt2")
    shutil.copytree(cache / "models--someone--tiny", cache / "datasets--someone--tiny")
    (cache / "models--someone--never-fetched").mkdir()
    (cache / "version.txt").write_text("1")
    assert [model.name for model in cached(cache)] == ["someone/tiny"]


def change_settings(folder: Path, change: Callable[[dict], None]) -> None:
    table = json.loads((folder / "config.json").read_text())
    change(table)
    (folder / "config.json").write_text(json.dumps(table))


@pytest.mark.parametrize(
    ("damage", "problem"),
    [
        (lambda folder: (folder / "model.safetensors").unlink(), "model.safetensors is missing"),
        (lambda folder: (folder / "model.safetensors").resolve().unlink(), "model.safetensors is missing"),
        (lambda folder: os.truncate(folder / "model.safetensors", 10_000), "model.safetensors: Error while"),
        (lambda folder: os.truncate(folder / "model.safetensors", 0), "model.safetensors: Error while"),
        (
            lambda folder: (folder / "model.safetensors").write_bytes(struct.pack("<Q", 1 << 62)),
            "model.safetensors: Error while",
        ),
        (lambda folder: os.truncate(folder / "config.json", 50), "config.json: Unterminated string"),
        (lambda folder: (folder / "config.json").write_bytes(b"\xff"), "config.json: 'utf-8' codec"),
        (
            lambda folder: change_settings(folder, lambda table: table["model"].update({"hop\x1b[2J": 1})),
            "config.json: unknown setting model.hop?[2J",
        ),
        (
            lambda folder: change_settings(folder, lambda table: table["model"].update(sample_rate="16k")),
            "config.json: model.sample_rate must be int; got '16k'",
        ),
        (
            lambda folder: change_settings(folder, lambda table: table["model"].update(hop_length=0)),
            "config.json: rate, hop length, stages and codebooks must be positive; some are not",
        ),
    ],
)
def test_a_broken_model_is_listed_as_such_and_hides_no_other(cache, download, show, damage, problem):
    damage(download("someone/broken"))
    download("someone/tiny")
    broken, whole = cached(cache)
    assert (broken.name, broken.bitrates, whole.name, whole.problem) == ("someone/broken", None, "someone/tiny", None)
    assert problem in broken.problem
    *table, last = show().splitlines()
    assert last == f"someone/broken is broken: {broken.problem}"
    assert [line.split()[3] for line in table if line.startswith("someone/broken")] == ["broken"]


def test_json_holds_what_the_table_shows(download, show):
    download("someone/tiny-codec-with-a-long-name")
    *_, model = json.loads(show("--json"))
    assert (model["sample_rate"], model["frame_rate"], model["latency"]) == (16_000, 50.0, 70.0)
    assert model["bitrates"] == [300 * stages for stages in range(1, 11)]
    assert show().splitlines()[-1].split() == [
        *("someone/tiny-codec-with-a-long-name", "hub", "cache", "16000", "50", "10", "300-3000", "70", "ms"),
        *(f"{model['size'] / 1e6:.1f}", "MB", "yes" if model["entropy"] else "no"),
    ]


def test_the_real_command_reads_the_cache_of_the_environment_without_torch(cache, download):
    download("someone/tiny")
    environment = {**os.environ, "HF_HUB_CACHE": str(cache)}
    command = [sys.executable, "-c", MODELS]
    done = subprocess.run(command, env=environment, cwd=ROOT, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert [line.split()[0] for line in done.stdout.splitlines()] == ["name", *SHIPPED, "someone/tiny"]
