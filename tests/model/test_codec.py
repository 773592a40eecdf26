from dataclasses import replace

import pytest
import torch
import torch.nn.functional as F

from codec.bitstream.learn import learn_tables
from codec.layers import MDCT, ConvNeXtBlock
from codec.model import Codec, CodecConfig, ModelConfig, QuantizerConfig, build_codec
from codec.model.build import FAMILIES

HOP, LOOK_AHEAD = 32, 48
# Transform frames that the blocks of the `convnext` encoder look back: (kernel_size - 1) * encoder_depth, of 16 samples
# each. The LSTM of `seanet` looks back to the start.
PAST = (3 - 1) * 2 * 16
of_bounded_past = pytest.mark.parametrize("config", ["convnext"], indirect=True)


@pytest.fixture(params=FAMILIES)
def config(request, configs):
    return configs[request.param]


@pytest.fixture
def waveform(speech):
    """A fifth of a second in which somebody speaks, 100 frames of 32 samples."""
    return speech[..., 16_000 : 16_000 + 100 * HOP]


def changed_frames(before, after):
    """Frames of latents or codes, [batch, channels, frames], in which anything differs."""
    return (before != after).any(dim=1).any(dim=0).nonzero().flatten().tolist()


@pytest.mark.parametrize(("time", "frames"), [(1, 1), (31, 1), (32, 1), (33, 2), (320, 10), (321, 11)])
def test_codes_have_a_frame_for_each_begun_hop(codec, speech, time, frames):
    codes = codec.encode(speech[..., :time].repeat(2, 1, 1))
    assert codes.shape == (2, 4, frames)
    assert codes.dtype == torch.int64
    assert 0 <= codes.min() <= codes.max() < 16


@pytest.mark.parametrize("time", [1, 32, 500])
def test_forward_returns_audio_of_the_length_of_its_input(codec, speech, time):
    output = codec(speech[..., :time])
    assert output.waveform.shape == (1, 1, time)
    assert output.codes.shape == (1, 4, -(-time // HOP))
    assert set(output.losses) == {"commitment"}


def test_decode_of_encode_is_what_forward_returns_in_eval_mode(codec, waveform):
    waveform = waveform[..., :-5]
    output = codec(waveform)
    codes = codec.encode(waveform)
    assert torch.equal(codes, output.codes)
    assert codec.decode(codes).shape == (1, 1, 100 * HOP)
    torch.testing.assert_close(codec.decode(codes)[..., :-5], output.waveform, atol=1e-6, rtol=0)


@pytest.mark.parametrize("stages", [1, 2, 4])
def test_codes_of_fewer_stages_are_a_prefix_of_those_of_all_and_decode(codec, waveform, stages):
    codes = codec.encode(waveform, stages)
    assert torch.equal(codes, codec.encode(waveform)[:, :stages])
    assert codec.decode(codes).shape == waveform.shape


@pytest.mark.parametrize("stages", [2, 4])
def test_a_wider_search_brings_the_latents_closer(codec, waveform, stages):
    latents = codec.encode_latents(waveform)
    errors = [
        (codec.quantizer.decode(codec.encode(waveform, stages, beam_size=beam_size)) - latents).square().sum()
        for beam_size in (1, 8)
    ]
    assert errors[1] < errors[0]


def test_the_search_is_that_of_the_model_unless_the_caller_says_otherwise(codec, waveform):
    nearest, searched = codec.encode(waveform), codec.encode(waveform, beam_size=4)
    assert not torch.equal(nearest, searched)
    codec.config = replace(codec.config, quantizer=replace(codec.config.quantizer, beam_size=4))
    assert torch.equal(codec.encode(waveform), searched)
    assert torch.equal(codec.encode(waveform, beam_size=1), nearest)
    assert torch.equal(codec(waveform).codes, nearest)  # as in training


def test_bits_weigh_what_the_model_says_where_there_are_tables_to_save_them(codec, waveform):
    nearest, weighed = codec.encode(waveform), codec.encode(waveform, rate_weight=1.0)
    assert not torch.equal(nearest, weighed)
    codec.config = replace(codec.config, quantizer=replace(codec.config.quantizer, rate_weight=1.0))
    assert codec.rate_weight == 0
    codec.entropy = learn_tables([nearest[0].numpy()], 16)
    assert codec.rate_weight == 1
    # Codes that are not to be entropy-coded do not depend on it, nor do those of training.
    assert torch.equal(codec.encode(waveform), nearest)
    assert torch.equal(codec(waveform).codes, nearest)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16])
