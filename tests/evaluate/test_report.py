import math
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import soundfile
import torch

from codec.audio import AudioFileError, find_audio, read_audio, write_audio
from codec.bitstream import Stream, write_stream
from codec.evaluate import (
    ROW_HEADINGS,
    STAGE_HEADINGS,
    Report,
    Row,
    Scores,
    evaluate,
    pesq_wb,
    si_sdr,
    stoi,
    usual_bitrates,
)
from codec.model import Codec, CodecConfig, ModelConfig, QuantizerConfig, build_codec
from codec.model.header import make_header

# 50 frames a second of 5 bits: 250 bit/s a stage.
TINY = CodecConfig(
    name="tiny",
    model=ModelConfig(dim=16, encoder_depth=1, decoder_depth=1, latent_dim=8),
    quantizer=QuantizerConfig(num_quantizers=3, codebook_size=32, initializer="uniform"),
)


@pytest.fixture(scope="module")
def codec() -> Codec:
    torch.manual_seed(0)
    codec = build_codec(TINY)
    for _ in range(5):
        codec(0.1 * torch.randn(4, 1, 8000))
    return codec.eval()


@pytest.fixture(scope="module")
def report(codec: Codec, clips: list[Path]) -> Report:
    return evaluate(codec, clips, [750, 250], unquantized=True)


def test_rows_go_from_the_lowest_bitrate_to_the_unquantized_codec(report: Report) -> None:
    assert [row.num_quantizers for row in report.rows] == [1, 3, None]
    assert [row.clips for row in report.rows] == [3, 3, 3]


def test_the_bitrate_is_that_of_whole_files(report: Report, codec: Codec, clips: list[Path]) -> None:
    num_bytes = sum(len(as_file(codec, path, num_quantizers=3)) for path in clips)
    seconds = sum(soundfile.info(path).duration for path in clips)
    assert report.rows[1].bitrate == pytest.approx(8 * num_bytes / seconds)
    # Whole frames, header and checksums come on top of the codes.
    assert 750 < report.rows[1].bitrate < 1000
    assert report.rows[2].bitrate is None


def as_file(codec: Codec, path: Path, num_quantizers: int) -> bytes:
    waveform = read_audio(path).waveform[None]
    codes = codec.encode(waveform, num_quantizers)[:1].numpy()
    header = make_header(codec, num_quantizers, sample_rate=16_000, length=waveform.shape[2], num_frames=codes.shape[2])
    return write_stream(Stream(header, codes))


def test_scores_are_means_over_the_clips(report: Report, codec: Codec, clips: list[Path]) -> None:
    expected = []
    for path in clips:
        waveform = read_audio(path).waveform
        decoded = codec.decode(codec.encode(waveform[None], 1))[0, 0, : waveform.shape[1]].clamp(-1, 1)
        pair = waveform[0], decoded
        expected.append([pesq_wb(*pair, 16_000), stoi(*pair, 16_000), si_sdr(*pair)])
    assert report.rows[0].scores[:3] == pytest.approx(torch.tensor(expected).mean(0).tolist(), rel=1e-3)


def test_the_latents_alone_lose_less_than_their_codes(report: Report) -> None:
    assert report.rows[2].scores.si_sdr > report.rows[0].scores.si_sdr


def test_the_use_of_the_stages_is_counted_over_all_clips(report: Report, codec: Codec, clips: list[Path]) -> None:
    codes = torch.cat([codec.encode(read_audio(path).waveform[None]) for path in clips], dim=2)
    for stage in range(3):
        counts = torch.bincount(codes[0, stage], minlength=32).double()
        entropy = -(counts / counts.sum() * (counts / counts.sum()).clamp_min(1e-12).log()).sum()
        assert report.perplexity[stage] == pytest.approx(entropy.exp().item())
        assert report.dead_share[stage] == (counts == 0).double().mean().item()


def test_speeds_are_positive(report: Report) -> None:
    assert all(row.encode_speed > 0 and row.decode_speed > 0 for row in report.rows)


