"""What holds for every pattern, number of stages, length and kind of vocabulary."""

import pytest
import torch
from einops import rearrange
from hypothesis import given, settings
from hypothesis import strategies as st

from codec.tokens import PATTERNS, CodecTokenizer

CODEBOOK_SIZE = 7
TOKENIZERS = st.builds(
    CodecTokenizer,
    st.integers(1, 5),
    st.just(CODEBOOK_SIZE),
    st.sampled_from(sorted(PATTERNS)),
    shared=st.booleans(),
    extras=st.sampled_from([(), ("text", "speaker")]),
)
LENGTHS = st.integers(0, 9)
SEEDS = st.integers(0, 2**32)


def random_codes(tokenizer, frames, seed):
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(CODEBOOK_SIZE, (tokenizer.num_quantizers, frames), generator=generator)


def stream(ids):
    """Cell by cell, as a grammar takes them."""
    return ids.tolist() if ids.ndim == 1 else rearrange(ids, "w s -> (s w)").tolist()


def random_walk(grammar, cells, seed):
    """Push so many legal tokens, or up to the end, and return all of them."""
    generator = torch.Generator().manual_seed(seed)
    tokens = []
    while len(tokens) < cells and not grammar.ended:
        legal = grammar.legal()
        assert legal.any()
        tokens.append(int(torch.multinomial(legal.float(), 1, generator=generator)))
        grammar.push(tokens[-1])
    return tokens


def steps_of(tokenizer, tokens):
    """Cells -> steps, without a step that is not whole."""
    tokens = torch.tensor(tokens[: len(tokens) // tokenizer.width * tokenizer.width], dtype=torch.int64)
    return tokens if tokenizer.width == 1 else rearrange(tokens, "(s w) -> w s", w=tokenizer.width)


@settings(deadline=None)
@given(TOKENIZERS, LENGTHS, SEEDS, st.booleans(), st.booleans())
def test_the_inverse_of_a_sequence_is_its_codes(tokenizer, frames, seed, bos, eos):
    codes = random_codes(tokenizer, frames, seed)
    ids = tokenizer.encode(codes, bos=bos, eos=eos)
    assert ids.shape == ((tokenizer.width,) * (tokenizer.width > 1)) + (tokenizer.num_steps(frames, bos=bos, eos=eos),)
    assert torch.equal(tokenizer.decode(ids), codes)


@settings(deadline=None)
@given(TOKENIZERS, LENGTHS, SEEDS, st.integers(0, 60))
def test_a_truncated_sequence_gives_the_whole_frames_it_holds(tokenizer, frames, seed, steps):
    codes = random_codes(tokenizer, frames, seed)
    ids = tokenizer.encode(codes, bos=False)[..., :steps]
    # What is there, found by marking one frame after the other.
    whole = 0
    while whole < frames:
        marked = codes.clone()
        marked[:, whole] = (marked[:, whole] + 1) % CODEBOOK_SIZE
        changed = (tokenizer.encode(marked, bos=False)[..., :steps] != ids).sum()
        if changed < tokenizer.num_quantizers:
            break
        whole += 1
    assert torch.equal(tokenizer.decode(ids), codes[:, :whole])


@settings(deadline=None)
@given(TOKENIZERS, LENGTHS, SEEDS)
def test_the_grammar_allows_every_token_of_a_sequence_and_says_what_the_table_says(tokenizer, frames, seed):
    codes = random_codes(tokenizer, frames, seed)
    grammar = tokenizer.grammar()
    tokens = stream(tokenizer.encode(codes, bos=False))
    for token, allowance in zip(tokens, stream(tokenizer.allowances_of(frames, bos=False)), strict=True):
        assert not grammar.ended
        assert torch.equal(grammar.legal(), tokenizer.allowances[allowance])
        assert grammar.legal()[token]
        grammar.push(token)
    assert grammar.ended
    assert grammar.num_frames == frames
    assert torch.equal(grammar.codes(), codes)


@settings(deadline=None)
@given(TOKENIZERS, st.integers(0, 80), SEEDS)
def test_whatever_is_sampled_from_legal_tokens_decodes(tokenizer, cells, seed):
    grammar = tokenizer.grammar()
    ids = steps_of(tokenizer, random_walk(grammar, cells, seed))
    decoded = tokenizer.decode(ids)
    assert torch.equal(decoded, grammar.codes()[:, : decoded.shape[1]])
    assert grammar.num_frames - decoded.shape[1] in (0, 1)
    if grammar.ended:
        assert torch.equal(tokenizer.encode(decoded, bos=False), ids)


@settings(deadline=None)
@given(TOKENIZERS, LENGTHS, LENGTHS, SEEDS)
def test_what_is_sampled_from_a_prompt_begins_with_it_and_is_no_longer_than_asked_for(tokenizer, frames, more, seed):
    codes = random_codes(tokenizer, frames, seed)
    grammar = tokenizer.grammar(codes, frames + more)
    certain = tokenizer.prompt(codes)
    for token in stream(certain[..., 1:]):
        assert grammar.legal().nonzero().flatten().tolist() == [token]
        grammar.push(token)
    sampled = random_walk(grammar, 10_000, seed)
    assert grammar.ended
    ids = torch.cat([certain, steps_of(tokenizer, sampled)], -1)
    decoded = tokenizer.decode(ids)
    assert frames <= decoded.shape[1] <= frames + more
    assert torch.equal(decoded[:, :frames], codes)


@settings(deadline=None, max_examples=40)
@given(TOKENIZERS, LENGTHS, SEEDS, st.data())
def test_any_token_that_the_grammar_refuses_makes_the_sequence_illegal_there(tokenizer, frames, seed, data):
    ids = tokenizer.encode(random_codes(tokenizer, frames, seed), bos=False)
    tokens, rows = stream(ids), stream(tokenizer.allowances_of(frames, bos=False))
    at = data.draw(st.integers(0, len(tokens) - 1))
    # Bos would be taken for the beginning, and padding at the end for the padding of a truncated sequence.
    known = tokenizer.allowances[rows[at]].clone()
    known[[tokenizer.bos_id, tokenizer.pad_id]] = True
    for illegal in [*torch.where(~known)[0].tolist(), -1, tokenizer.vocab_size]:
        step, row = divmod(at, tokenizer.width)
        place = f"step {step}, row {row}" if tokenizer.width > 1 else f"position {step}"
        wrong = [*tokens[:at], illegal, *tokens[at + 1 :]]
        with pytest.raises(ValueError, match=f"^token at {place} must be .*; got {illegal}$"):
            tokenizer.decode(steps_of(tokenizer, wrong))
