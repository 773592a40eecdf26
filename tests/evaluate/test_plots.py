"""What stands in the figures, read back from them; and that they can be rendered without a warning."""

import math
import subprocess
import sys
from io import BytesIO
from pathlib import Path

import numpy as np
import pytest
import torch
from matplotlib.image import imread

from codec.evaluate.plots import (
    SCORES,
    curves,
    loss_curves,
    rate_distortion,
    spectrograms,
    to_pixels,
    to_png,
    usage_map,
    validation_curves,
)

NAN = math.nan
LINES = [
    {"step": 100, "stft": 2.0, "waveform": 50.0, "gradient_norm": 1.0, "perplexity": [4.0, 2.0]},
    {"step": 200, "stft": NAN, "waveform": 0.5, "gradient_norm": 1.0, "perplexity": [5.0, 2.0]},
    {"step": 300, "stft": 1.0, "waveform": 0.4, "gradient_norm": 1.0, "perplexity": [6.0, NAN], "adversarial": 1.5},
]
VALIDATIONS = [
    {"step": 100, "3000 bit/s": {"pesq_wb": 1.5, "stoi": 0.7, "si_sdr": -math.inf, "mel_distance": 9.0}},
    {
        "step": 300,
        "3000 bit/s": {"pesq_wb": 2.0, "stoi": 0.8, "si_sdr": NAN, "mel_distance": 8.0},
        "6000 bit/s": {"pesq_wb": 3.0, "stoi": 0.9, "si_sdr": 2.0, "mel_distance": 5.0},
    },
]


def points(line) -> list[list[float]]:
    return np.stack(line.get_data(), axis=1).tolist()


def test_every_loss_has_a_panel_over_the_steps_in_which_it_occurred() -> None:
    panels = loss_curves(LINES).axes
    assert [panel.get_title() for panel in panels] == ["stft", "waveform", "adversarial"]
    assert points(panels[1].lines[0]) == [[100, 50], [200, 0.5], [300, 0.4]]
    assert points(panels[2].lines[0]) == [[300, 1.5]]
    assert len({panel.get_xlim() for panel in panels}) == 1


def test_a_value_that_is_not_finite_is_a_gap_and_a_cross() -> None:
    curve, crosses = loss_curves(LINES).axes[0].lines
    np.testing.assert_array_equal(curve.get_ydata(), [2, NAN, 1])
    assert crosses.get_xdata().tolist() == [200]


def test_only_what_falls_by_orders_of_magnitude_is_on_a_logarithmic_scale() -> None:
    assert [panel.get_yscale() for panel in curves(LINES, ["stft", "waveform"]).axes] == ["linear", "log"]


def test_a_usage_map_has_a_row_for_each_stage_and_a_column_for_each_line() -> None:
    panel, _ = usage_map([100, 250], [[1.0, 2.0, 8.0], [4.0, NAN, 6.0]], "perplexity").axes
    (image,) = panel.collections
    assert image.get_array().filled(-1).tolist() == [[1, 4], [2, -1], [8, 6]]
    assert image.get_coordinates()[0, :, 0].tolist() == [0, 100, 250]
    assert image.get_clim() == (0, 8)
    bottom, top = panel.get_ylim()
    assert bottom > top, "the first stage is on top"


def test_where_high_is_bad_high_is_dark() -> None:
    def brightness(dark_is_high: bool) -> list[float]:
        figure = usage_map([1, 2], [[0.0], [1.0]], "share", limits=(0, 1), dark_is_high=dark_is_high)
        return figure.axes[0].collections[0].to_rgba([0.0, 1.0])[:, :3].sum(1).tolist()

    assert brightness(dark_is_high=False) == brightness(dark_is_high=True)[::-1]
    assert brightness(dark_is_high=False) == sorted(brightness(dark_is_high=False))


def test_quality_by_bitrate_has_a_panel_for_each_score() -> None:
    scores = {3000: {"pesq_wb": 2.0, "stoi": 0.8, "si_sdr": NAN}, 6000: {"pesq_wb": 3.0, "stoi": 0.9, "si_sdr": NAN}}
    panels = rate_distortion(scores).axes
    assert [panel.get_title() for panel in panels] == list(SCORES.values())
    assert points(panels[0].lines[0]) == [[3000, 2], [6000, 3]]
    assert [text.get_text() for text in panels[1].texts] == ["0.8", "0.9"]
    assert "no value" in [text.get_text() for text in panels[2].texts]


