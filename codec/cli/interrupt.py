"""Ctrl-C, `kill` and a terminal that closes."""

import signal
import threading
from collections.abc import Iterator
from contextlib import contextmanager

SIGNALS = {signal.SIGINT: "interrupted", signal.SIGTERM: "terminated", signal.SIGHUP: "hung up"}


class Interrupted(KeyboardInterrupt):
    """A signal that asks the command to end.

    Attributes:
        number: Of the signal.
        detail: How far the command was; whoever knows it, sets it.
    """

    def __init__(self, number: int):
        super().__init__(number)
        self.number = number
        self.detail = ""

    def __str__(self) -> str:
        word = SIGNALS[signal.Signals(self.number)]
        return f"{word}: {self.detail}" if self.detail else word


@contextmanager
def interruptible() -> Iterator[None]:
    """Let the first signal that asks for an end raise `Interrupted`, and ignore those after it.

    So all that the command has begun is put back, and a second Ctrl-C does not interrupt that.
    """
    if threading.current_thread() is not threading.main_thread():
        yield  # only the main thread may set handlers
        return
    # A signal that is ignored stays so: `nohup codec ...`, and Ctrl-C for what a shell put in the background.
    before = {number: handler for number in SIGNALS if (handler := signal.getsignal(number)) is not signal.SIG_IGN}

    def interrupt(number: int, frame: object) -> None:
        for each in before:
            signal.signal(each, signal.SIG_IGN)
        raise Interrupted(number)

    try:
        for number in before:
            signal.signal(number, interrupt)
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
