import logging

import pytest

from codec.cli.log import Level, log, messages, printable


@pytest.mark.parametrize(("level", "said"), [(Level.DEBUG, 4), (Level.INFO, 3), (Level.WARNING, 2), (Level.ERROR, 1)])
def test_a_level_says_itself_and_what_is_more_severe(capsys, level, said):
    with messages(level):
        for method, text in ((log.debug, "a"), (log.info, "b"), (log.warning, "c"), (log.error, "d")):
            method(text)
    assert capsys.readouterr() == ("", "".join(["a\n", "b\n", "warning: c\n", "error: d\n"][-said:]))


def test_a_message_is_one_line_of_printable_letters(capsys):
    with messages(Level.INFO):
        log.info("%s", "a\nb\x1b[31m.wav")
    assert capsys.readouterr().err == "a?b?[31m.wav\n"
    assert printable("é 語.wav\u2028") == "é 語.wav?"


def test_the_logger_is_put_back():
    before = list(log.handlers), log.level, log.propagate
    with messages(Level.DEBUG):
        assert log.isEnabledFor(logging.DEBUG)
    assert (log.handlers, log.level, log.propagate) == before
