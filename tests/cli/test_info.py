import json

import pytest

from codec import Codec
from codec.bitstream import read_stream

INFO = """
import sys
from codec.cli.main import app
app(["info", *sys.argv[1:]], standalone_mode=False)
sys.exit("torch was imported" if "torch" in sys.modules else 0)
"""


def test_files_are_shown_one_below_the_other(code_file, run):
    result = run("info", code_file, code_file)
    assert (result.exit_code, result.stderr) == (0, "")
    first, second = result.stdout.split("\n\n")
    assert first + "\n" == second
    for shown in ("tiny_1", "16000 Hz", "8000 samples", "0.500 s", f"{code_file.stat().st_size} bytes"):
        assert shown in first


def test_json_is_an_object_a_line(code_file, model_folder, run):
    result = run("info", "--json", code_file, model_folder)
    assert (result.exit_code, result.stderr) == (0, "")
    file, model = map(json.loads, result.stdout.splitlines())
    assert (file["file"], file["length"], file["problems"]) == (str(code_file), 8_000, [])
    assert file["fingerprint"] == model["fingerprint"] == Codec.from_pretrained(model_folder).fingerprint()


@pytest.mark.parametrize("options", [[], ["--json"], ["--verify"]])
def test_a_file_needs_neither_model_nor_torch(code_file, start_python, options):
    process = start_python("-c", INFO, code_file, *options)
    _, stderr = process.communicate(timeout=300)
    assert process.returncode == 0, stderr


def test_a_model_is_shown_by_its_name(run):
    result = run("info", "speech_16khz")
    assert (result.exit_code, result.stderr) == (0, "")
    for shown in ("speech_16khz (", "16000 Hz", "50 frames/s", "60 ms", "20 of 1024 codes", "500 1000 1500", "8507232"):
        assert shown in result.stdout


def test_verify_counts_what_is_whole(code_file, run):
    result = run("info", "--verify", code_file)
    assert (result.exit_code, result.output) == (0, f"{code_file}: 1 chunks, 25 frames, 0 problems\n")
    result = run("info", "--verify", "--json", code_file)
    assert json.loads(result.stdout) == {"file": str(code_file), "chunks": 1, "frames": 25, "problems": []}


@pytest.mark.parametrize("options", [[], ["--verify"]])
def test_the_name_of_a_file_is_one_line(code_file, run, options):
    path = code_file.rename(code_file.with_name("a\nb.rvq"))
    result = run("info", *options, path)
    assert result.exit_code == 0
    assert str(path).replace("\n", "?") in result.stdout


@pytest.mark.parametrize("options", [[], ["--verify"]])
def test_all_damage_is_listed_without_a_model(code_file, run, options):
    whole = code_file.read_bytes()
    for position in range(len(whole)):
        damaged = bytearray(whole)
        damaged[position] ^= 1
        code_file.write_bytes(damaged)
        result = run("info", *options, code_file)
        assert result.exit_code == 1
        assert result.stderr
        assert all(line.startswith(f"error: {code_file}: ") for line in result.stderr.splitlines())


def test_what_cannot_be_read_does_not_stop_the_others(code_file, tmp_path, run):
    (tmp_path / "text.rvq").write_text("no codes")
    result = run("info", tmp_path / "missing.rvq", tmp_path / "text.rvq", "no_such_model", "--json", code_file)
    assert (result.exit_code, result.stdout.count("\n")) == (1, 1)
    missing, text, model = result.stderr.splitlines()
    assert missing == f"error: {tmp_path / 'missing.rvq'}: No such file or directory"
    assert text.startswith(f"error: {tmp_path / 'text.rvq'}: byte 0: not a file of codes")
    assert model.startswith(
        "error: no_such_model: neither a file nor a model that can be loaded: model must be a folder"
    )
    assert json.loads(result.stdout)["length"] == read_stream(code_file.read_bytes()).header.length
