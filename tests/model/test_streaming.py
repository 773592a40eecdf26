import copy
import pickle
from dataclasses import replace

import pytest
import soundfile
import torch
import torch.nn.functional as F

from codec.layers import LSTM_MEMORY, Stateful
from codec.model import Codec, ModelConfig, build_codec
from codec.model.build import FAMILIES

HOP, LOOK_AHEAD = 32, 48


@pytest.fixture(params=FAMILIES)
def config(request, configs):
    return configs[request.param]


@pytest.fixture(scope="module")
def shipped() -> Codec:
    return Codec.from_pretrained("speech_16khz")


@pytest.fixture
def waveform(speech):
    """A fifth of a second in which somebody speaks; the last of 100 frames of 32 samples is not whole."""
    return speech[..., 16_000 : 16_000 + 100 * HOP - 5]


def random_sizes(length, longest):
    """Samples of parts of such a length, 0 too; as many short as long ones."""
    sizes = []
    while sum(sizes) < length:
        sizes.append(min(int((longest + 1) ** torch.rand(())) - 1, length - sum(sizes)))
    return sizes


@torch.inference_mode()
def encode_in_parts(codec, waveform, sizes, **options):
    with codec.streaming(waveform.shape[0]):
        codes = [codec.encode(part, **options) for part in waveform.split(sizes, dim=-1)]
        return torch.cat([*codes, codec.flush()], dim=-1)


@torch.inference_mode()
def decode_in_parts(codec, codes, size):
    with codec.streaming(codes.shape[0]):
        return torch.cat([codec.decode(part) for part in codes.split(size, dim=-1)], dim=-1)


@pytest.mark.parametrize("size", [1, 7, 31, 32, 33, 160, 1000, 16_000])
def test_codes_of_parts_are_those_of_the_whole(codec, waveform, size):
    assert torch.equal(encode_in_parts(codec, waveform, size), codec.encode(waveform))


@pytest.mark.parametrize("length", [1, 31, 32, 33, 47, 48, 79, 80, 81, 3000])
def test_audio_of_any_length_in_parts_of_any_length_has_the_codes_of_the_whole(codec, speech, length):
    waveform = speech[..., 20_000 : 20_000 + length]
    assert torch.equal(encode_in_parts(codec, waveform, random_sizes(length, 800)), codec.encode(waveform))


@pytest.mark.parametrize("look_ahead", [0, 1, 31, 32, 33, 100])
def test_any_look_ahead_streams(configs, make_codec, waveform, look_ahead):
    config = configs["seanet"]
    codec = make_codec(replace(config, model=replace(config.model, look_ahead=look_ahead)))
    assert torch.equal(encode_in_parts(codec, waveform, 50), codec.encode(waveform))


@pytest.mark.parametrize("size", [1, 3, 50])
def test_samples_of_parts_are_those_of_the_whole(codec, waveform, size):
    codes = codec.encode(waveform)
    torch.testing.assert_close(decode_in_parts(codec, codes, size), codec.decode(codes), atol=1e-4, rtol=0)


def test_a_frame_comes_out_as_soon_as_its_look_ahead_is_in(codec, waveform):
    with codec.streaming():
        ready = [codec.encode(sample).shape[-1] for sample in waveform[..., :500].split(1, dim=-1)]
    assert [time + 1 for time, frames in enumerate(ready) if frames] == list(range(HOP + LOOK_AHEAD, 501, HOP))
    assert codec.latency == (HOP + LOOK_AHEAD) / 16_000


def test_streams_side_by_side_are_those_of_each_alone(codec, speech):
    batch = speech[..., : 3 * 3200].reshape(3, 1, 3200)
    codes = encode_in_parts(codec, batch, 100)
    alone = torch.cat([encode_in_parts(codec, example[None], 100) for example in batch])
    assert torch.equal(codes, alone)
    torch.testing.assert_close(decode_in_parts(codec, codes, 7), codec.decode(codes), atol=1e-4, rtol=0)


def test_encoding_and_decoding_stream_side_by_side(codec, waveform):
    decoded = []
    with torch.inference_mode(), codec.streaming():
        for part in waveform.split(100, dim=-1):
            decoded.append(codec.decode(codec.encode(part)))
        decoded.append(codec.decode(codec.flush()))
    expected = codec.decode(codec.encode(waveform))
    torch.testing.assert_close(torch.cat(decoded, dim=-1), expected, atol=1e-4, rtol=0)


