"""The README does what it says: its Python runs, and so do its `codec` commands."""

import re
import shlex
import shutil
from pathlib import Path

import pytest
import soundfile
from typer.testing import CliRunner

from codec.cli.main import app

ROOT = Path(__file__).parent.parent
README = (ROOT / "README.md").read_text(encoding="utf-8")
PYTHON_BLOCKS = re.findall(r"^```python\n(.*?)^```", README, flags=re.MULTILINE | re.DOTALL)
COMMANDS = re.findall(r"^    codec (.*?)(?: +#.*)?$", README, flags=re.MULTILINE)


@pytest.fixture
def _clean_folder(tmp_path, monkeypatch):
    """Relative paths lead to the test data, and what is written stays out of the repository."""
    (tmp_path / "tests").symlink_to(ROOT / "tests")
    monkeypatch.chdir(tmp_path)


@pytest.mark.usefixtures("_clean_folder")
@pytest.mark.parametrize("block", PYTHON_BLOCKS)
def test_the_python_of_the_readme_runs(block):
    exec(compile(block, "README.md", "exec"), {})


@pytest.mark.usefixtures("_clean_folder")
def test_the_commands_of_the_readme_run_one_after_the_other(clips):
    samples, sample_rate = soundfile.read(clips[-1])
    soundfile.write("speech.wav", samples, sample_rate)
    Path("recordings/below").mkdir(parents=True)
    shutil.copy(clips[0], "recordings")
    shutil.copy(clips[1], "recordings/below")
    assert len(COMMANDS) >= 3
    for command in COMMANDS:
        result = CliRunner().invoke(app, shlex.split(command))
        assert result.exit_code == 0, f"codec {command}: {result.output}"
    assert soundfile.info("decoded.wav").frames == len(samples)
    assert len(list(Path("codes").rglob("*.rvq"))) == 2


def test_every_path_that_the_readme_links_to_exists():
    targets = re.findall(r"\]\((?!https?:)([^)#]+)\)", README)
    assert [target for target in targets if not (ROOT / target).exists()] == []
