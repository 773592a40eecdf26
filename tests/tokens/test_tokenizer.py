import json
import re
import time

import numpy as np
import pytest
import torch

from codec.model import CodecConfig, ModelConfig, QuantizerConfig, build_codec
from codec.tokens import PATTERNS, CodecTokenizer

CODES = torch.tensor([[1, 2], [3, 4], [5, 6]])  # 3 stages, 2 frames


@pytest.fixture
def codec(speech):
    """A codec of random weights, with codebooks of 16 codes."""
    model = ModelConfig(dim=32, encoder_depth=1, decoder_depth=1, latent_dim=16)
    codec = build_codec(CodecConfig("small", model, QuantizerConfig(3, 16))).train()
    with torch.no_grad():
        codec(speech)
    return codec.eval()


def test_only_the_first_stages_are_tokens():
    tokenizer = CodecTokenizer(2, 10)
    assert tokenizer.encode(CODES).tolist() == [21, 1, 13, 2, 14, 22]
    assert torch.equal(tokenizer.decode(tokenizer.encode(CODES)), CODES[:2])


def test_the_rows_of_a_step_are_an_axis_of_their_own():
    tokenizer = CodecTokenizer(2, 10, "delay")
    assert tokenizer.encode(CODES).tolist() == [[21, 1, 2, 22, 20], [21, 20, 13, 14, 22]]
    assert tokenizer.encode(CODES, bos=False, eos=False).tolist() == [[1, 2, 22], [20, 13, 14]]
    assert tokenizer.prompt(CODES).tolist() == [[21, 1, 2], [21, 20, 13]]


@pytest.mark.parametrize(
    ("pattern", "steps", "steps_per_frame"),
    [("flatten", 42, 4), ("coarse_first", 45, None), ("parallel", 12, 1), ("delay", 15, 1)],
)
def test_what_a_pattern_costs(pattern, steps, steps_per_frame):
    tokenizer = CodecTokenizer(4, 10, pattern)
    assert tokenizer.num_steps(10) == steps
    assert tokenizer.num_steps(10, bos=False, eos=False) == steps - 2
    assert tokenizer.steps_per_frame == steps_per_frame
    assert CodecTokenizer(1, 10, pattern).steps_per_frame == 1


@pytest.mark.parametrize("pattern", PATTERNS)
def test_a_prompt_of_other_tokens_and_padding_around_it_are_passed_over(pattern):
    tokenizer = CodecTokenizer(2, 10, pattern, extras=("text", "speaker"))
    ids = tokenizer.encode(CODES)
    around = [
        ids.new_full((*ids.shape[:-1], 3), token) for token in (tokenizer.vocabulary.id_of("text"), tokenizer.pad_id)
    ]
    assert torch.equal(tokenizer.decode(torch.cat([around[1], around[0], ids, around[1]], -1)), CODES[:2])
    with pytest.raises(ValueError, match=r"must be pad \(20\); got 24$"):
        tokenizer.decode(torch.cat([ids, around[0]], -1))


def test_a_position_is_that_in_all_ids_with_what_is_passed_over():
    tokenizer = CodecTokenizer(2, 10, extras=("text",))
    with pytest.raises(ValueError, match=r"^token at position 3 must be a code from 10 to 19; got 20$"):
        tokenizer.decode(torch.tensor([24, 21, 1, 20, 2, 14]))


@pytest.mark.parametrize("pattern", PATTERNS)
@pytest.mark.parametrize("side", ["left", "right"])
def test_a_batch_holds_each_sequence_where_its_mask_is_one(pattern, side):
    tokenizer = CodecTokenizer(2, 10, pattern)
    sequences = [tokenizer.encode(CODES[:, :frames]) for frames in (1, 0, 2)]
    batch = tokenizer.batch(sequences, side)
    longest = max(ids.shape[-1] for ids in sequences)
    assert batch.input_ids.shape == (3, *sequences[0].shape[:-1], longest)
    assert batch.attention_mask.shape == (3, longest)
    for ids, mask, sequence in zip(*batch, sequences, strict=True):
        assert torch.equal(ids[..., mask.bool()], sequence)
        assert (ids[..., ~mask.bool()] == tokenizer.pad_id).all()
        assert bool(mask[-1]) == (side == "left" or sequence.shape[-1] == longest)
        assert torch.equal(tokenizer.decode(ids), tokenizer.decode(sequence))


