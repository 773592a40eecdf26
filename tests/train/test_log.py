import json
import math

import pytest
import torch

from codec.train import log
from codec.train.log import Window, append_line, drop_lines_after, summarize

CODEBOOK_SIZE = 8
SIZES = [CODEBOOK_SIZE] * 3


def make_steps(count, batch_size=2, seed=0):
    """(losses, codes [batch, 3 stages, 5 frames], seconds) of a few steps; the last stage uses three codes only."""
    generator = torch.Generator().manual_seed(seed)
    steps = []
    for _ in range(count):
        codes = torch.randint(CODEBOOK_SIZE, (batch_size, 3, 5), generator=generator)
        codes[:, 2] %= 3
        first, second = torch.rand(2, generator=generator)
        steps.append(({"loss": first, "stft": second}, codes, 0.5 * batch_size))
    return steps


def read_window(steps):
    window = Window(SIZES)
    for step in steps:
        window.add(*step)
    return window.read()


def assert_is_summary_of(values, steps):
    """By plain sums over lists."""
    uses = ["perplexity", "entropy", "dead_share", "bits_per_frame"]
    assert list(values) == ["loss", "stft", *uses, "audio_seconds_per_second", "data_share"]
    for name in ("loss", "stft"):
        assert values[name] == pytest.approx(sum(losses[name].item() for losses, _, _ in steps) / len(steps))
    for stage in range(3):
        chosen = [code for _, codes, _ in steps for code in codes[:, stage].flatten().tolist()]
        shares = [chosen.count(code) / len(chosen) for code in range(CODEBOOK_SIZE)]
        entropy = -sum(share * math.log(share) for share in shares if share > 0)
        assert values["perplexity"][stage] == pytest.approx(math.exp(entropy), rel=1e-6)
        assert values["entropy"][stage] == pytest.approx(entropy / math.log(CODEBOOK_SIZE), rel=1e-6)
        assert values["bits_per_frame"][stage] == pytest.approx(entropy / math.log(2), rel=1e-6)
        assert values["dead_share"][stage] == shares.count(0) / CODEBOOK_SIZE


def test_a_window_tells_means_of_losses_and_the_use_of_the_codes_of_all_its_steps():
    steps = make_steps(4)
    assert_is_summary_of(read_window(steps), steps)


def test_a_window_starts_anew_when_it_was_read():
    window = Window(SIZES)
    steps = make_steps(5)
    for step in steps[:3]:
        window.add(*step)
    window.read()
    for step in steps[3:]:
        window.add(*step)
    assert_is_summary_of(window.read(), steps[3:])


def test_speed_is_audio_by_the_clock(monkeypatch):
    now = iter([10.0, 14.0, 14.0, 15.0, 15.0])
    monkeypatch.setattr(log.time, "monotonic", lambda: next(now))
    window = Window(SIZES)
    for step in make_steps(4):
        window.add(*step)
    assert window.read()["audio_seconds_per_second"] == pytest.approx(4 / 4)
    window.add(*make_steps(1)[0])
    assert window.read()["audio_seconds_per_second"] == pytest.approx(1 / 1)


def test_time_spent_on_waiting_for_data_is_a_share_of_the_clock(monkeypatch):
    now = iter([10.0, 18.0, 18.0, 20.0, 20.0])
    monkeypatch.setattr(log.time, "monotonic", lambda: next(now))
    window = Window(SIZES)
    for step in make_steps(4):
        window.add(*step, data_seconds=0.5)
    assert window.read()["data_share"] == pytest.approx(4 * 0.5 / 8)
    window.add(*make_steps(1)[0])
    assert window.read()["data_share"] == 0.0


def test_a_loss_is_averaged_over_the_steps_in_which_it_occurred():
    window = Window(SIZES)
    codes = torch.zeros(1, 3, 1, dtype=torch.int64)
    for losses in ({"mel": 1.0}, {"mel": 2.0, "adversarial": 5.0}, {}, {"mel": 6.0, "adversarial": math.nan}):
        window.add({name: torch.tensor(loss) for name, loss in losses.items()}, codes, 1.0)
    values = window.read()
    assert values["mel"] == 3.0
    assert math.isnan(values["adversarial"])
    window.add({}, codes, 1.0)
    assert not {"mel", "adversarial"} & window.read().keys()


