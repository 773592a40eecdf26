import re
from dataclasses import dataclass, field

import pytest

from codec.settings import settings_from


@dataclass(frozen=True)
class Oven:
    degrees: float = 180.0
    fan: bool = False


@dataclass(frozen=True)
class Cake:
    name: str
    eggs: int = 3
    layers: tuple[float, ...] = (1.0,)
    size: tuple[int, int] = (20, 30)
    oven: Oven = field(default_factory=Oven)
    spare_ovens: tuple[Oven, ...] = ()


def test_every_kind_of_setting_is_read() -> None:
    table = {
        "name": "plum",
        "eggs": 4,
        "layers": [0.5, 2.5, 1.0],
        "size": [24, 24],
        "oven": {"degrees": 200.5, "fan": True},
        "spare_ovens": [{"fan": True}, {}],
    }
    expected = Cake("plum", 4, (0.5, 2.5, 1.0), (24, 24), Oven(200.5, True), (Oven(fan=True), Oven()))
    assert settings_from(table, Cake) == expected


def test_what_is_left_out_keeps_its_default() -> None:
    assert settings_from({"name": "plum", "oven": {"fan": True}}, Cake) == Cake("plum", oven=Oven(180.0, True))


def test_a_whole_number_does_for_a_float() -> None:
    cake = settings_from({"name": "plum", "layers": [1, 2], "oven": {"degrees": 200}}, Cake)
    assert [type(number) for number in (*cake.layers, cake.oven.degrees)] == [float, float, float]


@pytest.mark.parametrize(
    ("table", "message"),
    [
        ({}, "setting name must be given; it has no default"),
        ({"name": "plum", "zest": 1}, "unknown setting zest"),
        ({"name": "plum", "egg": 1}, "unknown setting egg; did you mean 'eggs'?"),
        ({"name": "plum", "oven": {"degree": 1}}, "unknown setting oven.degree; did you mean 'degrees'?"),
        ({"name": 3}, "name must be str; got 3"),
        ({"name": "plum", "eggs": 3.0}, "eggs must be int; got 3.0"),
        ({"name": "plum", "eggs": "3"}, "eggs must be int; got '3'"),
        ({"name": "plum", "eggs": True}, "eggs must be int; got True"),
        ({"name": "plum", "eggs": None}, "eggs must be int; got None"),
        ({"name": "plum", "layers": 1.0}, "layers must be tuple; got 1.0"),
        ({"name": "plum", "layers": [1.0, "2"]}, "layers[1] must be float; got '2'"),
        ({"name": "plum", "size": [20]}, "size must have 2 values; got 1"),
        ({"name": "plum", "size": [20, 30, 40]}, "size must have 2 values; got 3"),
        ({"name": "plum", "size": [20, 30.0]}, "size[1] must be int; got 30.0"),
        ({"name": "plum", "oven": 180}, "oven must be a table; got 180"),
        ({"name": "plum", "oven": {"degrees": True}}, "oven.degrees must be float; got True"),
        ({"name": "plum", "oven": {"fan": 1}}, "oven.fan must be bool; got 1"),
        ({"name": "plum", "spare_ovens": [{}, {"fan": 0}]}, "spare_ovens[1].fan must be bool; got 0"),
    ],
)
def test_a_wrong_setting_is_named_with_its_path(table: dict[str, object], message: str) -> None:
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        settings_from(table, Cake)


def test_the_path_starts_where_the_caller_says() -> None:
    with pytest.raises(ValueError, match=r"^setting recipe\.cake\.name must be given"):
        settings_from({}, Cake, "recipe.cake.")


def test_an_error_inside_a_dataclass_stays_what_it_is() -> None:
    @dataclass
    class Burnt:
        def __post_init__(self) -> None:
            raise TypeError("smoke")

    with pytest.raises(TypeError, match=r"^smoke$"):
        settings_from({}, Burnt)
