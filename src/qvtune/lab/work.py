"""`work`: train one run of a store, in any process, and record its outcome in the store."""

import contextlib
import shutil
import time
import traceback
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import yaml
from filelock import FileLock, Timeout
from rich.console import Console

from qvtune.errors import DivergedError, Interrupted, QVTuneError
from qvtune.files import write_json
from qvtune.interrupts import comes_of_interruption, stopping_on_signals
from qvtune.lab.cells import Cell
from qvtune.lab.outcome import DIVERGED, FAILED, FINISHED, STOPPED, end_file, read_outcome
from qvtune.lab.store import Store
from qvtune.training.callbacks import Callback
from qvtune.training.config import make_config
from qvtune.training.folder import RunFolder

# Another process is training this run.
BUSY = "busy"
# The process that trained the run is gone; the next call goes on with it.
LOST = "lost"


@dataclass(frozen=True)
class Job:
    """What a process needs to train a run.

    Attributes:
        store: folder of the store.
        name: name of the run.
        config: its configuration in YAML, with absolute paths.
        threads: threads for arithmetic; the process's own number when None.
        retry_before: train the run again if it ended without a result before this time, in seconds since 1970.
        halving: stop the run early if successive halving says so.
    """

    store: str
    name: str
    config: str
    threads: int | None
    retry_before: float
    halving: bool


def make_job(store: Store, cell: Cell, threads: int | None, retry_before: float, halving: bool) -> Job:
    """Pack a cell so that any process can train it."""
    return Job(str(store.path.absolute()), cell.name, cell.config.to_yaml(), threads, retry_before, halving)


def work(job: Job) -> str:
    """Train a run unless it is done or another process has it, and return its status, or BUSY.

    Raises:
        Interrupted: after a signal, when the run's state has been saved.
        RunError: if the store cannot be written.
    """
    folder = Store(Path(job.store)).run_folder(job.name)
    folder.path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(folder.path.with_name(f"{job.name}.lock"))
    try:
        lock.acquire(timeout=0)
    except Timeout:
        return BUSY
    try:
        status = read_outcome(folder, {}).status
        if status == FINISHED or (_has_ended(folder) and end_file(folder).stat().st_mtime >= job.retry_before):
            return status
        end_file(folder).unlink(missing_ok=True)
        return _train(job, folder)
    finally:
        lock.release()


def work_elsewhere(job: Job) -> str:
    """Do the same in a separate process, and silence the libraries' bars and messages, which nobody would see."""
    from qvtune.training.quiet import quiet_libraries

    quiet_libraries()
    return work(job)


def _has_ended(folder: RunFolder) -> bool:
    return end_file(folder).is_file()


def _train(job: Job, folder: RunFolder) -> str:
    import torch

    from qvtune.training.run import run

    if job.threads is not None:
        torch.set_num_threads(job.threads)
    config = make_config(yaml.safe_load(job.config) | {"out": folder.path})
    callbacks: list[Callback] = []
    if job.halving:
        from qvtune.lab.halving import Halving

        callbacks.append(Halving(Path(job.store), job.name, config))
    started = time.perf_counter()
    try:
        with stopping_on_signals(Console(quiet=True)) as stop:
            run(config, Console(quiet=True), callbacks=callbacks, stop=stop)
    except Interrupted:
        raise
    except DivergedError as error:
        return _end(folder, DIVERGED, str(error), started)
    except QVTuneError as error:
        # Raised by our own callback, which knows more than the text.
        return _end(folder, getattr(error, "status", FAILED), str(error), started, **getattr(error, "known", {}))
    except Exception as error:
        if comes_of_interruption(error):
            raise KeyboardInterrupt from error
        # Whatever the error is, the other runs go on; the traceback is saved for later inspection.
        reason = f"{type(error).__name__}: {str(error).splitlines()[0] if str(error) else 'no message'}"
        return _end(folder, FAILED, reason, started, traceback=traceback.format_exc())
    _drop_checkpoints(folder)
    return FINISHED


def _end(folder: RunFolder, status: str, reason: str, started: float, **known: Any) -> str:
    seconds = {"seconds": round(time.perf_counter() - started, 3)}
    write_json(end_file(folder), {"status": status, "reason": reason} | seconds | known)
    if status == STOPPED:
        _drop_checkpoints(folder)
    return status


def _drop_checkpoints(folder: RunFolder) -> None:
    """Remove checkpoints, which a finished run no longer needs: hundreds of runs would fill a disk."""
    with contextlib.suppress(FileNotFoundError):
        shutil.rmtree(folder.checkpoints)
