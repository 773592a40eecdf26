import re

import pytest

from codec.bitstream import read_header, read_stream
from codec.cli.code_file import open_code_file
from codec.cli.errors import CommandError


def test_a_file_is_opened_for_reading(code_file):
    with open_code_file(code_file) as file:
        assert read_stream(file.read()).header.length == 8_000
    assert file.closed


def test_standard_input_is_opened_and_stays_open(code_file, start_python):
    read = "from codec.cli.code_file import open_code_file\nwith open_code_file(None) as file: print(file.read(4))\n"
    with code_file.open("rb") as stdin:
        process = start_python("-c", read + "import os; os.fstat(0)", stdin=stdin)
        assert process.communicate(timeout=300) == ("b'RVQC'\n", "")


@pytest.mark.parametrize(("name", "message"), [("missing.rvq", "No such file or directory"), ("", "Is a directory")])
def test_a_file_that_cannot_be_opened_is_an_error(tmp_path, name, message):
    path = tmp_path / name
    with pytest.raises(CommandError, match=f"^{re.escape(f'{path}: {message}')}$"), open_code_file(path):
        pytest.fail("the block must not run")


def test_what_is_wrong_with_the_bytes_names_the_file(tmp_path):
    path = tmp_path / "text.rvq"
    path.write_text("This is no file of codes.")
    message = f"^{re.escape(str(path))}: byte 0: not a file of codes"
    with pytest.raises(CommandError, match=message), open_code_file(path) as file:
        read_header(file.read())