def test_stages_and_search_are_those_asked_for_to_the_end(codec, waveform):
    codes = encode_in_parts(codec, waveform, 100, num_quantizers=3, beam_size=4, rate_weight=0.5)
    assert torch.equal(codes, codec.encode(waveform, 3, beam_size=4, rate_weight=0.5))


def test_the_search_may_change_within_a_stream(codec, waveform):
    first, second = waveform.tensor_split(2, dim=-1)
    with codec.streaming():
        codes = [codec.encode(first, 2, beam_size=2), codec.encode(second, 2, beam_size=2, rate_weight=2.0)]
        codes.append(codec.flush())
    frames = codes[0].shape[-1]
    before, after = codec.encode(waveform, 2, beam_size=2), codec.encode(waveform, 2, beam_size=2, rate_weight=2.0)
    assert torch.equal(torch.cat(codes, dim=-1), torch.cat([before[..., :frames], after[..., frames:]], dim=-1))
    assert not torch.equal(before, after)


def test_the_search_of_the_model_streams(codec, waveform):
    nearest = codec.encode(waveform)
    codec.config = replace(codec.config, quantizer=replace(codec.config.quantizer, beam_size=4))
    codes = encode_in_parts(codec, waveform, 100)
    assert torch.equal(codes, codec.encode(waveform))
    assert not torch.equal(codes, nearest)


def test_latents_stream_as_well(codec, waveform):
    with torch.inference_mode(), codec.streaming():
        latents = torch.cat([codec.encode_latents(part) for part in waveform.split(100, dim=-1)], dim=-1)
    assert latents.shape[-1] == (waveform.shape[-1] - LOOK_AHEAD) // HOP
    expected = codec.encode_latents(waveform)[..., : latents.shape[-1]]
    torch.testing.assert_close(latents, expected, atol=1e-4, rtol=1e-5)


def test_nothing_in_is_nothing_out(codec):
    with codec.streaming(2):
        assert codec.encode(torch.zeros(2, 1, 0), 3).shape == (2, 3, 0)
        assert codec.decode(torch.zeros(2, 3, 0, dtype=torch.int64)).shape == (2, 1, 0)
        assert codec.flush().shape == (2, 3, 0)
    with codec.streaming():
        assert codec.flush().shape == (1, 4, 0)
    assert codec.decode(torch.zeros(2, 3, 0, dtype=torch.int64)).shape == (2, 1, 0)


def test_the_network_waits_for_a_whole_frame(codec, monkeypatch):
    calls = []
    monkeypatch.setattr(codec.encoder, "forward", lambda waveform: calls.append(waveform.shape[-1]))
    with codec.streaming():
        for _ in range(HOP + LOOK_AHEAD - 1):
            codec.encode_latents(torch.zeros(1, 1, 1))
        assert calls == []
        for size in (1, HOP, 3 * HOP - 1, 1):
            codec.encode_latents(torch.zeros(1, 1, size))
    assert calls == [HOP + LOOK_AHEAD, HOP, 2 * HOP, HOP]


def test_samples_that_are_not_finite_are_refused_and_the_stream_goes_on(codec, waveform):
    first, second = waveform.split(1000, dim=-1)[0], waveform[..., 1000:]
    with torch.inference_mode(), codec.streaming():
        codes = [codec.encode(first)]
        for level in (float("nan"), float("inf")):
            with pytest.raises(
                ValueError, match="waveform must be finite; got NaN or infinite samples, which were not"
            ):
                codec.encode(torch.full((1, 1, 1), level))
        codes += [codec.encode(second), codec.flush()]
    assert torch.equal(torch.cat(codes, dim=-1), codec.encode(waveform))


def test_what_is_refused_is_not_taken_and_other_floats_are(codec, waveform):
    expected = codec.encode(waveform)
    with torch.inference_mode(), codec.streaming():
        first = codec.encode(waveform[..., :1000].double())
        with pytest.raises(ValueError, match="beam_size must be positive; got 0"):
            codec.encode(waveform[..., 1000:], beam_size=0)
        with pytest.raises(ValueError, match=r"waveform must be floats in \[-1, 1\]; got torch.int16"):
            codec.encode(waveform[..., 1000:].to(torch.int16))
        with pytest.raises(ValueError, match="waveform must be finite"):
            codec.encode(torch.full((1, 1, 10), 1e300, dtype=torch.float64), 1)
        codes = [first, codec.encode(waveform[..., 1000:]), codec.flush()]
    assert torch.equal(torch.cat(codes, dim=-1), expected)


def test_a_level_beyond_all_is_refused(codec):
    with codec.streaming(), pytest.raises(ValueError, match="waveform must be finite and about in"):
        codec.encode(torch.full((1, 1, 4_000), 1e38))