@pytest.mark.slow
def test_other_processes_give_the_same_scores(report: Report, codec: Codec, clips: list[Path]) -> None:
    parallel = evaluate(codec, clips, [250], jobs=2)
    assert parallel.rows[0].scores == pytest.approx(report.rows[0].scores)


def evaluate_on_ranks(rank, codec: Codec, clips: list[Path], unreadable: int | None) -> tuple[Report | str, int]:
    """The report, or how it failed; and how many sums over ranks it took."""
    rank.join()
    clips = [path.with_suffix(".missing") if index == unreadable else path for index, path in enumerate(clips)]
    try:
        return evaluate(codec, clips, [750, 250], unquantized=True), rank.collectives
    except (AudioFileError, RuntimeError) as error:
        return f"{type(error).__name__}: {error}", rank.collectives


def assert_same_but_for_speeds(first: Report, second: Report) -> None:
    for row, other in zip(first.rows, second.rows, strict=True):
        assert (row.num_quantizers, row.clips) == (other.num_quantizers, other.clips)
        assert [row.bitrate, *row.scores] == pytest.approx([other.bitrate, *other.scores])
    assert (first.perplexity, first.dead_share) == (second.perplexity, second.dead_share)


@pytest.mark.slow
def test_two_ranks_share_the_clips_and_give_the_report_of_one(
    two_ranks, report: Report, codec: Codec, clips: list[Path]
) -> None:
    first, second = two_ranks(evaluate_on_ranks, codec, clips, None)
    assert first == second
    assert first[1] == 1
    assert_same_but_for_speeds(first[0], report)


@pytest.mark.slow
def test_a_rank_without_clips_takes_part(two_ranks, codec: Codec, clips: list[Path]) -> None:
    (first, _), (second, _) = two_ranks(evaluate_on_ranks, codec, clips[:1], None)
    assert first == second
    assert_same_but_for_speeds(first, evaluate(codec, clips[:1], [750, 250], unquantized=True))


@pytest.mark.slow
def test_no_rank_waits_for_one_that_failed(two_ranks, codec: Codec, clips: list[Path]) -> None:
    (first, _), (second, _) = two_ranks(evaluate_on_ranks, codec, clips, 1)
    assert second.startswith("AudioFileError: ")
    assert first == f"RuntimeError: evaluation must succeed on every rank; on rank 1 it failed: {second}"


@pytest.mark.slow
def test_nothing_to_judge_is_nan_on_two_ranks_too(two_ranks, codec: Codec, clips: list[Path], tmp_path: Path) -> None:
    write_audio(tmp_path / "silence.wav", torch.zeros(1, 16_000), 16_000)
    (first, _), _ = two_ranks(evaluate_on_ranks, codec, [tmp_path / "silence.wav"] * 2, None)
    assert all(map(math.isnan, first.rows[0].scores))


def test_the_usual_bitrates_are_those_of_a_quarter_half_and_all_of_the_stages() -> None:
    for stages, expected in ((1, [250]), (3, [250, 750]), (20, [1250, 2500, 5000])):
        codec = build_codec(replace(TINY, quantizer=replace(TINY.quantizer, num_quantizers=stages)))
        assert usual_bitrates(codec) == expected


def test_a_silent_clip_counts_for_the_bitrate_and_not_for_the_scores(
    codec: Codec, report: Report, clips: list[Path], tmp_path: Path
) -> None:
    write_audio(tmp_path / "silence.wav", torch.zeros(1, 16_000), 16_000)
    (row,) = evaluate(codec, [*clips, tmp_path / "silence.wav"], [250]).rows
    assert row.clips == 4
    assert row.scores == pytest.approx(report.rows[0].scores)


def test_another_sample_rate_and_two_channels_become_those_of_the_codec(codec: Codec, tmp_path: Path) -> None:
    write_audio(tmp_path / "stereo.wav", 0.1 * torch.randn(2, 44_100), 44_100)
    (row,) = evaluate(codec, [tmp_path / "stereo.wav"], [250]).rows
    assert not math.isnan(row.scores.si_sdr)


