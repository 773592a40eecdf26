import time

import pytest
import torch

from codec.tokens import CodecTokenizer


def tokenizer(pattern, num_quantizers=2):
    """Of 2 stages of 4 codes: pad 8, bos 9, eos 10, sep 11."""
    return CodecTokenizer(num_quantizers, 4, pattern)


def pushed(grammar, *tokens):
    for token in tokens:
        grammar.push(token)
    return grammar


def legal(grammar):
    return grammar.legal().nonzero().flatten().tolist()


def test_rows_of_a_step_agree_on_the_end():
    assert legal(pushed(tokenizer("parallel").grammar(), 1)) == [4, 5, 6, 7]
    assert legal(pushed(tokenizer("parallel").grammar(), 10)) == [10]


def test_in_delay_the_rows_end_one_after_another():
    grammar = tokenizer("delay").grammar()
    expected = [[0, 1, 2, 3, 10], [8], [0, 1, 2, 3, 10], [4, 5, 6, 7], [8], [10]]
    for choices, token in zip(expected, [3, 8, 10, 6, 8, 10], strict=True):
        assert legal(grammar) == choices
        grammar.push(token)
    assert grammar.codes().tolist() == [[3], [2]]


def test_in_coarse_first_the_first_stage_decides_the_length_of_the_others():
    grammar = pushed(tokenizer("coarse_first").grammar(), 1, 2, 11, 5)
    assert (grammar.num_frames, grammar.ended, legal(grammar)) == (1, False, [4, 5, 6, 7])
    assert legal(pushed(grammar, 6)) == [10]


def test_whole_frames_are_there_as_soon_as_their_last_stage_is():
    grammar = tokenizer("flatten").grammar()
    assert grammar.codes().shape == (2, 0)
    assert [pushed(grammar, token).num_frames for token in (1, 5, 2, 6, 3)] == [0, 1, 1, 2, 2]
    assert grammar.codes(start=1).tolist() == [[2], [2]]
    assert grammar.codes(start=1).dtype == torch.int64


def test_after_the_end_there_is_padding_alone():
    grammar = pushed(tokenizer("flatten").grammar(), 10, 8, 8)
    assert (grammar.ended, legal(grammar), grammar.num_frames) == (True, [8], 0)
    with pytest.raises(ValueError, match=r"^token at position 3 must be pad \(8\); got 1$"):
        grammar.push(1)


def test_an_illegal_token_is_an_error_and_changes_nothing():
    grammar = pushed(tokenizer("delay").grammar(), 1)
    with pytest.raises(ValueError, match=r"^token at step 0, row 1 must be pad \(8\); got 4$"):
        grammar.push(4)
    assert legal(grammar) == [8]
    with pytest.raises(ValueError, match=r"^token at step 1, row 0 must be a code from 0 to 3 or eos \(10\); got 9$"):
        pushed(grammar, 8, 9)


def test_a_prompt_leaves_no_choice_where_it_stands():
    # What comes later in delay than the first choice: frame 1 of stage 1.
    grammar = pushed(tokenizer("delay").grammar(torch.tensor([[1, 2], [3, 0]])), 1, 8, 2, 7)
    assert legal(grammar) == [0, 1, 2, 3, 10]
    assert legal(pushed(grammar, 3)) == [4]
    with pytest.raises(ValueError, match=r"^token at step 2, row 1 must be code 4; got 5$"):
        grammar.push(5)


def test_at_the_most_frames_the_end_is_all_that_is_legal():
    grammar = pushed(tokenizer("coarse_first").grammar(max_frames=2), 1, 2)
    assert legal(grammar) == [11]
    assert legal(tokenizer("coarse_first").grammar(max_frames=0)) == [11]
    with pytest.raises(ValueError, match="max_frames must be at least the 2 frames of the prompt; got 1"):
        tokenizer("flatten").grammar(torch.zeros(2, 2, dtype=torch.int64), max_frames=1)


@pytest.mark.parametrize("pattern", ["flatten", "parallel"])
def test_a_token_costs_the_same_however_long_the_sequence_is(pattern):
    grammar = tokenizer(pattern).grammar()
    seconds = []
    for _ in range(10):
        start = time.process_time()
        pushed(grammar, *([1, 5] * 1000))
        seconds.append(time.process_time() - start)
    assert min(seconds[5:]) < 3 * min(seconds[:5])
