"""Commands of qvtune in processes of their own that start at once: forked from a server that has imported everything.

They do what `python -m qvtune` does, but for its seconds of imports. Some tests start that itself.
"""

import multiprocessing
import os
import signal
import sys
import tempfile
from collections.abc import Callable, Mapping
from pathlib import Path


class Forked:
    """A command that runs; used as `subprocess.Popen` with one stream for output and errors is."""

    def __init__(self, words: list[str], prepare: Callable[[], None] | None = None) -> None:
        context = multiprocessing.get_context("forkserver")
        context.set_forkserver_preload(["qvtune.lab.served", "qvtune.cli.main", "qvtune.lab.sweep"])
        handle, name = tempfile.mkstemp()
        os.close(handle)
        self.output = Path(name)
        self.process = context.Process(target=_run, args=(words, dict(os.environ), name, prepare))
        self.process.start()

    @property
    def returncode(self) -> int | None:
        return self.process.exitcode

    def poll(self) -> int | None:
        return self.process.exitcode

    def kill(self) -> None:
        self.process.kill()

    def send_signal(self, number: int) -> None:
        os.kill(self.process.pid, number)

    def communicate(self, timeout: float | None = None) -> tuple[str, None]:
        """Wait for the end, and return all output."""
        self.process.join(timeout)
        assert self.process.exitcode is not None, "it has not ended"
        text = self.output.read_text(encoding="utf-8")
        self.output.unlink()
        return text, None


def _run(words: list[str], environment: Mapping[str, str], output: str, prepare: Callable[[], None] | None) -> None:
    from qvtune.cli.main import run_and_exit

    os.setsid()
    os.environ.clear()
    os.environ.update(environment)
    signal.signal(signal.SIGINT, signal.default_int_handler)
    target = os.open(output, os.O_WRONLY | os.O_APPEND)
    os.dup2(target, 1)
    os.dup2(target, 2)
    sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
    sys.argv = ["qvtune", *words]
    if prepare is not None:
        prepare()
    run_and_exit()
