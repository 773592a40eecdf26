from pathlib import Path

import pytest

from codec.lm.recipe import CorpusConfig, LMRecipe, TransformerConfig, load_lm_recipe

RECIPES = sorted((Path(__file__).parents[2] / "recipes" / "librispeech_lm").glob("*.toml"))


@pytest.fixture
def write(tmp_path):
    """Write a recipe, and give its path."""

    def write(text):
        path = tmp_path / "recipe.toml"
        path.write_text(text)
        return path

    return write


@pytest.mark.parametrize("path", RECIPES, ids=lambda path: path.stem)
def test_each_recipe_can_be_trained(path):
    recipe = load_lm_recipe(path)
    assert recipe.data.window_steps <= recipe.model.max_steps
    assert recipe.optimizer.warmup_steps < recipe.run.steps


def test_there_is_a_recipe():
    assert RECIPES


def test_a_recipe_holds_what_is_written_and_defaults_for_the_rest(write):
    path = write('name = "x"\ndata.pattern = "delay"\n[model]\nlayers = 2\ndropout = 0\n[run]\ntrackers = []')
    recipe = load_lm_recipe(path, ["run.steps = 7", "data.root = '''a b'''"])
    assert recipe.data == CorpusConfig(root="a b", pattern="delay")
    assert recipe.model == TransformerConfig(layers=2, dropout=0.0)
    assert (recipe.run.steps, recipe.run.trackers) == (7, ())
    assert recipe.optimizer == LMRecipe("x").optimizer


@pytest.mark.parametrize(
    ("line", "message"),
    [
        ("model.layer = 3", r"unknown setting model\.layer; did you mean 'layers'\?"),
        ("optimizer.betas = [0.9]", r"optimizer\.betas must have 2 values; got 1"),
        ("data.window_steps = 0", r"data\.window_steps must be positive; got 0"),
        ("data.batch_size = -1", r"data\.batch_size must be positive; got -1"),
        ("model.layers = 0", r"model\.layers must be positive; got 0"),
        ("model.heads = 0", r"model\.heads must be positive; got 0"),
        ("model.max_steps = 0", r"model\.max_steps must be positive; got 0"),
        ("run.steps = 0", r"run\.steps must be positive; got 0"),
        ("run.keep = 0", r"run\.keep must be positive; got 0"),
        ("data.num_quantizers = -1", r"data\.num_quantizers must not be negative; got -1"),
        ("optimizer.warmup_steps = -1", r"optimizer\.warmup_steps must not be negative; got -1"),
        ("optimizer.weight_decay = -0.1", r"optimizer\.weight_decay must not be negative; got -0\.1"),
        ("optimizer.learning_rate = -1.0", r"optimizer\.learning_rate must be positive; got -1\.0"),
        ("optimizer.max_gradient_norm = 0.0", r"optimizer\.max_gradient_norm must be positive; got 0\.0"),
        ("optimizer.betas = [0.9, 1.0]", r"optimizer\.betas must be from 0 to below 1; got \(0\.9, 1\.0\)"),
        ("model.dropout = 1.0", r"model\.dropout must be from 0 to below 1; got 1\.0"),
        ("model.dropout = -0.1", r"model\.dropout must be from 0 to below 1; got -0\.1"),
        ("model.hidden_size = 100", r"model\.hidden_size must be an even multiple of model\.heads 4; got 100"),
    ],
)
def test_a_setting_that_cannot_be_is_named(write, line, message):
    with pytest.raises(ValueError, match=message):
        load_lm_recipe(write('name = "x"'), [line])