def test_wrong_arguments_are_refused(codec: Codec, clips: list[Path]) -> None:
    with pytest.raises(ValueError, match="has, 250, 500, 750 bit/s; got 300"):
        evaluate(codec, clips, [300])
    with pytest.raises(ValueError, match="bitrates must hold at least one"):
        evaluate(codec, clips, [])
    with pytest.raises(ValueError, match="clips must hold at least one audio file"):
        evaluate(codec, [], [250])
    with pytest.raises(ValueError, match="jobs must be positive; got 0"):
        evaluate(codec, clips, [250], jobs=0)


def test_audio_is_found_below_a_folder(clips: list[Path], tmp_path: Path) -> None:
    (tmp_path / "1963").mkdir()
    for name in ("b.FLAC", "1963/a.flac", "1963/a.txt"):
        shutil.copy(clips[0], tmp_path / name)
    assert find_audio(tmp_path) == [tmp_path / "1963/a.flac", tmp_path / "b.FLAC"]


def test_a_folder_without_audio_is_refused(tmp_path: Path) -> None:
    for folder in (tmp_path, tmp_path / "nowhere"):
        with pytest.raises(ValueError, match=f"{folder.name} must be a folder with audio files"):
            find_audio(folder)


def test_cells_stand_under_their_headings() -> None:
    row = Row(3, 812.4, Scores(2.345, 0.9123, 4.56, 3.21), 10, 20.0, 15.04)
    assert dict(zip(ROW_HEADINGS, row.cells(), strict=True)) == {
        "bit/s": "812",
        "stages": "3",
        "PESQ-WB": "2.35",
        "STOI": "0.912",
        "SI-SDR": "4.6",
        "mel dB": "3.21",
        "clips": "10",
        "encode": "20.0x",
        "decode": "15.0x",
    }
    assert Report([row], [31.96], [0.125]).stage_cells() == [("1", "32.0", "12.5%")]
    assert len(STAGE_HEADINGS) == 3


def test_a_row_without_the_quantizer_has_no_bitrate() -> None:
    assert Row(None, None, Scores(2.3, 0.9, 4.5, 3.2), 10, 20.0, 15.0).cells()[:2] == ("-", "none")


@pytest.mark.slow
def test_the_script_prints_both_tables(codec: Codec, clips: list[Path], tmp_path: Path) -> None:
    codec.save_pretrained(tmp_path / "model")
    shutil.copy(clips[0], tmp_path)
    done = run_script(tmp_path, "--model", tmp_path / "model", "--bitrate", 250, "--bitrate", 500, "--unquantized")
    assert done.returncode == 0, done.stderr
    first_cells = [line.split()[1] for line in done.stdout.splitlines() if line.startswith("|")]
    assert first_cells[0] == "bit/s"
    assert first_cells[4] == "-"
    assert first_cells[5:] == ["stage", "----:", "1", "2"]


@pytest.mark.slow
def test_the_script_says_what_is_wrong_in_one_line(tmp_path: Path) -> None:
    done = run_script(tmp_path)
    assert done.returncode == 1
    assert done.stdout == ""
    assert done.stderr.startswith(f"error: {tmp_path} must be a folder with audio files")
    assert done.stderr.count("\n") == 1


def run_script(*arguments: object) -> subprocess.CompletedProcess[str]:
    root = Path(__file__).parents[2]
    command = [sys.executable, root / "scripts/evaluate.py", *map(str, arguments)]
    return subprocess.run(
        command, env=os.environ | {"PYTHONPATH": str(root)}, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.mark.gpu
@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
def test_a_codec_on_the_gpu_scores_like_one_on_the_cpu(report: Report, clips: list[Path], codec: Codec) -> None:
    try:
        (row,) = evaluate(codec.cuda(), clips, [750]).rows
    finally:
        codec.cpu()
    assert row.scores == pytest.approx(report.rows[1].scores, rel=0.05)
