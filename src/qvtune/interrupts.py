"""SIGINT and SIGTERM, answered by a handler of ours for a while."""

import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

from rich.console import Console


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


class Stop:
    """Asks a run to save and stop after the step that it is in, once `requested` is true."""

    requested = False


@contextmanager
def stopping_on_signals(console: Console) -> Iterator[Stop]:
    """Give what asks a run to save and stop, which the first SIGINT or SIGTERM does; a second one ends at once.

    Args:
        console: where the user is told.
    """
    asked = Stop()

    def stop(number: int, frame: Any) -> None:
        if asked.requested:
            raise KeyboardInterrupt
        asked.requested = True
        console.out("Saving after this step, then stopping. Once more ends at once.", highlight=False)

    with answering_signals(stop):
        yield asked