@pytest.mark.parametrize("pattern", PATTERNS)
def test_every_token_is_among_the_allowances_of_its_position(pattern):
    tokenizer = CodecTokenizer(3, 10, pattern)
    masks = tokenizer.allowances[tokenizer.allowances_of(2)]
    assert masks.gather(-1, tokenizer.encode(CODES)[..., None]).all()
    assert tokenizer.allowances_of(2, bos=False, eos=False).shape == tokenizer.encode(CODES, bos=False, eos=False).shape


@pytest.mark.parametrize("pattern", PATTERNS)
def test_an_hour_of_codes_takes_no_loop_over_tokens(pattern):
    tokenizer = CodecTokenizer(8, 1024, pattern)
    codes = torch.randint(1024, (8, 50 * 3600))
    start = time.process_time()
    decoded = tokenizer.decode(tokenizer.encode(codes))
    # 1.4 million codes: 0.3 s on one core. A loop takes as much for a tenth of them.
    assert time.process_time() - start < 1.5
    assert torch.equal(decoded, codes)


def test_waveforms_become_tokens_and_audio_again(codec, speech):
    tokenizer = CodecTokenizer.from_codec(codec, 2, "delay")
    assert (tokenizer.model, tokenizer.fingerprint, tokenizer.frame_rate) == ("small", codec.fingerprint(), 50.0)
    ids = tokenizer.encode_waveform(codec, speech)
    with torch.inference_mode():
        codes = codec.encode(speech, 2)
        assert torch.equal(tokenizer.decode(ids), codes[0])
        assert torch.equal(tokenizer.encode_waveform(codec, speech[0]), ids)
        assert torch.equal(tokenizer.decode_waveform(codec, ids), codec.decode(codes)[0])
    assert CodecTokenizer.from_codec(codec).num_quantizers == 3


def test_a_codec_that_does_not_fit_is_an_error(codec, speech):
    tokenizer = CodecTokenizer(2, 16, model="large", fingerprint="0" * 16)
    message = f"codec must be the one whose codes these are, large ({'0' * 16}); got small ({codec.fingerprint()})"
    with pytest.raises(ValueError, match=re.escape(message)):
        tokenizer.encode_waveform(codec, speech)
    with pytest.raises(ValueError, match=re.escape(message)):
        tokenizer.decode_waveform(codec, torch.tensor([tokenizer.bos_id]))
    with pytest.raises(ValueError, match="codec must have 4 stages of 16 codes, as the tokens have; got 3 of "):
        CodecTokenizer(4, 16).check_codec(codec)
    with pytest.raises(ValueError, match="num_quantizers must be from 1 to 3; got 4"):
        CodecTokenizer.from_codec(codec, 4)
    with pytest.raises(ValueError, match=re.escape("waveform must be [1, time] or [1, 1, time]; got shape (2, 1, 9)")):
        CodecTokenizer.from_codec(codec).encode_waveform(codec, torch.zeros(2, 1, 9))


