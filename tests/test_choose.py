import pytest

from codec.choose import choose, did_you_mean
from codec.quantize.distance import DISTANCES
from codec.quantize.estimator import ESTIMATORS
from codec.quantize.initialize import INITIALIZERS, samples, uniform
from codec.quantize.loss import cross_entropy, mean_square
from codec.quantize.update import UPDATES

TABLE = {"red": 1, "green": 2, "blue": 3}


@pytest.mark.parametrize("name", TABLE)
def test_a_known_name_gives_its_piece(name: str) -> None:
    assert choose(TABLE, name, "colour") == TABLE[name]


def test_an_unknown_name_lists_the_known_ones() -> None:
    with pytest.raises(ValueError, match=r"^colour must be one of blue, green, red; got 'violet'$"):
        choose(TABLE, "violet", "colour")


def test_a_misspelt_name_is_corrected() -> None:
    message = r"^colour must be one of blue, green, red; got 'gren'; did you mean 'green'\?$"
    with pytest.raises(ValueError, match=message):
        choose(TABLE, "gren", "colour")


def test_only_what_is_near_is_suggested() -> None:
    assert did_you_mean("gren", TABLE) == "; did you mean 'green'?"
    assert did_you_mean("gren", ["blue", "green"]) == "; did you mean 'green'?"
    assert did_you_mean("violet", TABLE) == ""
    assert did_you_mean("green", []) == ""


FUNCTIONS = {name: estimator.estimate for name, estimator in ESTIMATORS.items()} | {
    "euclidean": DISTANCES["euclidean"].measure,
    "cosine": DISTANCES["cosine"].measure,
    "uniform": uniform,
    "samples": samples,
    "mse": mean_square,
    "cross_entropy": cross_entropy,
}


@pytest.mark.parametrize("pieces", [FUNCTIONS, UPDATES, {"kmeans": type(INITIALIZERS["kmeans"])}])
def test_the_name_of_a_piece_is_the_name_in_the_code(pieces) -> None:
    for name, piece in pieces.items():
        assert name == "mse" or piece.__name__.lower() == name.replace("_", "") or piece.__name__ == name
        assert piece.__doc__
