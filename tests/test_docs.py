"""The pages say what is true: commands run or are understood, settings exist, links lead somewhere."""

import json
import re
import runpy
import shlex
import sys
import tomllib
from collections.abc import Iterator
from dataclasses import fields, is_dataclass
from pathlib import Path
from typing import get_type_hints

import pytest
import soundfile
import torch
from accelerate.commands.launch import launch_command_parser
from accelerate.state import AcceleratorState
from typer.main import get_command
from typer.testing import CliRunner

from codec.cli.main import app
from codec.evaluate.page import FACTS, LOG, PAGE, RECIPE, VALIDATIONS
from codec.lm.recipe import LMRecipe, load_lm_recipe
from codec.model import CodecConfig, ModelConfig, QuantizerConfig, build_codec
from codec.train.folder import RunFolder
from codec.train.recipe import Recipe, load_recipe
from codec.train.shell import parse_arguments

ROOT = Path(__file__).parent.parent
PAGES = [
    ROOT / name
    for name in (
        "README.md",
        "docs/ablations.md",
        "docs/commands.md",
        "docs/format.md",
        "docs/models.md",
        "docs/tokens.md",
        "docs/training.md",
        "recipes/README.md",
        "recipes/librispeech/README.md",
        "recipes/librispeech/clips/README.md",
        "recipes/librispeech_lm/README.md",
    )
]
TEXTS = {path: path.read_text(encoding="utf-8") for path in PAGES}
TRAINING, RECIPES = TEXTS[ROOT / "docs/training.md"], TEXTS[ROOT / "recipes/README.md"]
TOKENS, COMMANDS = TEXTS[ROOT / "docs/tokens.md"], TEXTS[ROOT / "docs/commands.md"]
# Scripts that train, and what reads the recipes of each.
LOADERS = {"recipes/train.py": load_recipe, "recipes/librispeech_lm/train.py": load_lm_recipe}


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


SETTINGS = {*names_of_settings(Recipe), *names_of_settings(LMRecipe)}
TABLES = "|".join({name.split(".")[0] for name in SETTINGS if "." in name})
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


def run_codec(arguments: list[str]) -> None:
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, f"codec {shlex.join(arguments)}: {result.output}"


def launch_training(arguments: list[str], monkeypatch: pytest.MonkeyPatch) -> None:
    """Do in this process what `accelerate launch` would do in one of its own."""
    launch = launch_command_parser().parse_args(arguments)
    assert (launch.cpu, launch.num_processes) == (True, 1)
    monkeypatch.setattr(sys, "argv", [launch.training_script, *launch.training_script_args])
    AcceleratorState._reset_state(reset_partial_state=True)
    try:
        runpy.run_path(launch.training_script, run_name="__main__")
    finally:
        AcceleratorState._reset_state(reset_partial_state=True)


@pytest.fixture(scope="module")
def spoken(tmp_path_factory, clips) -> Iterator[Path]:
    """A folder in which the ten commands of the page about tokens have run, on a few seconds of speech."""
    folder = tmp_path_factory.mktemp("tokens")
    (folder / "recipes").symlink_to(ROOT / "recipes")
    for name, clip in zip(
        ("recordings/train/a.wav", "recordings/train/b.wav", "recordings/valid/c.wav"), clips, strict=True
    ):
        samples, sample_rate = soundfile.read(clip, frames=40_000)
        (folder / name).parent.mkdir(parents=True, exist_ok=True)
        soundfile.write(folder / name, samples, sample_rate)
    soundfile.write(folder / "speech.wav", samples, sample_rate)
    with pytest.MonkeyPatch.context() as monkeypatch:
        monkeypatch.chdir(folder)
        monkeypatch.setattr("datasets.config.HF_DATASETS_CACHE", folder / "cache")
        for command in shell_commands(TOKENS):
            match shlex.split(command):
                case ["codec", *arguments]:
                    run_codec(arguments)
                case ["python", "-c", program]:
                    exec(program, {})
                case ["accelerate", "launch", *arguments]:
                    launch_training(arguments, monkeypatch)
                case ["pip", "install", "-e", what]:
                    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
                    assert what.removeprefix(".[").removesuffix("]") in project["optional-dependencies"]
                case ["tensorboard", "--logdir", logs]:  # a server
                    assert list(Path(logs).rglob("events.out.tfevents.*"))
                case _:
                    pytest.fail(f"not run by any test: {command}")
        yield folder


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
def test_every_training_command_is_understood(command, monkeypatch):
    words = shlex.split(command)
    assert words[:2] == ["accelerate", "launch"]
    launch = launch_command_parser().parse_args(words[2:])
    load = LOADERS[launch.training_script]
    monkeypatch.setattr(sys, "argv", ["train.py", *launch.training_script_args])
    arguments = parse_arguments("Train.", data="data")
    recipe = load(ROOT / arguments.recipe, arguments.set)
    assert arguments.data == recipe.data.root


def test_the_commands_that_are_only_shown_are_understood():
    lines = re.findall(r"^    ((?:codec|accelerate launch) .*?)(?: +[#|].*)?$", TOKENS + COMMANDS, flags=re.MULTILINE)
    assert len(lines) > 20
    for line in lines:
        words = shlex.split(line)
        if words[0] == "accelerate":
            launch = launch_command_parser().parse_args(words[2:])
            assert (launch.module, launch.training_script) == (True, "codec.cli")
            words = ["codec", *launch.training_script_args]
        name, *arguments = words[1:]
        if not name.startswith("-"):  # an option of all commands
            get_command(app).commands[name].make_context(name, arguments)


def test_ten_commands_lead_from_a_folder_of_audio_to_a_model_that_speaks(spoken):
    assert len(shell_commands(TOKENS)) == len(blocks("bash", TOKENS)) == 10
    lines = (spoken / "runs/tiny_lm/log.jsonl").read_text().splitlines()
    assert json.loads(lines[-1])["step"] == 30
    assert 0 < soundfile.info(spoken / "sample.wav").duration <= 2
    assert 2 < soundfile.info(spoken / "continued.wav").duration <= 4


def test_the_python_about_tokens_runs(spoken, monkeypatch, capsys):
    monkeypatch.chdir(spoken)
    for block in blocks("python", TOKENS):
        exec(compile(block, "tokens.md", "exec"), {})
    assert re.search(r"^2 clips, \d+ steps, 3076 tokens$", capsys.readouterr().out, flags=re.MULTILINE)
    run_codec(["generate", "--lm", "runs/own", "--duration", "0.2", "-o", "own.wav"])


@pytest.mark.usefixtures("_trained")
def test_the_codec_commands_about_training_run_one_after_the_other():
    commands = [command for command in shell_commands(TRAINING) if command.startswith("codec ")]
    assert len(commands) >= 5
    for command in commands:
        run_codec(shlex.split(command)[1:])
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
