import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from codec.bitstream import clean_tags
from codec.bitstream.tags import check_tags


def test_texts_of_any_script_are_tags():
    check_tags({"title": "Für Elise", "название": "«Лебедь» 🦢", "empty": "", "joined": "می‌خواهم"})
    check_tags({f"key {number}": "x" * 4096 for number in range(64)} | {"key 0": "é" * 2048})


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        ({str(number): "" for number in range(65)}, "there must be at most 64 tags; got 65"),
        ({"": "x"}, "key of a tag must be of 1 to 255 bytes of UTF-8 without control characters; got ''"),
        ({"k" * 256: "x"}, f"key of a tag must be of 1 to 255 {{}}; got '{'k' * 40}...'"),
        ({"a\x1b[31m": "x"}, "key of a tag must be of 1 to 255 {}; got 'a\\x1b[31m'"),
        ({"a": "x" * 4097}, f"tag 'a' must be of 0 to 4096 {{}}; got '{'x' * 40}...'"),
        ({"a": "one\ntwo"}, "tag 'a' must be of 0 to 4096 {}; got 'one\\ntwo'"),
        ({"a": "\x9b31m"}, "tag 'a' must be of 0 to 4096 {}; got '\\x9b31m'"),
        ({"a": "\u202egnp.exe"}, "tag 'a' must be of 0 to 4096 {}; got '\\u202egnp.exe'"),
        ({"a": "\ud800"}, "tag 'a' must be of 0 to 4096 {}; got '\\ud800'"),
    ],
)
def test_other_texts_are_errors(tags, message):
    message = message.replace("{}", "bytes of UTF-8 without control characters")
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        check_tags(tags)


def test_cleaning_keeps_what_can_be_kept():
    tags = {"title": " one\ntwo\x00 ", "empty": "\t", "long": "é" * 3000, "artist": "Anna"}
    assert clean_tags(tags) == {"title": "one two", "long": "é" * 2048, "artist": "Anna"}
    assert clean_tags({str(number): "x" for number in range(100)}) == {str(number): "x" for number in range(64)}


@given(st.dictionaries(st.text(), st.text(), max_size=70))
def test_any_texts_can_be_cleaned(tags):
    clean = clean_tags(tags)
    check_tags(clean)
    assert clean_tags(clean) == clean
