"""Signals end a command with 130 and one line, whatever a library made of them."""

import os
import signal
import subprocess
import sys
import threading

import pytest

from qvtune.interrupts import answering_signals

# What takes a second or two before any command begins: its modules are imported.
IMPORTING = """
import os, signal, sys, time
from qvtune.cli import main as cli

def build_parser():
    os.kill(os.getpid(), int(sys.argv[1]))
    time.sleep(60)

cli.build_parser = build_parser
cli.run_and_exit()
"""
# What a library does that calls back into Python: it makes an error of its own of the interruption.
TRANSLATED = """
import os, signal, sys, time
from qvtune.cli import main as cli

def command():
    try:
        os.kill(os.getpid(), int(sys.argv[1]))
        time.sleep(60)
    except KeyboardInterrupt as error:
        raise ValueError("of a library") from error

cli.main = command
cli.run_and_exit()
"""


@pytest.mark.parametrize("script", [TRANSLATED, IMPORTING], ids=["translated", "importing"])
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_is_the_interruption_wherever_it_comes(number: int, script: str) -> None:
    words = [sys.executable, "-c", script, str(int(number))]
    done = subprocess.run(words, capture_output=True, text=True, timeout=60, check=False)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", "interrupted.\n")


def test_a_signal_is_answered_and_the_handlers_come_back() -> None:
    before = [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)]
    seen = []
    with answering_signals(lambda number, frame: seen.append(number)):
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)
    assert seen == [signal.SIGTERM, signal.SIGINT]
    assert [signal.getsignal(number) for number in (signal.SIGINT, signal.SIGTERM)] == before


def test_an_ignored_signal_stays_ignored() -> None:
    before = signal.signal(signal.SIGINT, signal.SIG_IGN)
    seen = []
    try:
        with answering_signals(lambda number, frame: seen.append(number)):
            os.kill(os.getpid(), signal.SIGINT)
            assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
        assert signal.getsignal(signal.SIGINT) == signal.SIG_IGN
    finally:
        signal.signal(signal.SIGINT, before)
    assert seen == []


def test_outside_the_main_thread_nothing_changes() -> None:
    before = signal.getsignal(signal.SIGTERM)
    during = []

    def work() -> None:
        with answering_signals(lambda number, frame: None):
            during.append(signal.getsignal(signal.SIGTERM))

    thread = threading.Thread(target=work)
    thread.start()
    thread.join()
    assert during == [before] == [signal.getsignal(signal.SIGTERM)]
