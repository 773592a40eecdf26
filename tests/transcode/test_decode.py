import io

import pytest
import torch

from codec.audio import resample
from codec.bitstream import BitstreamError, read_stream


class Pipe(io.RawIOBase):
    """Bytes that can only be read onwards."""

    def __init__(self, data):
        self._file = io.BytesIO(data)

    def readable(self):
        return True

    def readinto(self, buffer):
        return self._file.readinto(buffer)


class Counting(io.BytesIO):
    """Counts the bytes that are read."""

    count = 0

    def read(self, *size):
        data = super().read(*size)
        self.count += len(data)
        return data


def decoded_at_once(codec, data):
    """Without blocks, at the model's rate."""
    with torch.inference_mode():
        return codec.decode(torch.from_numpy(read_stream(data).codes))[:, 0]


@pytest.fixture
def data(encode, long_speech):
    """13 s in 7 chunks."""
    return encode(long_speech)


def flip(data, place):
    return data[:place] + bytes([data[place] ^ 1]) + data[place + 1 :]


@pytest.mark.parametrize("length", [1, 320, 31_999, 100_001])
def test_a_file_decodes_to_what_its_codes_do_at_once(codec, encode, decode, long_speech, length):
    data = encode(long_speech[:, :length])
    output = decode(data)
    assert output.length == length
    torch.testing.assert_close(output.waveform, decoded_at_once(codec, data)[:, :length], atol=1e-5, rtol=0)
    assert (output.decoded.seconds, output.decoded.lost, output.decoded.problems) == (length / 16_000, [], [])


@pytest.mark.parametrize("sample_rate", [8_000, 22_050, 44_100, 48_000])
def test_output_has_the_rate_the_length_and_the_channels_of_the_original(
    codec, encode, decode, long_speech, sample_rate
):
    stereo = torch.cat([long_speech[:, :70_001], long_speech[:, 70_000:140_001]])
    data = encode(stereo, sample_rate)
    output = decode(data)
    assert (output.sample_rate, output.waveform.shape) == (sample_rate, stereo.shape)
    expected = resample(decoded_at_once(codec, data), 16_000, sample_rate)[:, :70_001]
    torch.testing.assert_close(output.waveform, expected, atol=1e-5, rtol=0)


@pytest.mark.parametrize("sample_rate", [16_000, 8_000, 44_100])
@pytest.mark.parametrize(("start", "duration"), [(0.0, 1.0), (0.013, 0.001), (3.99, 2.5), (6.0, None), (4.1, 100.0)])
def test_a_part_is_that_of_the_whole(encode, decode, long_speech, sample_rate, start, duration):
    data = encode(long_speech.repeat(1, 3), sample_rate)
    whole = decode(data).waveform
    part = decode(data, start=start, duration=duration)
    first = round(start * sample_rate)
    last = whole.shape[1] if duration is None else min(first + round(duration * sample_rate), whole.shape[1])
    assert part.length == last - first
    torch.testing.assert_close(part.waveform, whole[:, first:last], atol=1e-4, rtol=0)


def test_a_part_takes_no_more_than_its_own_bytes(encode, decode, long_speech):
    data = encode(long_speech.repeat(1, 20))
    file = Counting(data)
    part = decode(file, start=200.0, duration=3.0)
    assert part.waveform.shape[1] == 48_000
    assert file.count < len(data) / 20


def test_a_part_of_a_pipe_is_that_of_a_file(data, decode):
    expected = decode(data, start=5.0, duration=2.0)
    output = decode(io.BufferedReader(Pipe(data)), start=5.0, duration=2.0)
    torch.testing.assert_close(output.waveform, expected.waveform, atol=1e-5, rtol=0)


def test_the_output_can_have_another_rate(codec, data, decode):
    output = decode(data, sample_rate=24_000)
    expected = resample(decoded_at_once(codec, data), 16_000, 24_000)
    assert output.sample_rate == 24_000
    torch.testing.assert_close(output.waveform, expected[:, : output.length], atol=1e-5, rtol=0)


def test_what_was_decoded_is_told(data, decode, long_speech):
    done = []
    assert decode(data, progress=done.append).decoded.seconds == pytest.approx(sum(done))
    assert sum(done) == pytest.approx(long_speech.shape[1] / 16_000)


class TestLive:
    """Files whose header does not know how long the audio is, since they were written to a pipe."""

    @pytest.fixture
    def live(self, codec, long_speech, tmp_path):
        import soundfile

        from codec.audio import open_source
        from codec.transcode import encode_source

        class Writer(io.RawIOBase):
            def __init__(self):
                self.data = bytearray()

            def writable(self):
                return True

            def write(self, data):
                self.data += data
                return len(data)

        soundfile.write(tmp_path / "a.wav", long_speech[0, :100_001].numpy(), 22_050)
        pipe = Writer()
        with open_source(tmp_path / "a.wav") as source:
            encode_source(codec, source, pipe)
        return bytes(pipe.data)

    @pytest.mark.parametrize(
        ("through", "length"), [(io.BytesIO, 100_001), (lambda data: io.BufferedReader(Pipe(data)), None)]
    )
    def test_they_decode_to_their_exact_length(self, live, decode, through, length):
        output = decode(through(live))
        assert output.length == length
        assert output.waveform.shape == (1, 100_001)

    @pytest.mark.parametrize("through", [io.BytesIO, lambda data: io.BufferedReader(Pipe(data))])
    def test_a_start_after_the_end_is_refused(self, live, decode, through):
        with pytest.raises(ValueError, match="start must be before the end of the audio"):
            decode(through(live), start=6.0)

    def test_the_last_frame_is_all_that_waits_for_the_end(self, live, decode):
        # Without its last chunk and all that follows.
        cut = live[: live.rindex(live[-4:]) - 1]
        output = decode(io.BufferedReader(Pipe(cut)), conceal=True)
        assert 4.0 <= output.waveform.shape[1] / 22_050 < 4.56


class TestDamage:
    def test_it_is_an_error(self, data, decode):
        with pytest.raises(BitstreamError, match="chunk 3"):
            decode(flip(data, len(data) // 2))

    def test_concealed_it_costs_its_own_seconds(self, codec, data, decode):
        whole = decode(data).waveform
        output = decode(flip(data, len(data) // 2), conceal=True)
        assert output.waveform.shape == whole.shape
        ((start, end, problem),) = output.decoded.lost
        assert (start, end) == (6.0, 8.0)
        assert "chunk 3" in problem
        torch.testing.assert_close(output.waveform[:, :96_000], whole[:, :96_000], atol=1e-5, rtol=0)
        after = 128_000 + max(codec.pre_roll * 320, 320)
        torch.testing.assert_close(output.waveform[:, after:], whole[:, after:], atol=1e-4, rtol=0)

    def test_the_sound_before_a_gap_goes_on_and_fades_out(self, data, decode):
        gap = decode(flip(data, len(data) // 2), conceal=True).waveform[0, 96_000:128_000]
        assert gap[:320].abs().max() > 0
        assert gap[1_600:].abs().max() == 0
        energies = gap[:1_600].view(5, 320).square().sum(1)
        assert energies[-1] < 0.1 * energies.max()

    def test_a_gap_at_the_start_is_silent(self, data, decode):
        header_end = data.index(b"tiny") + 20
        output = decode(flip(data, header_end + 10), conceal=True)
        assert [lost[:2] for lost in output.decoded.lost] == [(0.0, 2.0)]
        assert not output.waveform[:, :32_000].any()
        assert output.waveform[:, 32_000:].any()

    def test_a_part_that_damage_does_not_touch_decodes(self, data, decode):
        expected = decode(data, start=9.0, duration=2.0)
        output = decode(flip(data, len(data) // 2), start=9.0, duration=2.0)
        assert torch.equal(output.waveform, expected.waveform)


def test_another_model_is_refused(codec, data, decode, monkeypatch):
    monkeypatch.setattr(codec, "fingerprint", lambda: "0" * 16)
    with pytest.raises(
        ValueError, match=r"model must be the one that encoded the file, tiny \([0-9a-f]{16}\); got tiny \(0{16}\)"
    ):
        decode(data)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"start": -1.0}, "start must not be negative; got -1.0"),
        ({"start": float("nan")}, "start must not be negative; got nan"),
        ({"start": 14.0}, r"start must be before the end of the audio, at 13\.\d+ s; got 14.0"),
        ({"duration": 0.0}, "duration must be positive; got 0.0"),
    ],
)
def test_a_part_that_is_not_there_is_refused(data, decode, options, message):
    with pytest.raises(ValueError, match=message):
        decode(data, **options)
