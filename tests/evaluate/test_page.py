import json
from base64 import b64decode
from html.parser import HTMLParser
from io import BytesIO
from pathlib import Path

import pytest
from matplotlib.image import imread

from codec.evaluate.page import write_page

USAGE = {"perplexity": [4.0, 2.0], "entropy": [0.5, 0.25], "dead_share": [0.5, 0.75]}
LINES = [
    {"step": 10, "learning_rate": 1e-3, "stft": 2.0, "gradient_norm": 1.0, **USAGE, "audio_seconds_per_second": 40.0},
    {"step": 20, "learning_rate": 1e-3, "stft": float("nan"), "adversarial": 1.0, **USAGE},
    {"step": 30, "learning_rate": 1e-4, "stft": 1.0, "adversarial": 1.0, **USAGE, "audio_seconds_per_second": 50.0},
]
SCORES = {"pesq_wb": 1.5, "stoi": 0.7, "si_sdr": float("nan"), "mel_distance": 9.25}


class Page(HTMLParser):
    """What a reader gets to see."""

    def __init__(self, path: Path):
        super().__init__()
        self.tags: list[str] = []
        self.texts: list[str] = []
        self.cells: list[list[str]] = []
        self.pictures: dict[str, str] = {}
        self.links: list[str] = []
        self.feed(path.read_text(encoding="utf-8"))

    def handle_starttag(self, tag: str, attributes: list[tuple[str, str | None]]) -> None:
        self.tags.append(tag)
        values = dict(attributes)
        if tag == "img":
            self.pictures[values["alt"]] = values["src"]
        if tag == "tr":
            self.cells.append([])
        self.links += [values[name] for name in ("src", "href") if name in values]

    def handle_data(self, text: str) -> None:
        self.texts.append(text)
        if self.tags[-1:] and self.tags[-1] in ("td", "th") and text.strip():
            self.cells[-1].append(text)


def write_log(path: Path, lines: list[dict[str, object]]) -> None:
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))


@pytest.fixture(scope="module")
def page(tmp_path_factory) -> Page:
    """About a run with everything in it."""
    run = tmp_path_factory.mktemp("runs") / "a"
    run.mkdir()
    write_log(run / "log.jsonl", LINES)
    write_log(run / "valid.jsonl", [{"step": 20, "3000 bit/s": SCORES}, {"step": 30, "3000 bit/s": SCORES}])
    (run / "recipe.json").write_text(json.dumps({"name": "<i>tiny</i> & co", "run": {"steps": 40}}))
    (run / "run.json").write_text(json.dumps({"parameters": 1234567, "device": "<cpu>"}))
    assert write_page(run) == run / "report.html"
    return Page(run / "report.html")


def test_the_page_needs_no_other_file(page: Page) -> None:
    assert all(link.startswith("data:image/png;base64,") for link in page.links)
    assert {"script", "link", "iframe"}.isdisjoint(page.tags)


def test_the_page_opens_with_the_facts(page: Page) -> None:
    assert page.cells[:4] == [
        ["steps", "30 of 40"],
        ["speed", "45.0 s of audio per second (median)"],
        ["parameters", "1,234,567"],
        ["device", "<cpu>"],
    ]


def test_names_cannot_change_the_page(page: Page) -> None:
    assert page.texts.count("<i>tiny</i> & co") == 2  # title and heading
    assert "i" not in page.tags


def test_the_last_validation_is_a_table(page: Page) -> None:
    assert page.cells[-1] == ["3000", "1.500", "0.700", "nan", "9.250"]
    assert any("after step 30" in text for text in page.texts)


def test_the_pictures_are_all_there_and_sharp(page: Page) -> None:
    widths = {title: imread(BytesIO(b64decode(link.split(",")[1]))).shape[1] for title, link in page.pictures.items()}
    assert widths == {
        "Losses by step": 1440,
        "Gradients, learning rates and throughput by step": 1440,
        "perplexity: effective number of codes": 1440,
        "entropy, as a share of the possible": 720,
        "share of codes that did not occur": 720,
        "Quality by bitrate": 1440,
        "Quality by step": 1440,
    }


def test_one_line_of_a_run_that_was_cut_short_is_enough(tmp_path: Path) -> None:
    (tmp_path / "log.jsonl").write_text('{"step": 5, "loss": 1.0}\n{"step": 10, "lo')
    (tmp_path / "valid.jsonl").write_text('{"step": 5, "3000 bi')
    page = Page(write_page(tmp_path, tmp_path / "other.html"))
    assert page.cells == [["steps", "5"]]
    assert list(page.pictures) == ["Losses by step"]
    assert "No validation yet." in page.texts
    assert page.texts.count(tmp_path.name) == 2
    assert not (tmp_path / "report.html").exists()


def test_what_is_missing_or_damaged_is_named(tmp_path: Path) -> None:
    with pytest.raises(ValueError, match=r"must hold the log of a training run, log\.jsonl; found none"):
        write_page(tmp_path)
    (tmp_path / "log.jsonl").write_text('{"step"')
    with pytest.raises(ValueError, match=r"log\.jsonl must hold at least one whole line; got none"):
        write_page(tmp_path)
    (tmp_path / "log.jsonl").write_text('{"step": 1}')
    (tmp_path / "recipe.json").write_text("{")
    with pytest.raises(ValueError, match=r"recipe\.json must be JSON; "):
        write_page(tmp_path)
    (tmp_path / "recipe.json").write_text("[]")
    with pytest.raises(ValueError, match=r"recipe\.json must hold a JSON object; got list"):
        write_page(tmp_path)
