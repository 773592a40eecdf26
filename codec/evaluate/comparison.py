"""A picture of one clip before and after the codec: what `codec roundtrip` draws."""

from typing import TYPE_CHECKING

import numpy as np

from codec.evaluate.plots import (
    MAX_COLUMNS,
    SIGNALS,
    Samples,
    check_alike,
    draw_spectrograms,
    label_panel,
    make_panels,
)

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_TITLE = 90  # characters


def comparison(original: Samples, decoded: Samples, sample_rate: int, title: str) -> "Figure":
    """A clip before and after the codec: waveforms on one scale, spectrograms, and the differences of both.

    Of a clip that is longer than the figure has room for, the waveform is drawn as its envelope, and the spectrograms
    have fewer columns.

    Args:
        original: [time], at least one sample.
        decoded: [time], aligned with it.
        sample_rate: Hz.
        title: Above all; too long a one loses its middle.

    Raises:
        ValueError: The signals differ in length or have more than one axis, or they are empty.
    """
    if original.size == 0:
        raise ValueError("a comparison must have samples to show; got none")
    check_alike(original, decoded)
    figure, panels = make_panels(6, columns=1, height=1.6)
    figure.suptitle(_shorten(title), fontsize=11, parse_math=False)
    _draw_waveforms(panels[:3], original, decoded, sample_rate)
    draw_spectrograms(panels[3:], original, decoded, sample_rate)
    for panel in panels[:-1]:  # one axis of time for all
        panel.set_xlabel("")
        panel.tick_params(labelbottom=False)
    return figure


def _shorten(title: str) -> str:
    """One line of at most `MAX_TITLE` printable characters, with … in place of the middle."""
    line = "".join(letter if letter.isprintable() else "?" for letter in title)
    half = MAX_TITLE // 2
    return line if len(line) <= MAX_TITLE else f"{line[: half - 1]}…{line[-half:]}"


def _draw_waveforms(panels: "list[Axes]", original: Samples, decoded: Samples, sample_rate: int) -> None:
    """Original, decoded and difference, a panel each, on the scale of the loudest of them."""
    waveforms = [original, decoded, decoded - original]
    seconds = len(original) / sample_rate
    peak = max(np.abs(waveform[np.isfinite(waveform)]).max(initial=0.0) for waveform in waveforms) or 1.0
    for panel, waveform, title in zip(panels, waveforms, SIGNALS, strict=True):
        lowest, highest = _envelope(waveform)
        times = np.linspace(0, seconds, len(lowest), endpoint=False)
        panel.fill_between(times, lowest, highest, linewidth=0.7, color="tab:blue")
        label_panel(panel, title, "s")
        panel.set_ylabel("amplitude")
        panel.set_xlim(0, seconds)
        panel.set_ylim(-1.05 * peak, 1.05 * peak)


def _envelope(waveform: Samples) -> tuple[Samples, Samples]:
    """Lowest and highest sample of each of `MAX_COLUMNS` stretches or less; next to each other they leave no gap."""
    starts = np.linspace(0, len(waveform), min(len(waveform), MAX_COLUMNS), endpoint=False).astype(np.int64)
    return np.minimum.reduceat(waveform, starts), np.maximum.reduceat(waveform, starts)
