import math
import os
import shutil
import sys
from pathlib import Path

import pytest
import soundfile
import torch
import typer

from codec import Codec
from codec.audio import read_audio, write_audio
from codec.cli.generate import name_outputs, read_prompt
from codec.lm.model import CodeLM, build_lm
from codec.lm.recipe import TransformerConfig
from codec.lm.sample import generate, generate_all
from codec.tokens import CodecTokenizer

RATE, HOP = 16_000, 320


def save_tiny_lm(folder, tokenizer):
    torch.manual_seed(1)
    config = TransformerConfig(hidden_size=16, layers=1, heads=2, feed_forward=32, max_steps=100)
    build_lm(config, tokenizer).save_pretrained(folder)


@pytest.fixture(scope="session")
def lm_folder(tmp_path_factory, model_folder) -> Path:
    """A language model that never learned anything, of 2 stages of the tiny codec."""
    folder = tmp_path_factory.mktemp("models") / "lm"
    save_tiny_lm(folder, CodecTokenizer.from_codec(Codec.from_pretrained(model_folder), 2, "delay"))
    return folder


@pytest.fixture
def sample(run, lm_folder, model_folder, tmp_path):
    """`sample(*options)`: run the command, which must write out.wav and say nothing; its waveform, [1, time]."""

    def sample(*options):
        output = tmp_path / "out.wav"
        command = ["--lm", lm_folder, "--model", model_folder, "-o", output, "--overwrite", *options]
        result = run("generate", *command)
        assert (result.exit_code, result.output) == (0, "")
        return read_audio(output).waveform

    return sample


@pytest.fixture
def codec(model_folder):
    return Codec.from_pretrained(model_folder)


@torch.inference_mode()
def decoded(codec, codes):
    return codec.decode(codes[None])[0]


def same(estimate, expected):
    """Up to the rounding to 16 bits, and what streaming differs by."""
    return estimate.shape == expected.shape and (estimate - expected.clamp(-1, 1)).abs().max() < 3e-4


def test_what_the_model_samples_becomes_a_wav_file(sample, lm_folder, codec, tmp_path):
    waveform = sample("--duration", 0.5, "--full-duration")
    info = soundfile.info(tmp_path / "out.wav")
    assert (info.format, info.subtype, info.samplerate, info.channels, info.frames) == ("WAV", "PCM_16", RATE, 1, 8000)
    generator = torch.Generator().manual_seed(0)
    (codes,) = generate_all(
        generate(CodeLM.from_pretrained(lm_folder), max_frames=25, may_end=False, generator=generator)
    )
    assert same(waveform, decoded(codec, codes))
    assert os.listdir(tmp_path) == ["out.wav"]


def test_the_seed_chooses_the_sample(sample):
    options = ["--duration", 0.2, "--full-duration", "--top-k", 50, "--top-p", 0.9, "--temperature", 1.2]
    first, again, other = (sample(*options, "--seed", seed) for seed in (5, 5, 6))
    assert torch.equal(first, again)
    assert not torch.equal(first, other)


def test_a_prompt_is_continued(sample, codec, speech_file):
    options = ["--prompt", speech_file, "--duration", 0.3, "--full-duration", "--temperature", 0]
    both = sample(*options)
    prompt = read_prompt(codec, str(speech_file), 2, None, 97)[0]
    begun = prompt.shape[1] * HOP
    assert same(both[:, :begun], decoded(codec, prompt))
    assert both.shape[1] == begun + 15 * HOP
    assert torch.equal(sample(*options, "--only-continuation"), both[:, begun:])
    assert not torch.equal(sample(*options[2:]), both[:, begun:])


@torch.inference_mode()
def test_of_a_prompt_those_frames_are_taken_that_no_silence_touched(codec, speech_file, tmp_path):
    waveform, _ = read_audio(speech_file)
    longer = tmp_path / "longer.wav"
    write_audio(longer, torch.cat([waveform, 0.5 * torch.randn(1, 4000)], dim=1), RATE)
    frames = (waveform.shape[1] - codec.look_ahead) // HOP
    codes, more, cut, shortest = (
        read_prompt(codec, str(path), 3, seconds, 97)
        for path, seconds in ((speech_file, None), (longer, None), (longer, 0.5), (longer, 1e-9))
    )
    assert codes.tolist() == codec.encode(waveform[None], 3)[..., :frames].tolist()
    assert codes.tolist() == more[..., :frames].tolist()
    # Nor a cut: what comes after it is heard.
    assert cut.tolist() == more[..., :25].tolist()
    assert shortest.tolist() == more[..., :1].tolist()


def test_a_prompt_may_be_of_another_rate_and_have_channels(codec, speech, tmp_path):
    write_audio(tmp_path / "mono.wav", speech[0], RATE)
    write_audio(tmp_path / "stereo.flac.wav", torch.cat([speech[0] * 1.5, speech[0] * 0.5]), RATE)
    mono, stereo = (read_prompt(codec, str(path), 1, 1.0, 97) for path in sorted(tmp_path.iterdir()))
    assert mono.shape == stereo.shape == (1, 1, 50)
    assert (mono == stereo).float().mean() > 0.95


