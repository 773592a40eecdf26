import shutil
from urllib.error import URLError

import pytest

from codec.corpora.corpus import find_clips
from codec.corpora.manifest import read_manifest

HELP = """
import sys
from codec.cli.main import app
app(sys.argv[1:], standalone_mode=False)
slow = {"torch", "torchaudio", "numpy", "soundfile"} & set(sys.modules)
sys.exit(f"imported {slow}" if slow else 0)
"""


@pytest.fixture
def folder(tmp_path, librispeech):
    """Audio of three speakers, and a file that is none."""
    shutil.copytree(librispeech / "train-clean-100", tmp_path / "speech")
    (tmp_path / "speech/bad.flac").write_bytes(b"not audio")
    return tmp_path / "speech"


@pytest.mark.parametrize("arguments", [["data", "--help"], ["data", "manifest", "--help"]])
def test_help_waits_for_no_slow_import(start_python, arguments):
    process = start_python("-c", HELP, *arguments)
    stdout, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr
    assert "manifest" in stdout


def test_splits_that_are_there_are_shown(run, librispeech):
    result = run("data", "librispeech", "--root", librispeech, "--split", "train-clean-100", "--split", "dev-clean")
    assert (result.exit_code, result.stderr) == (0, "")
    assert result.stdout.splitlines() == [
        f"{librispeech / 'train-clean-100'}: 6 clips, 0.0 h, 3 speakers, 0 files skipped",
        f"{librispeech / 'dev-clean'}: 1 clips, 0.0 h, 1 speakers, 0 files skipped",
    ]


def test_files_of_a_split_that_cannot_be_read_are_named(run, folder):
    split = folder.rename(folder.with_name("dev-clean"))
    result = run("data", "librispeech", "--root", split.parent, "--split", "dev-clean")
    assert result.stdout == f"{split}: 6 clips, 0.0 h, 3 speakers, 1 files skipped\n"
    assert result.stderr == f"skipped {split / 'bad.flac'}: not readable as audio (Format not recognised)\n"


def test_a_download_that_fails_is_one_line_on_stderr(run, tmp_path, monkeypatch):
    def fail(url, path, hash_prefix):
        raise URLError("no route to host")

    monkeypatch.setattr("torchaudio.datasets.librispeech.download_url_to_file", fail)
    result = run("data", "librispeech", "--root", tmp_path, "--split", "dev-clean")
    message = f"error: dev-clean of LibriSpeech cannot be downloaded to {tmp_path}: <urlopen error no route to host>\n"
    assert (result.exit_code, result.stdout, result.stderr) == (1, "", message)


def test_an_unknown_split_is_one_line_on_stderr(run, tmp_path):
    result = run("data", "librispeech", "--root", tmp_path, "--split", "train-100")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith("error: split must be one of dev-clean, dev-other, ")


@pytest.mark.parametrize("suffix", [".tsv", ".jsonl"])
def test_a_manifest_lists_what_can_be_trained_on(run, folder, suffix):
    output = folder / f"clips{suffix}"
    result = run("data", "manifest", folder, "-o", output)
    assert result.exit_code == 0
    assert result.stdout == f"{output}: 6 clips, 0.0 h, 3 speakers, 1 files skipped\n"
    assert result.stderr == f"skipped {folder / 'bad.flac'}: not readable as audio (Format not recognised)\n"
    assert read_manifest(output) == find_clips(folder).clips


def test_shorter_files_can_be_left_out(run, folder):
    result = run("data", "manifest", folder, "-o", folder / "clips.tsv", "--min-seconds", 2)
    assert result.exit_code == 1
    assert result.stderr.startswith(f"error: {folder} must list audio of at least 2 s; skipped 7 files, the first ")
    assert not (folder / "clips.tsv").exists()


def test_a_manifest_is_replaced_only_when_asked(run, folder):
    output = folder / "clips.tsv"
    output.write_text("mine")
    result = run("data", "manifest", folder, "-o", output)
    message = f"error: {output}: exists already; pass --overwrite to replace it\n"
    assert (result.exit_code, result.stderr, output.read_text()) == (1, message, "mine")
    assert run("data", "manifest", folder, "-o", output, "--overwrite").exit_code == 0
    assert len(read_manifest(output)) == 6


def test_wrong_arguments_are_one_line_on_stderr(run, folder):
    result = run("data", "manifest", folder, "-o", folder / "clips.csv")
    message = "error: suffix of a manifest must be one of .jsonl, .tsv; got '.csv'; did you mean '.tsv'?\n"
    assert (result.exit_code, result.stderr) == (1, message)
    result = run("data", "manifest", folder / "nowhere", "-o", folder / "clips.tsv")
    assert (result.exit_code, result.stderr.count("\n")) == (1, 1)
    assert result.stderr.startswith(f"error: {folder / 'nowhere'} must be a folder with audio files (")
    assert not list(folder.glob("*clips*"))
