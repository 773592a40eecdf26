"""The pages about training say what is true: commands run or are understood, settings exist, links lead somewhere."""

import importlib.util
import json
import re
import shlex
import sys
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
import soundfile
import torch
from accelerate.commands.launch import launch_command_parser
from typer.testing import CliRunner

from codec.cli.main import app
from codec.evaluate.page import FACTS, LOG, PAGE, RECIPE, VALIDATIONS
from codec.model import CodecConfig, ModelConfig, QuantizerConfig, build_codec
from codec.train.folder import RunFolder
from codec.train.recipe import Recipe, load_recipe

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / name
    for name in (
        "README.md",
        "docs/commands.md",
        "docs/format.md",
        "docs/training.md",
        "recipes/README.md",
        "recipes/librispeech/README.md",
    )
]
TEXTS = {path: path.read_text(encoding="utf-8") for path in PAGES}
TRAINING, RECIPES = TEXTS[ROOT / "docs/training.md"], TEXTS[ROOT / "recipes/README.md"]


def blocks(language: str, text: str) -> list[str]:
    return re.findall(rf"^```{language}\n(.*?)^```", text, flags=re.MULTILINE | re.DOTALL)


def shell_commands(text: str) -> list[str]:
    """Commands of a page, each on one line."""
    joined = "".join(blocks("bash", text)).replace("\\\n", " ")
    return [line for line in joined.splitlines() if line and not line.startswith("#")]


def names_of_settings(kind: type, where: str = "") -> Iterator[str]:
    """All settings of a recipe, and their tables, by their dotted paths."""
    hints = get_type_hints(kind)
    for field in fields(kind):
        yield where + field.name
        if is_dataclass(hints[field.name]):
            yield from names_of_settings(hints[field.name], f"{where}{field.name}.")


SETTINGS = set(names_of_settings(Recipe))
TABLES = "|".join(name for name in SETTINGS if is_dataclass(get_type_hints(Recipe).get(name)))
FILES = {"run.json", "model.safetensors"}
TRAININGS = {command: page for page in PAGES for command in shell_commands(TEXTS[page]) if "train.py" in command}


def settings_named_in(text: str) -> set[str]:
    """What stands in code spans and commands as `table.key` or `table.table.key`; Python has such names, too."""
    without_python = re.sub(r"^```python\n.*?^```", "", text, flags=re.MULTILINE | re.DOTALL)
    code = " ".join(re.findall(r"`+[^`]+`+", without_python))
    return set(re.findall(rf"(?<![\w./-])(?:{TABLES})(?:\.[a-z]\w*)+(?![\w/])", code)) - FILES


