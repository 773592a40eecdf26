import re

import pytest

from codec.bitstream import read_stream
from codec.cli.code_file import read_code_file
from codec.cli.errors import CommandError


def test_reads_a_file(code_file):
    assert read_code_file(code_file).header == read_stream(code_file.read_bytes()).header


def test_errors_name_the_file(tmp_path):
    (tmp_path / "text.rvq").write_text("This is no file of codes.")
    (tmp_path / "empty.rvq").touch()
    for name, message in {
        "missing.rvq": "No such file or directory",
        "": "Is a directory",
        "empty.rvq": "byte 0: truncated: magic number takes 4 bytes, of which 0 are there",
        "text.rvq": "byte 0: not a file of codes: it must start with b'RVQC'; got b'This'",
    }.items():
        path = tmp_path / name
        with pytest.raises(CommandError, match=f"^{re.escape(f'{path}: {message}')}$"):
            read_code_file(path)