def test_a_prompt_that_is_too_long_is_read_no_further_than_that_shows(run, lm_folder, model_folder, speech, tmp_path):
    prompt, output = tmp_path / "long.wav", tmp_path / "a.wav"
    samples = speech[0, 0].repeat(2).numpy()
    samples[4 * RATE :] = math.nan
    soundfile.write(prompt, samples, RATE, subtype="FLOAT")
    command = ["generate", "--lm", lm_folder, "--model", model_folder, "-o", output, "--prompt", prompt]
    command += ["--duration", 0.02, "--full-duration"]
    message = (
        f"error: {prompt}: prompt must be at most 97 frames, so that what comes after fits into the context of the "
        "language model; pass --prompt-seconds "
    )
    for options in ([], ["--prompt-seconds", 1e9], ["--prompt-seconds", 1.96]):
        result = run(*command, *options)
        assert (result.exit_code, result.stderr) == (1, f"{message}1.940\n")
    assert run(*command, "--prompt-seconds", 1.94).exit_code == 0
    assert soundfile.info(output).frames == 98 * HOP


def test_where_all_must_fit_the_duration_bounds_the_prompt(run, model_folder, speech_file, tmp_path):
    save_tiny_lm(tmp_path / "lm", CodecTokenizer.from_codec(Codec.from_pretrained(model_folder), 2, "coarse_first"))
    command = ["generate", "--lm", tmp_path / "lm", "--model", model_folder, "-o", tmp_path / "a.wav"]
    for seconds, frames, hint in [(0.8, 9, "--prompt-seconds 0.180"), (10, 0, "a shorter --duration")]:
        result = run(*command, "--prompt", speech_file, "--duration", seconds)
        assert result.exit_code == 1
        assert f"prompt must be at most {frames} frames, " in result.stderr
        assert result.stderr.endswith(f"; pass {hint}\n")
    options = ["--prompt", speech_file, "--duration", 0.8, "--prompt-seconds", 0.18]
    assert run(*command, *options).exit_code == 0


def test_several_samples_are_numbered(run, lm_folder, model_folder, tmp_path):
    command = ["generate", "--lm", lm_folder, "--model", model_folder, "--duration", 0.1, "--full-duration"]
    assert run(*command, "-o", tmp_path / "a.wav", "--count", 3).exit_code == 0
    names = ["a-1.wav", "a-2.wav", "a-3.wav"]
    assert sorted(os.listdir(tmp_path)) == names
    waveforms = [read_audio(tmp_path / name).waveform for name in names]
    assert [waveform.shape for waveform in waveforms] == [(1, 1600)] * 3
    assert not torch.equal(waveforms[0], waveforms[1])
    again = run(*command, "-o", tmp_path / "a.wav", "--count", 3)
    assert again.stderr == f"error: {tmp_path / 'a-1.wav'}: exists already; pass --overwrite to replace it\n"


def test_numbers_sort_as_they_count(monkeypatch):
    assert name_outputs("x/a.wav", 1) == [Path("x/a.wav")]
    names = name_outputs("x/a.wav", 10)
    assert names == sorted(names)
    assert [names[0], names[-1]] == [Path("x/a-01.wav"), Path("x/a-10.wav")]
    monkeypatch.setattr(sys.stdout, "isatty", lambda: True)
    with pytest.raises(typer.BadParameter, match="standard output must be a file or a pipe"):
        name_outputs("-", 1)


def test_each_frame_is_written_before_the_next_one_is_sampled(sample, tmp_path, monkeypatch):
    sizes = []
    forward = CodeLM.forward

    def watched(self, *arguments):
        sizes.append(sum(path.stat().st_size for path in tmp_path.glob(".codec-*.part")))
        return forward(self, *arguments)

    monkeypatch.setattr(CodeLM, "forward", watched)
    sample("--duration", 0.2, "--full-duration")
    # 10 frames of 2 stages, the second of which is late by a step.
    header = sizes[0]
    assert [(size - header) / (2 * HOP) for size in sizes] == [0, 0, *range(1, 10)]


def test_standard_output_takes_wav(sample, run, lm_folder, model_folder, tmp_path, capfdbinary):
    options = ["--duration", 0.2, "--full-duration"]
    sample(*options)
    result = run("generate", "--lm", lm_folder, "--model", model_folder, "-o", "-", *options)
    assert (result.exit_code, result.stderr) == (0, "")
    written = capfdbinary.readouterr().out
    assert written[:8] == b"RIFF\xff\xff\xff\xff"
    assert written[-3200 * 2 :] == (tmp_path / "out.wav").read_bytes()[-3200 * 2 :]