def test_at_a_wrong_moment_a_call_says_so(codec, waveform):
    with pytest.raises(RuntimeError, match="flush must be called in streaming"):
        codec.flush()
    with codec.streaming(2):
        with pytest.raises(RuntimeError, match="forward must be called outside of streaming"):
            codec(waveform)
        with pytest.raises(RuntimeError, match="a stream must end before another one starts"), codec.streaming(2):
            pass
        with pytest.raises(RuntimeError, match="waveform must have an example for each of the 2 streams; got 1"):
            codec.encode(waveform)
        with pytest.raises(RuntimeError, match="codes must have an example for each of the 2 streams; got 3"):
            codec.decode(torch.zeros(3, 4, 5, dtype=torch.int64))
        codec.encode(torch.zeros(2, 1, 100))
        codec.flush()
        for call in (codec.flush, lambda: codec.encode(torch.zeros(2, 1, 0))):
            with pytest.raises(RuntimeError, match=r"a stream that flush\(\) ended takes no more audio"):
                call()
    with pytest.raises(ValueError, match="batch_size must be positive; got 0"), codec.streaming(0):
        pass


def test_what_does_not_fit_is_refused_in_streaming_too(codec, waveform):
    with codec.streaming():
        with pytest.raises(ValueError, match=r"waveform must be \[batch, 1, time\]"):
            codec.encode(torch.zeros(1, 2, 10))
        with pytest.raises(ValueError, match="num_quantizers must be from 1 to 4; got 5"):
            codec.encode(torch.zeros(1, 1, 1), 5)
        with pytest.raises(ValueError, match="lengths must not be given in streaming"):
            codec.encode(waveform, lengths=torch.tensor([10]))


def test_state_is_none_outside_also_after_an_error(codec, waveform):
    stateful = [module for module in codec.modules() if isinstance(module, Stateful)]
    assert stateful[0] is codec
    with pytest.raises(KeyError, match="of the caller"), codec.streaming():
        codec.encode(waveform)
        assert all(module.state is not None for module in stateful)
        raise KeyError("of the caller")
    assert all(module.state is None for module in stateful)


def test_a_stream_leaves_the_codec_as_it_was(codec, waveform):
    names, codes, fingerprint = list(codec.state_dict()), codec.encode(waveform), codec.fingerprint()
    encode_in_parts(codec, waveform, 100)
    assert (list(codec.state_dict()), codec.fingerprint()) == (names, fingerprint)
    for other in (codec, copy.deepcopy(codec), pickle.loads(pickle.dumps(codec))):
        assert torch.equal(other.encode(waveform), codes)


@pytest.mark.parametrize("garbage", [0.0, 0.5, float("nan")])
def test_what_is_in_the_padding_changes_no_code(codec, speech, garbage):
    lengths = torch.tensor([1, 320, 1000, 1001, 3200])
    batch = speech[..., 16_000:32_000].reshape(5, 1, 3200).clone()
    alone = [codec.encode(example[None, :, :length]) for example, length in zip(batch, lengths, strict=True)]
    for example, length in zip(batch, lengths, strict=True):
        example[:, length:] = garbage
    codes = codec.encode(batch, lengths=lengths)
    assert codes.shape == (5, 4, 100)
    for example, expected, length in zip(codes, alone, lengths.tolist(), strict=True):
        assert expected.shape[-1] == codec.num_frames(length)
        assert torch.equal(example[:, : codec.num_frames(length)], expected[0])


@pytest.mark.parametrize("lengths", [[10], [0, 10], [10, 101], [[10, 10]]])
def test_lengths_that_do_not_fit_are_refused(codec, lengths):
    with pytest.raises(ValueError, match="lengths must be from 1 to 100, one for each of 2 examples; got"):
        codec.encode(torch.zeros(2, 1, 100), lengths=torch.tensor(lengths))