def test_a_stored_codec_weighs_bits_as_before(codec, waveform, tmp_path, dtype):
    codec.config = replace(codec.config, quantizer=replace(codec.config.quantizer, rate_weight=1.0))
    codec.entropy = learn_tables([codec.encode(waveform)[0].numpy()], 16)
    codec.save_pretrained(tmp_path / "first", dtype)
    first = Codec.from_pretrained(tmp_path / "first")
    first.save_pretrained(tmp_path / "second", dtype)
    second = Codec.from_pretrained(tmp_path / "second")
    assert first.rate_weight == second.rate_weight == 1
    weighed = first.encode(waveform, rate_weight=1.0)
    assert torch.equal(weighed, second.encode(waveform, rate_weight=1.0))
    assert not torch.equal(weighed, first.encode(waveform))
    if dtype == torch.float32:
        assert torch.equal(weighed, codec.encode(waveform, rate_weight=1.0))


@pytest.mark.parametrize("rate_weight", [-1.0, float("nan"), float("inf")])
def test_a_weight_of_bits_that_is_none_is_refused(codec, waveform, rate_weight):
    with pytest.raises(ValueError, match=r"^rate_weight must be 0 or more, and finite; got"):
        codec.encode(waveform, rate_weight=rate_weight)


def test_each_stage_brings_the_latents_closer(codec, waveform):
    latents = codec.encode_latents(waveform)
    codes = codec.encode(waveform)
    errors = [(codec.quantizer.decode(codes[:, :stages]) - latents).square().sum() for stages in (1, 2, 3, 4)]
    assert errors == sorted(errors, reverse=True)


@pytest.mark.parametrize("frame", [0, 7, 50])
def test_no_sample_after_the_look_ahead_touches_a_frame(codec, waveform, frame):
    first_unseen = (frame + 1) * HOP + LOOK_AHEAD
    changed = waveform.clone()
    changed[..., first_unseen:] = torch.rand_like(changed[..., first_unseen:])
    latents, other_latents = codec.encode_latents(waveform), codec.encode_latents(changed)
    assert torch.equal(other_latents[..., : frame + 1], latents[..., : frame + 1])
    assert torch.equal(codec.encode(changed)[..., : frame + 1], codec.encode(waveform)[..., : frame + 1])


@pytest.mark.parametrize("frame", [7, 50])
def test_the_last_sample_of_the_look_ahead_touches_the_frame_and_none_before(codec, waveform, frame):
    changed = waveform.clone()
    changed[..., (frame + 1) * HOP + LOOK_AHEAD - 1] += 100
    assert min(changed_frames(codec.encode_latents(waveform), codec.encode_latents(changed))) == frame


@of_bounded_past
@pytest.mark.parametrize(("offset", "touched"), [(0, True), (-1, False)])
def test_a_frame_depends_on_a_bounded_past(codec, waveform, offset, touched):
    frame = 50
    changed = waveform.clone()
    changed[..., frame * HOP - PAST + offset] += 100
    frames = changed_frames(codec.encode_latents(waveform), codec.encode_latents(changed))
    assert (frame in frames) == touched
    assert max(frames) == (frame if touched else frame - 1)


def test_silence_after_the_end_changes_no_code(codec, waveform):
    waveform = waveform[..., :-7]
    codes = codec.encode(waveform)
    for silence in (7, 1000):
        assert torch.equal(codec.encode(F.pad(waveform, (0, silence)))[..., :100], codes)


