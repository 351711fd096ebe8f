"""Handle SIGINT and SIGTERM for a while."""

import os
import signal
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import Any

from rich.console import Console


def comes_of_interruption(error: BaseException | None) -> bool:
    """Whether a library that calls back into Python turned a KeyboardInterrupt into this error."""
    while error is not None and not isinstance(error, KeyboardInterrupt):
        error = error.__cause__ or error.__context__
    return error is not None


@contextmanager
def answering_signals(answer: Callable[[int, Any], None]) -> Iterator[None]:
    """Let `answer` handle SIGINT and SIGTERM.

    If the process was started to ignore a signal, the signal stays ignored; shells start background jobs of scripts so.
    Outside the main thread signals cannot be caught, and nothing changes.

    Args:
        answer: is called with the signal's number and the interrupted frame.
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
    """Asks a run to save and stop after the current step, once `requested` is true."""

    requested = False


@contextmanager
def stopping_on_signals(console: Console) -> Iterator[Stop]:
    """Give a `Stop` that the first SIGINT or SIGTERM requests; a second signal ends the process at once.

    Args:
        console: where the user is informed.
    """
    asked = Stop()

    def stop(number: int, frame: Any) -> None:
        if asked.requested:
            raise KeyboardInterrupt
        asked.requested = True
        _write(console, "Saving after this step, then stopping. Once more ends at once.\n")

    with answering_signals(stop):
        yield asked


def _write(console: Console, text: str) -> None:
    """Write past the console's buffer, in which the signal may have met a line: it would come out twice."""
    if not console.quiet:
        with suppress(OSError, ValueError):  # of a console that is no file
            os.write(console.file.fileno(), text.encode())