def headings(path: Path) -> set[str]:
    """What links call the headings of a page."""
    titles = re.findall(r"^#+ (.*)$", path.read_text(encoding="utf-8"), flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", title.lower()).replace(" ", "-") for title in titles}


@pytest.fixture(scope="module")
def launched():
    """`recipes/train.py` as a module."""
    spec = importlib.util.spec_from_file_location("train", ROOT / "recipes" / "train.py")
    script = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(script)
    return script


@pytest.fixture
def _trained(tmp_path, monkeypatch, librispeech, clips, speech):
    """A folder as the page about training finds it: data, recordings, and what a run left."""
    monkeypatch.chdir(tmp_path)
    (tmp_path / "data").mkdir()
    (tmp_path / "data/LibriSpeech").symlink_to(librispeech)
    for clip in clips:
        (tmp_path / "recordings" / clip.stem.split("-")[0]).mkdir(parents=True)
        (tmp_path / "recordings" / clip.stem.split("-")[0] / clip.name).symlink_to(clip)
    samples, sample_rate = soundfile.read(clips[-1], frames=8000)
    soundfile.write("speech.wav", samples, sample_rate)
    run = tmp_path / "runs/speech_16khz_cpu"
    config = CodecConfig(
        "speech_16khz_cpu", ModelConfig(dim=32, encoder_depth=1, decoder_depth=1, latent_dim=16), QuantizerConfig(2, 16)
    )
    codec = build_codec(config).train()
    with torch.no_grad():
        codec(speech)
    codec.save_pretrained(run / "best_model")
    (run / "log.jsonl").write_text(json.dumps({"step": 1, "loss": 1.0}) + "\n")


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_link_leads_to_a_file_and_a_heading(page):
    links = re.findall(r"\]\((?!https?:)([^)#]*)#?([^)]*)\)", TEXTS[page])
    targets = [(page.parent / path if path else page, heading) for path, heading in links]
    assert [path for path, _ in targets if not path.exists()] == []
    assert [heading for path, heading in targets if heading and heading not in headings(path)] == []


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_setting_that_is_named_exists(page):
    assert settings_named_in(TEXTS[page]) - SETTINGS == set()


def test_settings_are_found_where_they_are_named():
    text = "`run.seed`, `--set 'adversarial.optimizer.betas = [0, 1]'`, `runs/model.safetensors`, `codec.model.build`"
    assert settings_named_in(text) == {"run.seed", "adversarial.optimizer.betas"}
    # Enough of them that a change of the pages' style does not go unnoticed.
    assert len(settings_named_in(TRAINING)) > 50


@pytest.mark.parametrize("command", TRAININGS)
def test_every_training_command_is_understood(command, launched, monkeypatch):
    words = shlex.split(command)
    assert words[:2] == ["accelerate", "launch"]
    launch = launch_command_parser().parse_args(words[2:])
    assert (ROOT / launch.training_script).samefile(ROOT / "recipes/train.py")
    monkeypatch.setattr(sys, "argv", ["train.py", *launch.training_script_args])
    arguments = launched.parse_arguments()
    recipe = load_recipe(ROOT / arguments.recipe, arguments.set)
    assert arguments.data == recipe.data.root


@pytest.mark.usefixtures("_trained")
def test_the_codec_commands_about_training_run_one_after_the_other():
    commands = [command for command in shell_commands(TRAINING) if command.startswith("codec ")]
    assert len(commands) >= 5
    for command in commands:
        result = CliRunner().invoke(app, shlex.split(command)[1:])
        assert result.exit_code == 0, f"{command}: {result.output}"
    assert soundfile.info("decoded.wav").frames == 8000
    assert Path("recordings/train.tsv").read_text().startswith("path\tduration\tspeaker\n")


@pytest.mark.usefixtures("_trained")
def test_the_python_about_training_runs(capsys):
    for block in blocks("python", TRAINING):
        exec(compile(block, "training.md", "exec"), {})
    assert capsys.readouterr().out == "16000 400.0 0.07\n"


def test_the_recipe_for_another_sample_rate_builds_a_codec_of_the_bitrate_it_promises(tmp_path):
    (block,) = blocks("toml", TRAINING)
    (tmp_path / "recipe.toml").write_text(block)
    recipe = load_recipe(tmp_path / "recipe.toml")
    codec = build_codec(recipe.codec)
    assert (codec.sample_rate, codec.frame_rate, codec.bitrate()) == (24000, 50, 6000)
    assert recipe.crop_length % codec.hop_length == 0


def test_the_table_of_recipes_has_each_recipe():
    rows = [line for line in RECIPES.splitlines() if line.startswith("|")]
    recipes = [path.relative_to(ROOT).as_posix() for path in (ROOT / "recipes").rglob("*.toml")]
    assert recipes
    assert [recipe for recipe in recipes if not any(recipe in row for row in rows)] == []


def test_the_table_of_what_a_run_leaves_has_each_file():
    folder = RunFolder(Path())
    names = [path.name for path in (folder.checkpoints, folder.log, folder.valid_log, folder.model, folder.best_model)]
    for name in (*names, LOG, VALIDATIONS, RECIPE, FACTS, PAGE):
        assert re.search(rf"^\| `{re.escape(name)}[`/]", RECIPES, flags=re.MULTILINE), name