class TestPreRoll:
    CONVNEXT = ModelConfig(hop_length=32, transform_hop=16, look_ahead=48, dim=24, latent_dim=8)
    SEANET = ModelConfig(family="seanet", look_ahead=0, dim=4, lstm_layers=0, latent_dim=8)
    CONFIGS = (
        replace(CONVNEXT, decoder_depth=1, kernel_size=3),
        replace(CONVNEXT, decoder_depth=3, kernel_size=4, hop_length=16),
        replace(CONVNEXT, decoder_depth=0, hop_length=48),
        replace(SEANET, hop_length=32, ratios=(2, 4, 4), kernel_size=3),
        replace(SEANET, hop_length=30, ratios=(5, 1, 6), kernel_size=4, residual_units=3),
        replace(SEANET, hop_length=24, ratios=(24,), kernel_size=1, residual_units=0),
        replace(SEANET, hop_length=1, ratios=(), kernel_size=5),
    )

    @pytest.mark.parametrize("model", CONFIGS)
    def test_samples_of_a_frame_depend_on_so_many_frames_before_it_and_no_more(self, configs, model):
        codec = build_codec(replace(configs[model.family], model=model))
        for parameter in codec.decoder.parameters():
            parameter.data += 0.1 * torch.randn_like(parameter)
        latents = torch.randn(1, 8, 40, requires_grad=True)
        samples = codec.decoder(latents)[..., 30 * model.hop_length : 31 * model.hop_length]
        (gradient,) = torch.autograd.grad(samples.sum(), latents)
        assert gradient.any(dim=1).flatten().nonzero().flatten().tolist() == list(range(30 - codec.pre_roll, 31))

    def test_with_an_lstm_earlier_frames_hardly_count(self, configs, make_codec):
        codec = make_codec(configs["seanet"])
        without = replace(configs["seanet"], model=replace(configs["seanet"].model, lstm_layers=0))
        assert codec.pre_roll == LSTM_MEMORY + build_codec(without).pre_roll
        codes = torch.randint(16, (1, 4, codec.pre_roll + 50))
        other = torch.cat([torch.randint(16, (1, 4, 50)), codes[..., 50:]], dim=-1)
        with torch.inference_mode():
            difference = (codec.decode(codes) - codec.decode(other)).abs()
        assert difference.max() > 1e-3
        assert difference[..., -HOP:].max() < 1e-4

    def test_the_shipped_model_decodes_from_there_what_the_whole_decodes_to(self, shipped, speech):
        with torch.inference_mode():
            codes = shipped.encode(speech)
            part = shipped.decode(codes[..., 100 - shipped.pre_roll : 120])
            whole = shipped.decode(codes)
        roll = shipped.pre_roll
        expected = whole[..., 100 * 320 : 120 * 320]
        torch.testing.assert_close(part[..., roll * 320 :], expected, atol=1e-5, rtol=0)
        assert (part[..., :320] - whole[..., (100 - roll) * 320 : (101 - roll) * 320]).abs().max() > 1e-3


class TestShippedModel:
    @pytest.mark.slow
    def test_its_codes_differ_in_at_most_one_of_100_000(self, shipped, clips):
        flipped = count = 0
        for clip in clips:
            waveform = torch.from_numpy(soundfile.read(clip, dtype="float32")[0])[None, None]
            with torch.inference_mode():
                whole = shipped.encode(waveform)
            sizes = [5000, 16_000, 20_011, 32_000, 48_000, 80_000, 100_000, 160_000]
            sizes += [random_sizes(waveform.shape[-1], 80_000) for _ in range(6)]
            for sizes_of_parts in sizes:
                codes = encode_in_parts(shipped, waveform, sizes_of_parts)
                assert codes.shape == whole.shape
                flipped, count = flipped + int((codes != whole).sum()), count + codes.numel()
        assert count > 100_000
        assert flipped <= count / 100_000

    @pytest.mark.parametrize("size", [1, 7, 160, 320])
    def test_a_second_in_tiny_parts_has_the_codes_of_the_whole(self, shipped, speech, size):
        waveform = speech[..., 16_000:24_123]
        with torch.inference_mode():
            assert torch.equal(encode_in_parts(shipped, waveform, size), shipped.encode(waveform))

    @pytest.mark.parametrize("size", [1, 3, 50])
    def test_its_samples_are_those_of_the_whole(self, shipped, speech, size):
        with torch.inference_mode():
            codes = shipped.encode(speech[..., :40_000])
            whole = shipped.decode(codes)
        torch.testing.assert_close(decode_in_parts(shipped, codes, size), whole, atol=1e-4, rtol=0)

    def test_a_right_padded_batch_has_the_codes_of_each_alone(self, shipped, clips):
        waveforms = [torch.from_numpy(soundfile.read(clip, dtype="float32")[0]) for clip in clips]
        lengths = torch.tensor([len(waveform) for waveform in waveforms])
        batch = torch.stack(
            [F.pad(waveform, (0, int(lengths.max()) - len(waveform)), value=0.3) for waveform in waveforms]
        )
        with torch.inference_mode():
            codes = shipped.encode(batch[:, None], lengths=lengths)
            for example, waveform in zip(codes, waveforms, strict=True):
                expected = shipped.encode(waveform[None, None])[0]
                assert torch.equal(example[:, : expected.shape[-1]], expected)
