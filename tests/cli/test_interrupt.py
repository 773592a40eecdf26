import os
import signal
import threading

import pytest

from codec.cli.interrupt import Interrupted, interruptible


@pytest.fixture(autouse=True)
def _handlers():
    """As a terminal has them; and as they were, in the end."""
    before = {number: signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)}
    signal.signal(signal.SIGINT, signal.default_int_handler)
    yield
    for number, handler in before.items():
        signal.signal(number, handler)


@pytest.mark.parametrize(
    ("number", "word"),
    [(signal.SIGINT, "interrupted"), (signal.SIGTERM, "terminated"), (signal.SIGHUP, "hung up")],
)
def test_a_signal_is_raised_with_its_name(number, word):
    with pytest.raises(Interrupted) as info, interruptible():
        os.kill(os.getpid(), number)
        pytest.fail("interrupted before")
    assert (info.value.number, str(info.value)) == (number, word)
    info.value.detail = "2 of 3 files done"
    assert str(info.value) == f"{word}: 2 of 3 files done"


def test_a_second_signal_does_not_interrupt_what_the_first_one_ends():
    cleaned_up = []
    with pytest.raises(Interrupted), interruptible():
        try:
            os.kill(os.getpid(), signal.SIGINT)
        finally:
            os.kill(os.getpid(), signal.SIGINT)
            os.kill(os.getpid(), signal.SIGTERM)
            cleaned_up.append(True)
    assert cleaned_up


def test_a_signal_that_was_ignored_stays_so():
    signal.signal(signal.SIGHUP, signal.SIG_IGN)
    with interruptible():
        os.kill(os.getpid(), signal.SIGHUP)


def test_the_handlers_are_put_back():
    before = signal.getsignal(signal.SIGTERM)
    with interruptible():
        assert signal.getsignal(signal.SIGTERM) != before
    assert signal.getsignal(signal.SIGTERM) == before


def test_does_nothing_outside_of_the_main_thread():
    seen = []

    def run():
        with interruptible():
            seen.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=run)
    thread.start()
    thread.join()
    assert seen == [signal.getsignal(signal.SIGTERM)]