@of_bounded_past
def test_codes_of_a_part_with_its_past_and_look_ahead_are_those_of_the_whole(codec, waveform):
    codes = codec.encode(waveform)
    first, last = 40, 60
    # The past in whole frames, so that frames of the part lie where those of the whole do.
    skipped = -(-PAST // HOP)
    part = waveform[..., (first - skipped) * HOP : last * HOP + LOOK_AHEAD]
    assert torch.equal(codec.encode(part)[..., skipped : skipped + last - first], codes[..., first:last])


def test_the_decoder_is_causal(codec, waveform):
    codes = codec.encode(waveform)
    decoded = codec.decode(codes)
    changed = codes.clone()
    changed[..., 50:] = (changed[..., 50:] + 1) % 16
    other = codec.decode(changed)
    assert torch.equal(other[..., : 50 * HOP], decoded[..., : 50 * HOP])
    assert (other[..., 50 * HOP : 51 * HOP] != decoded[..., 50 * HOP : 51 * HOP]).all()
    torch.testing.assert_close(codec.decode(codes[..., :50]), decoded[..., : 50 * HOP], atol=1e-6, rtol=0)


def test_a_batch_gives_what_its_examples_give_one_by_one(codec, speech):
    batch = speech[..., : 3 * 3200].reshape(3, 1, 3200)
    codes = codec.encode(batch)
    assert torch.equal(codes, torch.cat([codec.encode(example[None]) for example in batch]))
    decoded = torch.cat([codec.decode(example[None]) for example in codes])
    torch.testing.assert_close(codec.decode(codes), decoded, atol=1e-6, rtol=1e-4)


def test_encoding_and_decoding_change_no_state(codec, waveform):
    before = {name: tensor.clone() for name, tensor in codec.state_dict().items()}
    codec.train()
    codec.decode(codec.encode(waveform))
    codec.eval()
    codec(waveform)
    assert all(torch.equal(tensor, before[name]) for name, tensor in codec.state_dict().items())


def test_a_training_step_moves_the_codebooks_and_gives_every_weight_a_gradient(config, speech):
    codec = build_codec(config)
    assert codec.training
    waveform = speech[..., 16_000:32_000].reshape(4, 1, 4000)
    codec(waveform)
    vectors = codec.quantizer.stages[0].codebook.vectors.clone()
    output = codec(waveform)
    ((output.waveform - waveform).square().mean() + output.losses["commitment"]).backward()
    assert not torch.equal(codec.quantizer.stages[0].codebook.vectors, vectors)
    silent = [name for name, weight in codec.named_parameters() if weight.grad is None or not weight.grad.any()]
    assert silent == []


def test_a_few_steps_of_training_lower_the_error(config, speech):
    codec = build_codec(config)
    waveform = speech[..., 16_000:32_000].reshape(4, 1, 4000)
    optimizer = torch.optim.Adam(codec.parameters(), lr=3e-3)
    errors = []
    for _ in range(20):
        output = codec(waveform)
        errors.append(F.mse_loss(output.waveform, waveform))
        (errors[-1] / waveform.square().mean() + 0.1 * output.losses["commitment"]).backward()
        optimizer.step()
        optimizer.zero_grad()
    assert sum(errors[-5:]) < 0.9 * sum(errors[:5])


def test_before_training_a_codec_encodes_nothing(config, waveform):
    with pytest.raises(RuntimeError, match="codebook must be initialized before it encodes"):
        build_codec(config).eval().encode(waveform)


def test_the_default_codec_has_its_numbers():
    codec = build_codec(CodecConfig(name="numbers", model=ModelConfig(dim=16, encoder_depth=0, decoder_depth=0)))
    assert codec.name == "numbers"
    assert (codec.sample_rate, codec.hop_length, codec.look_ahead) == (16_000, 320, 800)
    assert (codec.num_quantizers, codec.codebook_size, codec.bits_per_code) == (12, 1024, 10)
    assert codec.frame_rate == 50
    assert codec.latency == pytest.approx(0.07)
    assert (codec.bitrate(), codec.bitrate(1), codec.bitrate(3)) == (6000, 500, 1500)
    assert [codec.stages_at(bitrate) for bitrate in (500, 1500, 6000)] == [1, 3, 12]


def test_a_bitrate_that_no_number_of_stages_makes_lists_those_there_are(codec):
    # 500 frames of 4 bits a second.
    with pytest.raises(ValueError, match=r"2000, 4000, 6000, 8000 bit/s; got 3000"):
        codec.stages_at(3000)


@pytest.mark.parametrize(
    ("codebook_size", "bits"), [(1, 0), (2, 1), (3, 2), (4, 2), (1000, 10), (1024, 10), (1025, 11)]
)
def test_a_code_takes_as_many_bits_as_the_largest_one(config, codebook_size, bits):
    codec = build_codec(replace(config, quantizer=QuantizerConfig(num_quantizers=1, codebook_size=codebook_size)))
    assert codec.bits_per_code == bits
    assert codec.bitrate() == 500 * bits


@pytest.mark.parametrize("shape", [(1, 2, 320), (1, 320), (320,), (1, 1, 1, 320), (1, 1, 0)])
def test_a_waveform_of_another_shape_is_refused(codec, shape):
    for method in (codec, codec.encode, codec.encode_latents):
        with pytest.raises(ValueError, match=r"waveform must be \[batch, 1, time\], not empty; got shape \("):
            method(torch.zeros(shape))


@pytest.mark.parametrize("stages", [0, 5, -1])
def test_encoding_with_stages_that_are_not_there_is_refused(codec, waveform, stages):
    with pytest.raises(ValueError, match=f"num_quantizers must be from 1 to 4; got {stages}"):
        codec.encode(waveform, stages)


def test_codes_that_do_not_fit_are_refused(codec):
    with pytest.raises(ValueError, match="num_quantizers must be from 1 to 4; got 5"):
        codec.decode(torch.zeros(1, 5, 10, dtype=torch.int64))
    with pytest.raises(ValueError, match=r"codes must be \[batch, num_quantizers, frames\]; got shape \(4, 10\)"):
        codec.decode(torch.zeros(4, 10, dtype=torch.int64))
    for code in (-1, 16):
        codes = torch.zeros(1, 4, 10, dtype=torch.int64)
        codes[0, 2, 5] = code
        with pytest.raises(ValueError, match=r"codes must be in \[0, 16\); got"):
            codec.decode(codes)


class TestFreshCodec:
    """Before training, without the branches of the blocks, encoder and decoder are a linear transform codec."""

    @pytest.fixture
    def codec(self):
        codec = build_codec(CodecConfig(model=ModelConfig(dim=64, encoder_depth=1, decoder_depth=1)))
        for module in codec.modules():
            if isinstance(module, ConvNeXtBlock):
                module.scale.data.zero_()
        return codec.eval()

    @staticmethod
    def transcode(codec, waveform):
        """Through encoder and decoder, without quantization."""
        with torch.no_grad():
            return codec.decoder(codec.encode_latents(waveform))[..., : waveform.shape[-1]]

    def test_it_is_linear_but_for_a_constant(self, codec):
        a, b = torch.randn(2, 1, 1, 3200)
        constant = self.transcode(codec, torch.zeros(1, 1, 3200))
        expected = self.transcode(codec, a) + 2 * self.transcode(codec, b) - 2 * constant
        torch.testing.assert_close(self.transcode(codec, a + 2 * b), expected, atol=1e-4, rtol=0)
        assert constant.abs().max() < 0.05

    def test_speech_comes_back_recognizable(self, codec, speech):
        error = self.transcode(codec, speech) - speech
        assert 10 * torch.log10(speech.square().sum() / error.square().sum()) > 6

    def test_the_low_band_comes_back(self, codec, speech):
        length = speech.shape[-1] // 160 * 160
        transform = MDCT(160)
        original = transform(speech[..., :length])
        decoded = transform(self.transcode(codec, speech)[..., :length])
        low = slice(0, 16)  # up to 800 Hz
        error = (decoded - original)[:, low].square().sum()
        assert 10 * torch.log10(original[:, low].square().sum() / error) > 12

    def test_with_the_branches_it_is_nearly_the_same(self, codec, speech):
        without = self.transcode(codec, speech)
        for module in codec.modules():
            if isinstance(module, ConvNeXtBlock):
                module.scale.data.fill_(0.1)
        difference = self.transcode(codec, speech) - without
        assert 10 * torch.log10(without.square().sum() / difference.square().sum()) > 6


@pytest.mark.parametrize("level", [float("nan"), float("inf"), 1e38])
def test_a_waveform_beyond_all_level_is_refused(codec, level):
    with pytest.raises(ValueError, match="waveform must be finite"):
        codec.encode(torch.full((1, 1, 4_000), level))
