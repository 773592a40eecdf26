import re

import pytest
import torch

from codec.tokens import PATTERNS, Vocabulary
from codec.tokens.layout import Layout

CODES = torch.tensor([[1, 2], [3, 4]])  # 2 stages, 2 frames


def layout(pattern, shared=False):
    """Of 2 stages of 10 codes: pad 20, bos 21, eos 22, sep 23; or, shared, 10 to 13."""
    return Layout(Vocabulary(2, 10, shared), PATTERNS[pattern])


@pytest.mark.parametrize(
    ("pattern", "stream"),
    [
        ("flatten", [1, 13, 2, 14, 22]),
        ("coarse_first", [1, 2, 23, 13, 14, 22]),
        ("parallel", [1, 13, 2, 14, 22, 22]),
        ("delay", [1, 20, 2, 13, 22, 14, 20, 22]),
    ],
)
def test_streams_are_those_written_by_hand(pattern, stream):
    assert layout(pattern).encode(CODES).tolist() == stream
    # A shared vocabulary has the same special tokens, 10 lower, and no offsets.
    shared = [token - 10 if token >= 10 else token for token in stream]
    assert layout(pattern, shared=True).encode(CODES).tolist() == shared


@pytest.mark.parametrize(
    ("pattern", "stream", "place", "legal"),
    [
        ("flatten", [11], "position 0", "a code from 0 to 9 or eos (22)"),
        ("flatten", [1, 2], "position 1", "a code from 10 to 19"),
        ("flatten", [1, 13, 22, 5], "position 3", "pad (20)"),
        ("flatten", [1, 13, 23], "position 2", "a code from 0 to 9 or eos (22)"),
        ("coarse_first", [1, 2, 22], "position 2", "a code from 0 to 9 or sep (23)"),
        ("coarse_first", [1, 23, 11, 12], "position 3", "eos (22)"),
        ("parallel", [1, 22], "step 0, row 1", "a code from 10 to 19"),
        ("parallel", [1, 11, 22, 11], "step 1, row 1", "eos (22)"),
        ("delay", [1, 11], "step 0, row 1", "pad (20)"),
        ("delay", [22, 20, 20, 11], "step 1, row 1", "eos (22)"),
    ],
)
def test_an_illegal_token_is_an_error_that_says_where_and_what_is_legal(pattern, stream, place, legal):
    message = f"token at {place} must be {legal}; got {stream[-1]}"
    with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
        layout(pattern).decode(torch.tensor(stream))


def test_the_first_of_several_illegal_tokens_is_named_by_its_place_in_the_whole():
    with pytest.raises(ValueError, match=r"^token at position 6 must be a code from 10 to 19; got 3$"):
        layout("flatten").decode(torch.tensor([1, 3, 40, 40, 22]), first_step=5)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_stream_of_nothing_holds_no_frames(pattern):
    assert layout(pattern).decode(torch.tensor([], dtype=torch.int64)).shape == (2, 0)


def test_every_set_of_legal_tokens_is_in_the_table():
    rows = [allowed.nonzero().flatten().tolist() for allowed in layout("coarse_first").allowances]
    assert rows == [[*range(10), 23], [*range(10, 20)], [20], [21], [22], [23]]
    assert layout("coarse_first").allowances_of(2).tolist() == [0, 0, 0, 1, 1, 4]
    assert layout("delay").allowances_of(2).tolist() == [0, 2, 0, 1, 0, 1, 2, 4]
