import math

import pytest

from codec.corpora.fields import find_name, printable, to_text


def test_the_first_name_that_is_there_counts():
    assert find_name(["sentence", "text", "id"], "transcript") == "text"
    assert find_name(["text"], "speaker") is None


@pytest.mark.parametrize(
    ("value", "text"),
    [
        ("a", "a"),
        ("", None),
        (None, None),
        (7, "7"),
        (7.0, "7"),
        (7.5, "7.5"),
        (math.nan, None),
        (math.inf, None),
        (True, None),
        ([1], None),
    ],
)
def test_text_and_numbers_are_text(value, text):
    assert to_text(value) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("plain", "plain"),
        ("é\U0001f600", "é\U0001f600"),
        ("\udcff", r"\xff"),
        ("\udcc3\udca9", "é"),
        ("é \ud83d", r"é \ud83d"),
        ("\udd00\udcfe\udbff", r"\udd00\xfe\udbff"),
    ],
)
def test_any_text_becomes_unicode(text, shown):
    assert printable(text) == shown


def test_no_surrogate_is_left():
    every = "".join(map(chr, range(0xD800, 0xE000)))
    assert printable(every).encode().decode() == printable(every)