def test_a_window_keeps_no_graph():
    weight = torch.ones((), requires_grad=True)
    window = Window(SIZES)
    window.add({"loss": 2 * weight}, torch.zeros(1, 3, 1, dtype=torch.int64), 1.0)
    assert window.read()["loss"] == 2.0


def test_an_empty_window_cannot_be_read():
    with pytest.raises(RuntimeError, match="a window must hold a step before it is read; got none"):
        Window(SIZES).read()


def read_own_share(rank):
    rank.join()
    values = read_window(make_steps(3, batch_size=1 + rank.index, seed=rank.index))
    return values, rank.collectives


@pytest.mark.slow
def test_two_ranks_tell_what_all_of_them_did(two_ranks):
    (first, collectives), second = two_ranks(read_own_share)
    assert (first, collectives) == second
    assert collectives == 2
    assert_is_summary_of(first, make_steps(3, 1, seed=0) + make_steps(3, 2, seed=1))


def read_at_own_pace(rank):
    """Rank 0 waits for data all the time, rank 1 never does; both saw a loss in the second step only."""
    rank.join()
    codes = torch.zeros(1, 3, 1, dtype=torch.int64)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(log.time, "monotonic", iter([0.0, 8.0, 8.0]).__next__)
        window = Window(SIZES)
        for losses in ({}, {"adversarial": torch.tensor(1.0 + rank.index)}):
            window.add(losses, codes, 1.0 + rank.index, data_seconds=4.0 * (1 - rank.index))
        return window.read()


@pytest.mark.slow
def test_two_ranks_share_the_clock_and_what_occurs_now_and_then(two_ranks):
    first, second = two_ranks(read_at_own_pace)
    assert first == second
    assert first["adversarial"] == 1.5
    assert first["data_share"] == 0.5
    assert first["audio_seconds_per_second"] == (2 + 4) / 8


def test_a_line_of_the_log_is_json(tmp_path):
    values = read_window(make_steps(2))
    append_line(tmp_path / "log.jsonl", {"step": 1, **values})
    append_line(tmp_path / "log.jsonl", {"step": 2, "score": torch.tensor(0.5)})
    lines = (tmp_path / "log.jsonl").read_text().splitlines()
    assert json.loads(lines[0]) == {"step": 1, **values}
    assert json.loads(lines[1]) == {"step": 2, "score": 0.5}


def test_a_line_that_was_cut_off_does_not_spoil_the_next(tmp_path):
    path = tmp_path / "log.jsonl"
    path.write_text('{"step": 1}\n{"step": 2, "lo')
    append_line(path, {"step": 3})
    assert path.read_text().splitlines() == ['{"step": 1}', '{"step": 2, "lo', '{"step": 3}']


def test_a_log_that_needs_no_cutting_is_not_written(tmp_path):
    path = tmp_path / "log.jsonl"
    append_line(path, {"step": 1})
    before = path.stat()
    drop_lines_after(path, 1)
    assert (path.stat().st_ino, path.stat().st_mtime_ns) == (before.st_ino, before.st_mtime_ns)
    drop_lines_after(path, 0)
    assert path.read_text() == ""
    assert path.stat().st_ino != before.st_ino  # another file in its place: never half of one


def test_a_log_is_cut_back_to_a_step(tmp_path):
    path = tmp_path / "log.jsonl"
    for step in (1, 2, 3, 4):
        append_line(path, {"step": step, "loss": 0.5})
    with path.open("a") as file:
        file.write('{"step": 1, "lo')
    drop_lines_after(path, 2)
    assert [json.loads(line)["step"] for line in path.read_text().splitlines()] == [1, 2]
    append_line(path, {"step": 3})
    assert path.read_text().endswith('0.5}\n{"step": 3}\n')


def test_a_log_that_is_not_there_is_not_made(tmp_path):
    drop_lines_after(tmp_path / "log.jsonl", 2)
    assert list(tmp_path.iterdir()) == []


def test_a_summary_is_one_line_of_losses_and_the_range_of_the_perplexities():
    values = {"loss": 1.23456, "stft": 0.5, "perplexity": [700.4, 12.6, 80.0], "dead_share": [0.0, 0.1, 0.2]}
    assert summarize(values) == "loss 1.23  stft 0.5  perplexity 13 to 700"
