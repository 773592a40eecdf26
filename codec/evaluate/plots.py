"""Pictures of a training run and of what a codec does to speech.

Every function gives a figure of its own, which touches no state of matplotlib; `to_png` and `to_pixels` render it, 900
pixels wide or more. Matplotlib is imported when the first figure is made.
"""

import io
import warnings
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from codec.evaluate.history import Line, scalar_names, scores_by_bitrate

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure as Figure  # for those who draw with this file

Values = NDArray[np.float64]
Samples = NDArray[np.floating]

WIDTH = 9.0  # inches of 100 pixels
SCORES = {
    "pesq_wb": "PESQ-WB (1 to 4.64, ↑)",
    "stoi": "STOI (0 to 1, ↑)",
    "si_sdr": "SI-SDR (dB, ↑)",
    "mel_distance": "mel distance (dB, ↓)",
}
FLOOR = -120.0  # dB
DYNAMIC_RANGE = 80.0  # dB
LARGEST_DIFFERENCE = 30.0  # dB
WINDOW_SECONDS = 0.032
HOP_SECONDS = 0.008
MAX_COLUMNS = 4000  # of a picture of sound: hours would take gigabytes, and a screen has no more
SIGNALS = ("original", "decoded", "decoded - original")


def loss_curves(lines: Sequence[Line]) -> "Figure":
    """Every loss in the log by step, a panel each; see `curves`."""
    return curves(lines, scalar_names(lines, "loss"))


def curves(lines: Sequence[Line], names: Sequence[str]) -> "Figure":
    """Numbers of the log by step, a panel each. A red cross at the bottom is a value that is not finite.

    Args:
        lines: Of the log; a number may be missing in some.
        names: Of the numbers.

    Raises:
        ValueError: There are no names.
    """
    figure, panels = make_panels(len(names), columns=3, height=1.9)
    for panel, name in zip(panels, names, strict=True):
        steps, values = _series([(line["step"], line[name]) for line in lines if name in line])
        panel.plot(steps, values, marker="." if len(steps) < 30 else "")
        label_panel(panel, name, "step", lines[-1]["step"])
        broken = steps[np.isnan(values)]
        panel.plot(broken, np.full_like(broken, 0.04), "x", color="tab:red", transform=panel.get_xaxis_transform())
        # A loss that falls by orders of magnitude would else be a flat line.
        known = values[~np.isnan(values)]
        if len(known) and known.min() > 0 and known.max() > 20 * np.median(known):
            panel.set_yscale("log")
    return figure


