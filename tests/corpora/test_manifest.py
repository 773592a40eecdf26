import json
import math
import os
import re
from dataclasses import replace
from pathlib import Path

import pytest

from codec.corpora.clip import Clip
from codec.corpora.manifest import read_manifest, write_manifest


@pytest.fixture
def write(tmp_path):
    """Write a manifest, and give its path."""

    def write(suffix, text, encoding="utf-8"):
        path = tmp_path / f"clips{suffix}"
        path.write_text(text, encoding=encoding)
        return path

    return write


def test_a_tsv_is_read_by_the_names_of_its_columns(write, tmp_path):
    path = write(".tsv", 'speaker\ttext\tpath\tduration\n1963\tsay "it"\ta/b.flac\t2.5\n\t\t/c d.wav\t3\n')
    assert read_manifest(path) == [Clip(tmp_path / "a/b.flac", 2.5, "1963"), Clip(Path("/c d.wav"), 3.0, "")]


def test_a_jsonl_is_read_by_its_keys(write, tmp_path):
    lines = [{"path": "a.flac", "duration": 2, "speaker": 1963, "text": "go"}, {"path": "/b", "duration": 0.5}]
    path = write(".jsonl", "\n".join(map(json.dumps, lines)))
    assert read_manifest(path) == [Clip(tmp_path / "a.flac", 2.0, "1963"), Clip(Path("/b"), 0.5, "")]


def test_what_spreadsheets_and_editors_leave_is_read_over(write, tmp_path):
    path = write(".tsv", "path\tduration\r\na.wav\t1.5\r\n\r\n", encoding="utf-8-sig")
    assert read_manifest(path) == [Clip(tmp_path / "a.wav", 1.5, "")]


@pytest.mark.parametrize("suffix", [".tsv", ".jsonl"])
def test_what_is_written_is_read_again(tmp_path, suffix):
    names = ["a/b.flac", "with space, \"quotes\" and 'more'.wav", "é\u2028.ogg", os.fsdecode(b"\xff.wav"), "{.wav"]
    clips = [Clip(tmp_path / name, 0.1 + number / 3, f"{number}") for number, name in enumerate(names)]
    clips.append(Clip(Path("/elsewhere/a.wav"), 12.0, ""))
    clips.append(Clip(tmp_path / "x.wav", 1.0, id="x-1", transcript='say "it", é'))
    write_manifest(clips, tmp_path / f"clips{suffix}")
    assert read_manifest(tmp_path / f"clips{suffix}") == clips


def test_columns_that_no_clip_fills_are_not_written(tmp_path):
    write_manifest([Clip(tmp_path / "a.wav", 1.0)], tmp_path / "clips.tsv")
    assert (tmp_path / "clips.tsv").read_text() == "path\tduration\tspeaker\na.wav\t1.0\t\n"
    write_manifest([Clip(tmp_path / "a.wav", 1.0, transcript="go")], tmp_path / "clips.jsonl")
    text = '{"path": "a.wav", "duration": 1.0, "speaker": "", "transcript": "go"}\n'
    assert (tmp_path / "clips.jsonl").read_text() == text


@pytest.mark.parametrize("suffix", [".tsv", ".jsonl"])
def test_a_manifest_moves_with_its_folder(tmp_path, monkeypatch, suffix):
    (tmp_path / "before").mkdir()
    monkeypatch.chdir(tmp_path)
    write_manifest([Clip(Path("before/1/a.wav"), 1.0, "1")], Path(f"before/clips{suffix}"))
    (tmp_path / "before").rename(tmp_path / "after")
    assert read_manifest(tmp_path / f"after/clips{suffix}") == [Clip(tmp_path / "after/1/a.wav", 1.0, "1")]


def test_a_name_that_a_tsv_cannot_hold_is_refused(tmp_path):
    clips = [Clip(tmp_path / "a\tb.wav", 1.0, "")]
    with pytest.raises(
        ValueError, match=r"cannot hold text with tabs or line breaks, a JSONL file can; got 'a\\tb.wav'"
    ):
        write_manifest(clips, tmp_path / "clips.tsv")
    write_manifest(clips, tmp_path / "clips.jsonl")
    assert read_manifest(tmp_path / "clips.jsonl") == clips


def test_another_suffix_is_refused(tmp_path):
    with pytest.raises(ValueError, match=r"suffix of a manifest must be one of .jsonl, .tsv; got '.csv'"):
        read_manifest(tmp_path / "clips.csv")
    with pytest.raises(ValueError, match=r"suffix of a manifest must be one of .jsonl, .tsv; got '.csv'"):
        write_manifest([], tmp_path / "clips.csv")


@pytest.mark.parametrize(
    ("suffix", "text"),
    [
        (".tsv", "path\na.wav\n"),
        (".jsonl", '{"path": "a.wav"}'),
        (".jsonl", '{"path": "a.wav", "duration": "?"}'),
        (".jsonl", f'{{"path": "a.wav", "duration": 1{"0" * 400}, "speaker": [{"[" * 100 + "]" * 100}]}}'),
    ],
)
def test_lengths_may_be_unknown_where_nobody_asks_for_them(write, tmp_path, suffix, text):
    (clip,) = read_manifest(write(suffix, text), timed=False)
    assert math.isnan(clip.seconds)
    assert replace(clip, seconds=0) == Clip(tmp_path / "a.wav", 0)


@pytest.mark.parametrize(
    ("suffix", "text", "message"),
    [
        (".tsv", "a.wav\t2\n", "1: header must name path and duration; got a.wav, 2"),
        (".tsv", "path\tduration\na\t1\nb\n", "3: line must have 2 columns, as the header has; got 1"),
        (".tsv", "path\tduration\n\n\t1\n", "3: path must be the name of a file; got ''"),
        (".tsv", "path\tduration\na\t0:12\n", "2: duration must be a positive number of seconds; got '0:12'"),
        (".tsv", "path\tduration\na\tinf\n", "2: duration must be a positive number of seconds; got 'inf'"),
        (".tsv", "path\tduration\na\t-1\n", "2: duration must be a positive number of seconds; got '-1'"),
        (".jsonl", '{"path": "a"}\n', "1: object must name path and duration; got path"),
        (".jsonl", "{}\n", "1: object must name path and duration; got nothing"),
        (".jsonl", '{"path": "a", "duration": 1}\n{"path"\n', "2: line must be a JSON object; got '{\"path\"'"),
        (".jsonl", "[" * 200_000, f"1: line must be a JSON object; got '{'[' * 60}'"),
        (".jsonl", "[1]\n", "1: line must be a JSON object; got '[1]'"),
        (".jsonl", '{"path": 3, "duration": 1}\n', "1: path must be the name of a file; got 3"),
        (".jsonl", '{"path": "a", "duration": null}', "1: duration must be a positive number of seconds; got None"),
    ],
)
def test_a_bad_line_is_named(write, suffix, text, message):
    path = write(suffix, text)
    with pytest.raises(ValueError, match=rf"^{re.escape(f'{path}:{message}')}$"):
        read_manifest(path)