def test_a_sample_that_ends_at_once_is_empty_and_said_to_be(run, lm_folder, model_folder, tmp_path, monkeypatch):
    forward = CodeLM.forward
    eos = 64 * 2 + 2
    monkeypatch.setattr(
        CodeLM, "forward", lambda self, *arguments: forward(self, *arguments).index_fill(-1, torch.tensor([eos]), 99.0)
    )
    result = run("generate", "--lm", lm_folder, "--model", model_folder, "-o", tmp_path / "a.wav")
    assert (result.exit_code, result.stderr) == (
        0,
        f"warning: {tmp_path / 'a.wav'}: is empty, since the model ended it at once\n",
    )
    assert soundfile.info(tmp_path / "a.wav").frames == 0


def test_an_lm_of_another_codec_is_an_error_that_names_both(run, lm_folder, model_folder, other_model_folder, tmp_path):
    result = run("generate", "--lm", lm_folder, "--model", other_model_folder, "-o", tmp_path / "a.wav")
    learned, loaded = (Codec.from_pretrained(folder).fingerprint() for folder in (model_folder, other_model_folder))
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr == (
        f"error: {lm_folder}: codec must be the one whose codes these are, tiny_1 ({learned}); "
        f"got tiny_2 ({loaded}); pass --model\n"
    )
    assert os.listdir(tmp_path) == []


def test_an_lm_that_does_not_say_which_codec_needs_one_of_its_size(run, model_folder, tmp_path):
    save_tiny_lm(tmp_path / "lm", CodecTokenizer(11, 64))
    result = run("generate", "--lm", tmp_path / "lm", "--model", model_folder, "-o", tmp_path / "a.wav")
    assert result.exit_code == 1
    assert "codec must have 11 stages of 64 codes, as the tokens have; got 10 of 64; pass --model" in result.stderr


def test_what_is_wrong_with_the_input_is_one_line_and_leaves_nothing(run, lm_folder, model_folder, speech, tmp_path):
    folder = tmp_path / "work"
    folder.mkdir()
    write_audio(folder / "short.wav", speech[0, :, :600], RATE)
    (folder / "text.wav").write_text("This is no audio.")
    shutil.copytree(lm_folder, folder / "lm")
    os.unlink(folder / "lm" / "codec_tokenizer.json")
    shutil.copytree(lm_folder, folder / "cut_lm")
    os.truncate(folder / "cut_lm" / "model.safetensors", 1000)
    before = sorted(os.listdir(folder))
    for options, message in [
        (["--prompt", folder / "short.wav"], "short.wav: prompt must be at least 0.0"),
        (["--prompt", folder / "text.wav"], "text.wav: "),
        (["--prompt", folder / "missing.wav"], "missing.wav: "),
        (["--lm", folder / "missing"], "missing"),
        (["--lm", folder / "lm"], "codec_tokenizer.json"),
        (["--lm", folder / "cut_lm"], "cut_lm must hold a language model of codes; "),
        (["--device", "tpu"], "device must be cpu, cuda, cuda:N or mps; got 'tpu'"),
        (["-o", folder / "missing" / "a.wav"], "there is no folder"),
    ]:
        options = ["--lm", lm_folder, "--model", model_folder, "-o", folder / "a.wav", *options]
        result = run("generate", *options)
        assert (result.exit_code, result.stdout) == (1, "")
        assert result.stderr.startswith("error: ")
        assert message in result.stderr
        assert result.stderr.count("\n") == 1
        assert sorted(os.listdir(folder)) == before


def test_without_transformers_one_line_names_the_extra(run, lm_folder, model_folder, tmp_path, monkeypatch):
    for name in [name for name in sys.modules if name.split(".")[0] == "transformers"]:
        monkeypatch.delitem(sys.modules, name)
    for name in ("codec.lm", "codec.lm.model", "codec.lm.sample"):
        monkeypatch.delitem(sys.modules, name)
    monkeypatch.setitem(sys.modules, "transformers", None)
    result = run("generate", "--lm", lm_folder, "--model", model_folder, "-o", tmp_path / "a.wav")
    assert result.exit_code == 1
    assert result.stderr == "error: transformers must be installed for this: pip install 'rvq-codec[lm]'\n"


@pytest.mark.parametrize(
    "options",
    [
        ["--duration", 0],
        ["--duration", "nan"],
        ["--duration", 1e308],
        ["--prompt", "missing.wav", "--prompt-seconds", "inf"],
        ["--prompt", "missing.wav", "--prompt-seconds", 1e308],
        ["--prompt", "missing.wav", "--prompt-seconds", 0],
        ["--prompt-seconds", 1],
        ["--temperature", -1],
        ["--temperature", "inf"],
        ["--temperature", "nan"],
        ["--top-p", 0],
        ["--top-p", 2],
        ["--top-k", 0],
        ["--seed", -1],
        ["-o", "-", "--count", 2],
        ["-o", ""],
    ],
)
def test_wrong_usage_is_refused_before_anything_is_done(run, tmp_path, options):
    result = run("generate", "--lm", tmp_path / "missing", "-o", tmp_path / "a.wav", *options)
    assert (result.exit_code, result.stdout) == (2, "")
    assert result.stderr.startswith("Usage: ")