def usage_map(
    steps: Sequence[int],
    values: Sequence[Sequence[float]],
    title: str,
    *,
    limits: tuple[float, float] | None = None,
    dark_is_high: bool = False,
    width: float = WIDTH,
) -> "Figure":
    """One heat map of the use of all stages: a row for each stage, the first on top, and a column for each line.

    Args:
        steps: Last step of each line, in rising order. A column spans the steps from the line before on.
        values: Of the stages of each line, such as their perplexities.
        title: What the values are.
        limits: Values at the ends of the scale of colours. Default: from 0 to the highest value.
        dark_is_high: Whether dark, which catches the eye as a failure, stands for the highest value.
        width: Inches of 100 pixels.

    Raises:
        ValueError: There are no lines or no stages, or not as many steps as lines.
    """
    grid = np.array(values, dtype=np.float64).T
    if grid.size == 0 or grid.shape[-1] != len(steps):
        raise ValueError(f"values must have stages at each step; got shape {grid.T.shape} and {len(steps)} steps")
    stages = len(grid)
    low, high = limits or (0.0, grid[np.isfinite(grid)].max(initial=1.0))
    figure, (panel,) = make_panels(1, columns=1, height=1.2 + 0.2 * max(stages, 4), width=width)
    image = panel.pcolormesh(
        [0, *steps],
        np.arange(stages + 1) + 0.5,
        np.ma.masked_invalid(grid),
        vmin=low,
        vmax=high,
        cmap="viridis_r" if dark_is_high else "viridis",
    )
    label_panel(panel, title, "step")
    panel.set_xlim(0, steps[-1])
    panel.set_ylim(stages + 0.5, 0.5)
    panel.set_yticks(np.arange(1, stages + 1, 1 + (stages - 1) // 16))
    panel.set_ylabel("stage")
    panel.grid(False)
    panel.set_facecolor("lightgray")  # where a value is not finite
    figure.colorbar(image, ax=panel, pad=0.01)
    return figure


def rate_distortion(scores: Mapping[int, Mapping[str, float]]) -> "Figure":
    """Quality by bitrate: PESQ-WB, STOI, SI-SDR and mel distance.

    Args:
        scores: By bitrate in bit/s; see `Scores`.
    """
    figure, panels = make_panels(len(SCORES), columns=2, height=2.4)
    for panel, (name, label) in zip(panels, SCORES.items(), strict=True):
        bitrates, values = _series([(bitrate, means[name]) for bitrate, means in scores.items() if name in means])
        panel.plot(bitrates, values, marker="o")
        label_panel(panel, label, "bit/s", max(scores))
        for bitrate, value in zip(bitrates, values, strict=True):
            panel.annotate(f"{value:.3g}", (bitrate, value), (0, 6), textcoords="offset points", ha="center")
        panel.margins(y=0.25)
    return figure


def validation_curves(lines: Sequence[Line]) -> "Figure":
    """Scores of the validations by step, a line for each bitrate.

    Args:
        lines: Of the log of validations.
    """
    from matplotlib import colormaps

    validations = [(line["step"], scores_by_bitrate(line)) for line in lines]
    bitrates = sorted({bitrate for _, scores in validations for bitrate in scores})
    colors = colormaps["viridis"](np.linspace(0.85, 0, len(bitrates)))
    figure, panels = make_panels(len(SCORES), columns=2, height=2.4)
    for panel, (name, label) in zip(panels, SCORES.items(), strict=True):
        for bitrate, color in zip(bitrates, colors, strict=True):
            points = [(step, scores[bitrate][name]) for step, scores in validations if name in scores.get(bitrate, {})]
            panel.plot(*_series(points), marker=".", color=color, label=f"{bitrate} bit/s")
        label_panel(panel, label, "step", lines[-1]["step"])
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper center", ncols=6, fontsize=9)
    return figure


def spectrograms(original: Samples, decoded: Samples, sample_rate: int) -> "Figure":
    """Spectrograms of a clip before and after the codec, on one scale of colours, and their difference.

    Windows of 32 ms every 8 ms, or further apart if there would be more than 4000. The scale ends 80 dB below the
    loudest point of both; what is below counts as equal.

    Args:
        original: [time].
        decoded: [time], aligned with it.
        sample_rate: Hz.

    Raises:
        ValueError: The signals differ in length or have more than one axis.
    """
    check_alike(original, decoded)
    figure, panels = make_panels(3, columns=1, height=2.1)
    draw_spectrograms(panels, original, decoded, sample_rate)
    return figure


def check_alike(original: Samples, decoded: Samples) -> None:
    """Refuse two signals that cannot be compared sample by sample.

    Raises:
        ValueError: They differ in length or have more than one axis.
    """
    if original.ndim != 1 or original.shape != decoded.shape:
        raise ValueError(
            f"original and decoded must be [time], of the same length; got {original.shape} and {decoded.shape}"
        )


def draw_spectrograms(panels: "list[Axes]", original: Samples, decoded: Samples, sample_rate: int) -> None:
    """Draw original, decoded and difference, a panel each, and their scales of colours; see `spectrograms`."""
    pictures = [_decibels(signal, sample_rate) for signal in (original, decoded)]
    loudest = max(picture[np.isfinite(picture)].max(initial=FLOOR + DYNAMIC_RANGE) for picture in pictures)
    pictures = [np.maximum(picture, loudest - DYNAMIC_RANGE) for picture in pictures]
    extent = (0.0, len(original) / sample_rate, 0.0, sample_rate / 2000)
    for panel, picture, title in zip(panels, [*pictures, pictures[1] - pictures[0]], SIGNALS, strict=True):
        panel.imshow(picture, origin="lower", aspect="auto", extent=extent, interpolation="nearest")
        label_panel(panel, title, "s")
        panel.set_ylabel("kHz")
        panel.grid(False)
    for own, low, high, colors in (
        (panels[:2], loudest - DYNAMIC_RANGE, loudest, "magma"),
        (panels[2:], -LARGEST_DIFFERENCE, LARGEST_DIFFERENCE, "RdBu_r"),
    ):
        for panel in own:
            panel.images[0].set(clim=(low, high), cmap=colors)
        own[0].figure.colorbar(own[0].images[0], ax=own, label="dB", pad=0.01)


def to_png(figure: "Figure", scale: float = 1.0) -> bytes:
    """Render a figure to a PNG file, an inch of it to 100 pixels times `scale`."""
    buffer = io.BytesIO()
    with warnings.catch_warnings():
        # The name of a file may have letters that the font lacks; it shows a box in their place.
        warnings.filterwarnings("ignore", r"Glyph .* missing from font", UserWarning)
        figure.savefig(buffer, format="png", dpi=100 * scale)
    return buffer.getvalue()


def to_pixels(figure: "Figure", scale: float = 1.0) -> NDArray[np.uint8]:
    """Render a figure to red, green and blue from 0 to 255, [height, width, 3]."""
    from matplotlib.image import imread

    return (255 * imread(io.BytesIO(to_png(figure, scale)))[..., :3]).round().astype(np.uint8)


def label_panel(panel: "Axes", title: str, unit: str, last: float | None = None) -> None:
    """Say what a panel shows. A horizontal axis from 0 to a little more than `last` is that of all its neighbours."""
    from matplotlib.ticker import EngFormatter

    panel.set_title(title, fontsize=10, parse_math=False)
    panel.set_xlabel(unit)
    # Clips may be shorter than a second; steps and bit/s are whole.
    panel.locator_params("x", nbins=8 if unit == "s" else 4, integer=unit != "s")
    if unit == "step":
        panel.xaxis.set_major_formatter(EngFormatter(sep=""))
    if last is not None:
        panel.set_xlim(0, 1.05 * max(last, 1))
        if all(np.isnan(line.get_ydata()).all() for line in panel.lines):
            panel.text(0.5, 0.5, "no value", transform=panel.transAxes, ha="center", va="center")
            panel.set_yticks([])


def make_panels(count: int, *, columns: int, height: float, width: float = WIDTH) -> "tuple[Figure, list[Axes]]":
    """Make a figure of panels, row by row, of so many inches each row.

    Raises:
        ValueError: There are no panels.
        ImportError: Matplotlib is not installed.
    """
    if count == 0:
        raise ValueError("a figure must have something to show; got none")
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise ImportError("matplotlib must be installed for pictures: pip install 'rvq-codec[eval]'") from error

    rows = -(-count // columns)
    figure = Figure(figsize=(width, rows * height), layout="constrained")
    panels: list[Axes] = figure.subplots(rows, columns, squeeze=False).ravel().tolist()
    for panel in panels[count:]:
        panel.remove()
    for panel in panels[:count]:
        panel.grid(True, color="0.9")
        panel.set_axisbelow(True)
        panel.spines[["top", "right"]].set_visible(False)
        panel.tick_params(labelsize=9)
    return figure, panels[:count]


def _decibels(signal: Samples, sample_rate: int) -> Values:
    """[frequencies, frames]; a sine of full scale reaches 0 dB."""
    window_length = round(WINDOW_SECONDS * sample_rate)
    hop = max(round(HOP_SECONDS * sample_rate), len(signal) // MAX_COLUMNS)
    padded = np.pad(signal, (0, max(0, window_length - len(signal))))
    frames = np.lib.stride_tricks.sliding_window_view(padded, window_length)[::hop]
    window = np.hanning(window_length + 1)[:-1]
    amplitudes = np.abs(np.fft.rfft(frames * window)).T / (window.sum() / 2)
    return 20 * np.log10(np.maximum(amplitudes, 10 ** (FLOOR / 20)))


def _series(points: Sequence[tuple[float, float]]) -> tuple[Values, Values]:
    """First and second numbers; a curve has a gap where the second is not finite."""
    first, second = np.array(points, dtype=np.float64).reshape(-1, 2).T
    return first, np.where(np.isfinite(second), second, np.nan)
