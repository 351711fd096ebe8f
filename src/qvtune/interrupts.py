"""SIGINT and SIGTERM, answered by a handler of ours for a while."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any


def comes_of_interruption(error: BaseException | None) -> bool:
    """Whether an error was made of a KeyboardInterrupt by a library that called back into Python."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


@contextmanager
def answering_signals(answer: Callable[[int, Any], None]) -> Iterator[None]:
    """Let `answer` have SIGINT and SIGTERM.

    A signal that the process was started to ignore, as a shell starts what a script puts into the background, stays
    ignored; and outside the main thread, where signals cannot be caught, nothing changes.

    Args:
        answer: is called with the signal's number and the frame that it met.
    """
    before: dict[signal.Signals, Any] = {}
    try:
        for number in (signal.SIGINT, signal.SIGTERM):
            if signal.getsignal(number) != signal.SIG_IGN:
                before[number] = signal.signal(number, answer)
    except ValueError:
        pass  # not in the main thread
    try:
        yield
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
