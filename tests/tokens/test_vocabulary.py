import pytest

from codec.tokens import Vocabulary
from codec.tokens.vocabulary import BOS, EOS, PAD, SEP

SPECIAL = ("pad", "bos", "eos", "sep")


def test_the_ids_are_those_of_the_table():
    vocabulary = Vocabulary(3, 10, extras=["text", "speaker"])
    assert [vocabulary.offset(stage) for stage in range(3)] == [0, 10, 20]
    assert [vocabulary.id_of(name) for name in (*SPECIAL, "text", "speaker")] == [30, 31, 32, 33, 34, 35]
    assert (vocabulary.num_codes, vocabulary.size) == (30, 36)


def test_the_stages_of_a_shared_vocabulary_have_the_same_ids():
    vocabulary = Vocabulary(3, 10, shared=True, extras=["text"])
    assert [vocabulary.offset(stage) for stage in range(3)] == [0, 0, 0]
    assert [vocabulary.id_of(name) for name in (*SPECIAL, "text")] == [10, 11, 12, 13, 14]
    assert (vocabulary.num_codes, vocabulary.size) == (10, 15)


@pytest.mark.parametrize("shared", [False, True])
def test_every_kind_has_its_ids(shared):
    vocabulary = Vocabulary(2, 5, shared)
    assert vocabulary.ids_of(1) == (range(0, 5) if shared else range(5, 10))
    ids = [vocabulary.ids_of(kind) for kind in (PAD, BOS, EOS, SEP)]
    assert ids == [range(vocabulary.id_of(name), vocabulary.id_of(name) + 1) for name in SPECIAL]


def test_messages_name_ids_by_what_they_are():
    vocabulary = Vocabulary(2, 5, extras=["text"])
    descriptions = [vocabulary.describe(ids) for ids in (range(5, 10), range(7, 8), range(12, 13), range(14, 15))]
    assert descriptions == ["a code from 5 to 9", "code 7", "eos (12)", "text (14)"]


@pytest.mark.parametrize("extras", [["text", "text"], ["eos"], [""]])
def test_a_name_that_is_not_its_own_is_an_error(extras):
    with pytest.raises(ValueError, match="extras must have names of their own, none of them pad, bos, eos, sep; got"):
        Vocabulary(2, 5, extras=extras)


@pytest.mark.parametrize("sizes", [(0, 5), (2, 0), (-1, 5), (257, 1), (2, (1 << 19) + 1), (1, 10**12)])
def test_a_size_that_no_codec_has_is_an_error(sizes):
    with pytest.raises(ValueError, match=f"num_quantizers must be from 1 to 256, .* got {sizes[0]}, {sizes[1]}"):
        Vocabulary(*sizes)


def test_a_name_instead_of_names_is_an_error():
    with pytest.raises(ValueError, match="extras must be a list of names; got 'text'"):
        Vocabulary(2, 5, extras="text")


def test_what_is_not_there_is_an_error():
    with pytest.raises(ValueError, match="stage must be from 0 to 1; got 2"):
        Vocabulary(2, 5).offset(2)
    with pytest.raises(
        ValueError, match="token must be one of bos, eos, pad, sep, text; got 'texts'; did you mean 'text'"
    ):
        Vocabulary(2, 5, extras=["text"]).id_of("texts")