def test_validations_have_a_curve_for_each_bitrate() -> None:
    figure = validation_curves(VALIDATIONS)
    assert [text.get_text() for text in figure.legends[0].get_texts()] == ["3000 bit/s", "6000 bit/s"]
    assert [points(line) for line in figure.axes[0].lines] == [[[100, 1.5], [300, 2]], [[300, 3]]]
    assert all(map(math.isnan, figure.axes[2].lines[0].get_ydata()))


def test_spectrograms_show_decibels_by_frequency_and_time_and_their_difference() -> None:
    time = np.arange(16_000) / 16_000
    sine = np.sin(2 * np.pi * 2000 * time)
    original, decoded, difference = spectrograms(sine, 0.5 * sine, 16_000).axes[:3]
    loudness, change = (np.asarray(panel.images[0].get_array()) for panel in (original, difference))
    # Bins of 31.25 Hz: 2 kHz is the 64th, at full scale.
    assert loudness.argmax(0).tolist() == [64] * loudness.shape[1]
    np.testing.assert_allclose(loudness[64], 0, atol=1e-6)
    np.testing.assert_allclose(change[64], 20 * math.log10(0.5))
    # What is 80 dB below the loudest is not told apart.
    np.testing.assert_allclose(change[128], 0, atol=1e-6)
    assert original.images[0].get_clim() == decoded.images[0].get_clim() == pytest.approx((-80, 0), abs=1e-6)
    assert original.images[0].get_extent() == [0, 1, 0, 8]


def test_speech_does_not_differ_from_itself(speech: torch.Tensor) -> None:
    original, _, difference = spectrograms(speech[0, 0].numpy(), speech[0, 0].numpy(), 16_000).axes[:3]
    assert original.images[0].get_array().std() > 10
    assert not difference.images[0].get_array().any()


@pytest.mark.parametrize(
    "make",
    [
        lambda: loss_curves(LINES),
        lambda: loss_curves([{"step": 0, "loss": NAN}]),
        lambda: usage_map([1], [[1.0]], "one stage, one line"),
        lambda: usage_map(range(10, 20_010, 10), np.ones((2000, 32)).tolist(), "32 stages, 2000 lines"),
        lambda: usage_map([1], [[NAN, NAN]], "nothing"),
        lambda: rate_distortion({3000: {"pesq_wb": NAN}}),
        lambda: validation_curves(VALIDATIONS),
        lambda: spectrograms(np.zeros(10), np.zeros(10), 44_100),
        lambda: spectrograms(np.zeros(8000), np.full(8000, NAN), 8000),
    ],
)
def test_figures_are_rendered_900_pixels_wide(make) -> None:
    height, width, channels = to_pixels(make()).shape
    assert (width, channels) == (900, 3)
    assert height > 150


def test_png_and_pixels_show_the_same() -> None:
    png, pixels = (
        render(usage_map([1], [[1.0, 2.0]], "perplexity", width=4.5), scale=2) for render in (to_png, to_pixels)
    )
    assert pixels.dtype == np.uint8
    assert pixels.shape[1] == 900
    np.testing.assert_allclose(imread(BytesIO(png))[..., :3], pixels / 255, atol=1e-6)


def test_wrong_arguments_are_refused() -> None:
    with pytest.raises(ValueError, match="a figure must have something to show; got none"):
        loss_curves([{"step": 1, "perplexity": [1.0]}])
    for steps, values in (([], []), ([1], [[]]), ([1, 2], [[1.0]])):
        with pytest.raises(ValueError, match=r"values must have stages at each step; got shape .* and [012] steps"):
            usage_map(steps, values, "perplexity")
    with pytest.raises(ValueError, match=r"must be \[time\], of the same length; got \(3,\) and \(4,\)"):
        spectrograms(np.zeros(3), np.zeros(4), 16_000)


@pytest.mark.slow
def test_matplotlib_is_imported_with_the_first_figure_and_pyplot_never() -> None:
    code = """
import sys
import codec.evaluate.page as page
assert "matplotlib" not in sys.modules
page.to_png(page.rate_distortion({1000: {"stoi": 0.5}}))
assert "matplotlib" in sys.modules
assert "matplotlib.pyplot" not in sys.modules
"""
    root = Path(__file__).parents[2]
    done = subprocess.run([sys.executable, "-c", code], cwd=root, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr
