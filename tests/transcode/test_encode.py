import io
from copy import deepcopy
from dataclasses import replace

import pytest
import soundfile
import torch

from codec.audio import AudioFileError, RawFormat, open_source, resample
from codec.bitstream import read_stream
from codec.bitstream.learn import learn_tables
from codec.transcode import encode, encode_source


@pytest.mark.parametrize("length", [1, 319, 320, 321, 32_000, 100_001])
def test_a_file_holds_the_codes_of_the_whole_encoded_at_once(codec, encode, long_speech, length):
    waveform = long_speech[:, 20_000 : 20_000 + length]
    stream = read_stream(encode(waveform))
    with torch.inference_mode():
        assert torch.equal(torch.from_numpy(stream.codes), codec.encode(waveform[None]))
    assert stream.header.length == length
    assert stream.header.num_frames == -(-length // 320)


@pytest.mark.parametrize("block_seconds", [0.001, 0.37, 3.0])
def test_codes_do_not_depend_on_the_length_of_blocks(monkeypatch, encode, long_speech, block_seconds):
    expected = encode(long_speech[:, :48_000], 22_050)
    monkeypatch.setattr("codec.transcode.encode.BLOCK_SECONDS", block_seconds)
    assert encode(long_speech[:, :48_000], 22_050) == expected


def test_each_channel_is_resampled_and_encoded_on_its_own(codec, encode, long_speech):
    stereo = torch.cat([long_speech[:, :50_000], long_speech[:, 50_000:100_000].flip(1)])
    stream = read_stream(encode(stereo, 44_100))
    with torch.inference_mode():
        expected = codec.encode(resample(stereo, 44_100, 16_000)[:, None])
    assert (torch.from_numpy(stream.codes) != expected).float().mean() < 1e-3
    assert (stream.header.sample_rate, stream.header.channels, stream.header.length) == (44_100, 2, 50_000)


def test_the_header_says_what_it_takes_to_decode(codec, encode, long_speech):
    header = read_stream(encode(long_speech, num_quantizers=2)).header
    assert (header.model, header.fingerprint) == ("tiny", codec.fingerprint())
    assert (header.num_quantizers, header.bits, header.frames_per_chunk) == (2, 6, 100)
    assert (header.model_rate, header.hop_length, header.frame_rate) == (16_000, 320, 50)
    assert header.entropy is None


def test_bits_weigh_only_where_they_are_saved(codec, long_speech, tmp_path):
    codec = deepcopy(codec)
    codec.config = replace(codec.config, quantizer=replace(codec.config.quantizer, rate_weight=1.0))
    with torch.inference_mode():
        nearest = codec.encode(long_speech[None])
        codec.entropy = learn_tables([nearest[0].numpy()], codec.codebook_size)
        weighed = codec.encode(long_speech[None], rate_weight=1.0)
    soundfile.write(tmp_path / "a.wav", long_speech[0].numpy(), 16_000, subtype="FLOAT")
    for entropy, expected in ((True, weighed), (False, nearest)):
        file = io.BytesIO()
        with open_source(tmp_path / "a.wav") as source:
            encode_source(codec, source, file, entropy=entropy)
        codes = read_stream(file.getvalue(), codec.entropy).codes
        assert torch.equal(torch.from_numpy(codes), expected)
    assert not torch.equal(weighed, nearest)


def test_tags_are_carried_over(codec, tmp_path, long_speech):
    path = tmp_path / "tagged.flac"
    with soundfile.SoundFile(path, "w", 16_000, 1) as sound:
        sound.title, sound.artist = "Öde an die Stille", "Kate West"
        sound.write(long_speech[0, :8_000].numpy())
    file = io.BytesIO()
    with open_source(path) as source:
        encode_source(codec, source, file)
    assert read_stream(file.getvalue()).header.tags == {"title": "Öde an die Stille", "artist": "Kate West"}


@pytest.mark.parametrize("gain", [1e-3, 100])
def test_quiet_and_clipped_audio_is_coded_as_it_is(codec, encode, long_speech, gain):
    waveform = (gain * long_speech).clamp(-1, 1)
    codes = torch.from_numpy(read_stream(encode(waveform)).codes)
    with torch.inference_mode():
        assert torch.equal(codes, codec.encode(waveform[None]))
        assert not torch.equal(codes, codec.encode(long_speech[None]))


def test_what_was_encoded_is_told(codec, long_speech, tmp_path):
    soundfile.write(tmp_path / "a.wav", long_speech[0, :40_000].numpy(), 16_000)
    done = []
    file = io.BytesIO()
    with open_source(tmp_path / "a.wav") as source:
        encoded = encode_source(codec, source, file, progress=done.append)
    assert encoded == encode.Encoded(2.5, len(file.getvalue()), None)
    assert sum(done) == pytest.approx(2.5)


def test_a_file_that_is_shorter_than_it_says_is_encoded_with_a_warning(codec, long_speech, tmp_path):
    path = tmp_path / "cut.wav"
    soundfile.write(path, long_speech[0, :40_000].numpy(), 16_000)
    path.write_bytes(path.read_bytes()[:-40_000])
    file = io.BytesIO()
    with open_source(path) as source:
        encoded = encode_source(codec, source, file)
    assert "2.5" in encoded.warning
    assert read_stream(file.getvalue()).header.length == 20_000


def test_a_source_without_samples_is_refused(codec, tmp_path):
    (tmp_path / "empty.raw").write_bytes(b"")
    with (
        pytest.raises(AudioFileError, match="empty"),
        open_source(tmp_path / "empty.raw", RawFormat(16_000, 1, "s16")) as source,
    ):
        encode_source(codec, source, io.BytesIO())


def test_stages_and_tables_that_the_model_lacks_are_refused(encode, long_speech):
    with pytest.raises(ValueError, match="num_quantizers must be from 1 to 4; got 5"):
        encode(long_speech, num_quantizers=5)
    with pytest.raises(ValueError, match="entropy must be off, since the model tiny has no tables"):
        encode(long_speech, entropy=True)
