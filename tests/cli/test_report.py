import pytest


@pytest.fixture
def training_run(tmp_path):
    """The folder of a run, with two lines in its log."""
    (tmp_path / "tiny").mkdir()
    (tmp_path / "tiny/log.jsonl").write_text('{"step": 1, "loss": 2.0}\n{"step": 2, "loss": 1.0}\n')
    return tmp_path / "tiny"


def names(folder):
    return sorted(path.name for path in folder.iterdir())


def test_the_page_is_written_into_the_run_and_its_path_printed(training_run, run):
    (training_run / "report.html").write_text("an older one")
    result = run("report", training_run)
    assert (result.exit_code, result.stdout) == (0, f"{training_run / 'report.html'}\n")
    assert "<h1>tiny</h1>" in (training_run / "report.html").read_text()
    assert names(training_run) == ["log.jsonl", "report.html"]


def test_the_page_goes_where_it_is_wanted(training_run, run, tmp_path):
    result = run("report", training_run, "-o", tmp_path / "page.html")
    assert (result.exit_code, result.stdout) == (0, f"{tmp_path / 'page.html'}\n")
    assert "<h1>tiny</h1>" in (tmp_path / "page.html").read_text()
    assert names(training_run) == ["log.jsonl"]


def test_no_other_file_is_replaced_unasked(training_run, run, tmp_path):
    (tmp_path / "notes.html").write_text("notes")
    result = run("report", training_run, "-o", tmp_path / "notes.html")
    assert (result.exit_code, result.stdout) == (1, "")
    assert result.stderr.endswith("notes.html: exists already; pass --overwrite to replace it\n")
    assert (tmp_path / "notes.html").read_text() == "notes"
    assert run("report", training_run, "-o", training_run / "log.jsonl", "--overwrite").exit_code == 1
    assert names(training_run) == ["log.jsonl"]


def test_a_folder_without_a_log_is_one_line_on_stderr(tmp_path, run):
    result = run("report", tmp_path)
    assert result.exit_code == 1
    assert result.stderr == f"error: {tmp_path} must hold the log of a training run, log.jsonl; found none\n"
    assert names(tmp_path) == []


@pytest.mark.slow
def test_the_real_command_prints_nothing_else(training_run, run_process):
    result = run_process("report", training_run)
    assert (result.exit_code, result.stdout, result.stderr) == (0, f"{training_run / 'report.html'}\n", "")