def test_a_loaded_tokenizer_is_the_saved_one(tmp_path):
    facts = {"shared": True, "extras": ("text",), "model": "small", "fingerprint": "ab", "frame_rate": 12.5}
    for number, tokenizer in enumerate([CodecTokenizer(3, 10, "delay", **facts), CodecTokenizer(2, 5)]):
        folder = tmp_path / f"{number}/below"
        tokenizer.save_pretrained(folder)
        tokenizer.save_pretrained(folder)
        loaded = CodecTokenizer.from_pretrained(folder)
        assert [path.name for path in folder.iterdir()] == ["codec_tokenizer.json"]
        for name in ("num_quantizers", "codebook_size", "pattern", "vocab_size", *facts):
            assert getattr(loaded, name) == getattr(tokenizer, name)
        assert torch.equal(loaded.encode(CODES % 5), tokenizer.encode(CODES % 5))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        (None, "cannot be read: No such file or directory"),
        ("[]", "settings must be a JSON object; got list"),
        ("[" * 100_000, "nested too deeply"),
        (
            '{"num_quantizers": 2, "codebook_size": 5, "pattern": "delay", "frame_rate": NaN}',
            "frame_rate must be a positive number; got nan",
        ),
        ("{", "Expecting property name"),
        (json.dumps({"num_quantizers": 2}), "setting codebook_size must be given; it has no default"),
        (json.dumps({"num_quantizer": 2}), "unknown setting num_quantizer; did you mean 'num_quantizers'?"),
        (
            json.dumps({"num_quantizers": 0, "codebook_size": 2, "pattern": "delay"}),
            "num_quantizers must be from 1 to 256, and codebook_size",
        ),
        (
            json.dumps({"num_quantizers": 2, "codebook_size": 2, "pattern": "late"}),
            "pattern must be one of coarse_first, ",
        ),
    ],
)
def test_a_file_that_is_none_of_a_tokenizer_is_an_error_that_names_it(tmp_path, content, message):
    path = tmp_path / "codec_tokenizer.json"
    if content is not None:
        path.write_text(content)
    with pytest.raises(ValueError, match=f"^{re.escape(f'{path}: {message}')}"):
        CodecTokenizer.from_pretrained(tmp_path)


@pytest.mark.parametrize(
    ("codes", "message"),
    [
        (CODES[:1], "codes must be integers, [num_quantizers, frames] of 2 stages or more; got torch.int64, (1, 2)"),
        (
            CODES[None],
            "codes must be integers, [num_quantizers, frames] of 2 stages or more; got torch.int64, (1, 3, 2)",
        ),
        (CODES / 2, "codes must be integers, [num_quantizers, frames] of 2 stages or more; got torch.float32, (3, 2)"),
        (CODES + 6, "codes must be from 0 to 9; got 7 to 10"),
        (CODES - 2, "codes must be from 0 to 9; got -1 to 2"),
    ],
)
def test_codes_that_are_none_are_an_error(codes, message):
    for function in (CodecTokenizer(2, 10).encode, CodecTokenizer(2, 10).prompt, CodecTokenizer(2, 10).grammar):
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            function(codes)


def test_ids_of_another_shape_are_an_error():
    flat, rows = CodecTokenizer(2, 10), CodecTokenizer(2, 10, "delay")
    for tokenizer, ids, shape in [
        (flat, CODES, "[steps]"),
        (rows, CODES, "[2, steps]"),
        (rows, CODES[0], "[2, steps]"),
    ]:
        message = f"ids must be integers, {shape}; got torch.int64, {tuple(ids.shape)}"
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            tokenizer.decode(ids)
        with pytest.raises(ValueError, match=f"^{re.escape(message)}$"):
            tokenizer.batch([ids])


def test_a_batch_of_nothing_or_padded_nowhere_is_an_error():
    with pytest.raises(ValueError, match="sequences must be at least one; got none"):
        CodecTokenizer(2, 10).batch([])
    with pytest.raises(ValueError, match="padding_side must be left or right; got 'both'"):
        CodecTokenizer(2, 10).batch([torch.tensor([1])], "both")


@pytest.mark.parametrize("kind", [np.uint16, np.int32, np.int64])
def test_arrays_and_lists_are_taken_as_tensors_are(kind):
    tokenizer = CodecTokenizer(2, 5, "delay")
    codes = torch.tensor([[1, 2, 3], [4, 0, 1]])
    ids = tokenizer.encode(codes)
    for convert in (lambda tensor: tensor.numpy().astype(kind), torch.Tensor.tolist):
        assert torch.equal(tokenizer.encode(convert(codes)), ids)
        assert torch.equal(tokenizer.decode(convert(ids)), codes)
        assert torch.equal(tokenizer.batch([convert(ids)]).input_ids[0], ids)


@pytest.mark.parametrize("pattern", PATTERNS)
def test_frames_are_told_from_the_steps_of_a_whole_sequence(pattern):
    tokenizer = CodecTokenizer(3, 5, pattern)
    steps = {tokenizer.num_steps(frames): frames for frames in range(9)}
    for number in range(max(steps)):
        if number in steps:
            assert tokenizer.num_frames(number) == steps[number]
        else:
            with pytest.raises(ValueError, match=f"steps must be those of a whole sequence, .*; got {number}"):
                tokenizer.num_frames(number)
