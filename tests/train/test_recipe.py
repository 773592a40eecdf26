from pathlib import Path

import pytest

from codec.model import build_codec
from codec.train.objective import Objective
from codec.train.recipe import DataConfig, LossConfig, Recipe, load_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes" / "librispeech").glob("*.toml"))


@pytest.fixture
def write(tmp_path):
    """Write a recipe, and give its path."""

    def write(text):
        path = tmp_path / "recipe.toml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_each_recipe_builds_a_codec_and_its_objective(path):
    recipe = load_recipe(path)
    assert recipe.name == path.stem
    assert build_codec(recipe.codec).name == path.stem
    assert Objective(recipe.loss, recipe.model.sample_rate)
    assert recipe.crop_length % recipe.model.hop_length == 0


def test_there_is_a_recipe():
    assert RECIPES


def test_a_recipe_holds_what_is_written_and_defaults_for_the_rest(write):
    recipe = load_recipe(
        write(
            """
            name = "small"
            [model]
            dim = 32
            [quantizer]
            codebook_size = 64
            [data]
            gain_db = [-6, 6.5]
            crop_seconds = 2
            [loss]
            window_lengths = [512, 256]
            [run]
            steps = 7
            """
        )
    )
    assert (recipe.name, recipe.codec.name) == ("small", "small")
    assert (recipe.model.dim, recipe.codec.model.dim) == (32, 32)
    assert recipe.codec.quantizer.codebook_size == 64
    assert recipe.data == DataConfig(gain_db=(-6.0, 6.5), crop_seconds=2.0)
    assert recipe.loss == LossConfig(window_lengths=(512, 256))
    assert recipe.run.steps == 7
    assert recipe.optimizer == Recipe("x").optimizer


def test_crop_length_is_in_samples(write):
    path = write('name = "x"\ndata.crop_seconds = 0.5\nmodel.sample_rate = 24000')
    assert load_recipe(path).crop_length == 12_000


def test_overrides_replace_single_settings_the_last_one_winning(write):
    path = write('name = "x"\n[run]\nsteps = 7\nseed = 3\n[data]\nroot = "a"')
    recipe = load_recipe(path, ["run.steps = 8", "run.steps = 9", "model.dim = 5", "data.root = '''b c'''", 'name="y"'])
    assert (recipe.run.steps, recipe.run.seed, recipe.model.dim) == (9, 3, 5)
    assert (recipe.data.root, recipe.name) == ("b c", "y")


def test_an_override_may_be_a_table(write):
    recipe = load_recipe(write('name = "x"\n[run]\nsteps = 7'), ["run = {seed = 4, log_every = 2}"])
    assert (recipe.run.steps, recipe.run.seed, recipe.run.log_every) == (7, 4, 2)


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("run.step = 3", r"unknown setting run\.step; did you mean 'steps'\?"),
        ("optimiser.learning_rate = 1", "unknown setting optimiser; did you mean 'optimizer'"),
        ("quantizer.n_q = 1", r"unknown setting quantizer\.n_q"),
        ("run.steps = 3.0", r"run\.steps must be int; got 3\.0"),
        ("run.steps = true", r"run\.steps must be int; got True"),
        ("data.batch_size = '4'", r"data\.batch_size must be int; got '4'"),
        ("loss.num_mels = 80", r"loss\.num_mels must be .*; got 80"),
        ("loss.num_mels = [80, 'x']", r"loss\.num_mels\S* must be int; got 'x'"),
        ("optimizer.betas = [0.9]", r"optimizer\.betas must have 2 values; got 1"),
        ("data.gain_db = [1, 2, 3]", r"data\.gain_db must have 2 values; got 3"),
        ("model = 3", "model must be a table; got 3"),
        ("name = 3", "name must be str; got 3"),
        ("run.steps = 0", r"run\.steps must be positive; got 0"),
        ("run.log_every = 0", r"run\.log_every must be positive; got 0"),
        ("run.save_every = -1", r"run\.save_every must be positive; got -1"),
        ("run.initial_examples = 0", r"run\.initial_examples must be positive; got 0"),
        ("data.batch_size = 0", r"data\.batch_size must be positive; got 0"),
        ("data.crop_seconds = 0", r"data\.crop_seconds must be positive; got 0\.0"),
    ],
)
def test_a_setting_that_cannot_be_is_named_in_a_recipe_and_in_an_override(write, line, message):
    with pytest.raises(ValueError, match=message):
        load_recipe(write('name = "x"' if line.startswith("name") else f'name = "x"\n{line}'), [line])
    if not line.startswith("name"):
        with pytest.raises(ValueError, match=message):
            load_recipe(write(f'name = "x"\n{line}'))


def test_a_recipe_without_a_name_is_refused(write):
    with pytest.raises(ValueError, match="name"):
        load_recipe(write("run.steps = 3"))


def test_what_is_not_toml_is_refused_with_where_it_stands(write):
    with pytest.raises(ValueError, match=r"recipe\.toml must be TOML; .*line 2"):
        load_recipe(write('name = "x"\nrun = many'))
    with pytest.raises(ValueError, match=r"override 'run\.steps=many' must be TOML; "):
        load_recipe(write('name = "x"'), ["run.steps=many"])


def test_a_recipe_that_is_not_there_is_an_os_error(tmp_path):
    with pytest.raises(FileNotFoundError):
        load_recipe(tmp_path / "none.toml")
