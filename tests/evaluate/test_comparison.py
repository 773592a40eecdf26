import math

import numpy as np
import pytest

from codec.evaluate.comparison import comparison
from codec.evaluate.plots import MAX_COLUMNS, to_pixels, to_png


def test_a_comparison_shows_waveforms_and_spectrograms_and_their_differences_over_the_same_seconds(speech) -> None:
    original = speech[0, 0].numpy()
    figure = comparison(original, 0.5 * original, 16_000, "speech.wav, 3000 bit/s")
    assert figure.get_suptitle() == "speech.wav, 3000 bit/s"
    panels = figure.axes[:6]
    assert [panel.get_title() for panel in panels] == ["original", "decoded", "decoded - original"] * 2
    assert [panel.get_ylabel() for panel in panels] == ["amplitude"] * 3 + ["kHz"] * 3
    assert (panels[5].get_xlabel(), [panel.get_ylabel() for panel in figure.axes[6:]]) == ("s", ["dB", "dB"])
    assert {panel.get_xlim() for panel in panels} == {(0, len(original) / 16_000)}
    assert len({panel.get_ylim() for panel in panels[:3]}) == 1
    heights = [panel.collections[0].get_datalim(panel.transData).y1 for panel in panels[:3]]
    assert heights == pytest.approx([original.max(), original.max() / 2, -original.min() / 2])
    assert panels[5].images[0].get_array().max() <= 0
    to_png(figure)  # which lays the panels out
    assert len({(panel.get_position().x0, panel.get_position().x1) for panel in panels}) == 1, "times lie in a column"


def test_no_click_is_lost_in_the_picture_of_an_hour() -> None:
    hour = np.zeros(3600 * 1000, dtype=np.float32)
    hour[1_234_567] = 0.75
    waveform, *_, difference = comparison(hour, np.zeros_like(hour), 1000, "").axes[:6]
    outline = waveform.collections[0].get_paths()[0].vertices
    assert len(outline) < 3 * MAX_COLUMNS
    time = outline[outline[:, 1].argmax(), 0]
    assert time == pytest.approx(1234.567, abs=3600 / MAX_COLUMNS)
    assert difference.images[0].get_array().shape[1] <= MAX_COLUMNS + 1


def test_a_title_keeps_beginning_and_end_and_one_line() -> None:
    title = comparison(np.ones(9), np.ones(9), 8000, f"{'long ' * 40}$x_2^.wav\n\udcff, 6000 bit/s").get_suptitle()
    assert title.startswith("long long")
    assert title.endswith(" $x_2^.wav??, 6000 bit/s")
    assert len(title) == 90


@pytest.mark.parametrize(
    ("original", "decoded", "sample_rate", "title"),
    [
        (np.zeros(1), np.zeros(1), 48_000, "日本.wav, $x_2^3, 6000 bit/s"),
        (np.zeros(8000), np.full(8000, math.nan), 8000, ""),
    ],
)
def test_whatever_the_samples_and_the_title_the_picture_is_as_large(original, decoded, sample_rate, title) -> None:
    assert to_pixels(comparison(original, decoded, sample_rate, title)).shape == (960, 900, 3)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match=r"must be \[time\], of the same length; got \(3,\) and \(4,\)"):
        comparison(np.zeros(3), np.zeros(4), 16_000, "")
    with pytest.raises(ValueError, match="a comparison must have samples to show; got none"):
        comparison(np.zeros(0), np.zeros(0), 16_000, "")
