"""Executors run jobs and yield the status of each: in this process, in local processes, on Ray, or on Slurm."""

import logging
import multiprocessing
import os
import signal
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import FIRST_COMPLETED, CancelledError, Future, wait
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from qvtune.errors import ConfigError, Interrupted
from qvtune.interrupts import answering_signals
from qvtune.lab.execution import Execution
from qvtune.lab.work import LOST, Job, work, work_elsewhere

# Seconds between two checks of jobs elsewhere.
POLL_SECONDS = 0.5
# The modules that a worker needs, imported once for all workers.
SERVED = "qvtune.lab.served"

Executor = Callable[[Sequence[Job], Execution], Iterator[tuple[str, str]]]


def run_local(jobs: Sequence[Job], execution: Execution) -> Iterator[tuple[str, str]]:
    """Train one job after another in this process, and yield the name and status of each."""
    for job in jobs:
        yield job.name, work(job)


def run_workers(jobs: Sequence[Job], execution: Execution) -> Iterator[tuple[str, str]]:
    """Train each job in its own process on this machine, so that one that dies does not stop the others.

    The processes are forked from a server that has only imported the libraries, so that they start at once. Each
    process imports the libraries itself if the system cannot fork, or if there is an accelerator: libraries look for
    one on import, and after that CUDA does not work in a forked process.
    """
    import torch
    from pebble import ProcessExpired, ProcessPool

    forks = hasattr(os, "fork") and not torch.accelerator.is_available()
    context: Any = multiprocessing.get_context("forkserver" if forks else "spawn")
    if forks:
        context.set_forkserver_preload([SERVED])
    # In their own session they do not get the terminal's Ctrl-C; they get SIGTERM from here, once.
    with ProcessPool(execution.workers, max_tasks=1, context=context, initializer=os.setsid) as pool:
        names: dict[Future[str], str] = {pool.schedule(work_elsewhere, args=[job]): job.name for job in jobs}
        with _stopping_workers(names) as stopped:
            pending = set(names)
            while pending:
                done, pending = wait(pending, timeout=POLL_SECONDS, return_when=FIRST_COMPLETED)
                for future in done:
                    try:
                        yield names[future], future.result()
                    except ProcessExpired:
                        yield names[future], LOST
                    except (Interrupted, CancelledError):
                        assert stopped
            pool.close()  # the workers end when they have no more work
        if stopped:
            raise Interrupted("stopped; every run that was in work is saved. Give the same command again to go on.")


def run_ray(jobs: Sequence[Job], execution: Execution) -> Iterator[tuple[str, str]]:
    """Train jobs as tasks of the Ray cluster that RAY_ADDRESS names, or of one that runs only for this call.

    Raises:
        ConfigError: if Ray is not installed, or the cluster cannot be reached.
    """
    ray = _optional("ray", "ray")
    os.environ.setdefault("RAY_USAGE_STATS_ENABLED", "0")
    here = "RAY_ADDRESS" not in os.environ
    try:
        ray.init(
            num_cpus=max(execution.workers, os.cpu_count() or 1) if here else None,
            include_dashboard=False if here else None,
            log_to_driver=False,
            logging_level=logging.ERROR,
            ignore_reinit_error=True,
        )
    except Exception as error:  # Ray may raise any error of its parts
        raise ConfigError(f"--executor ray: no cluster: {str(error).splitlines()[0]} Check RAY_ADDRESS.") from error
    try:
        yield from _ray_tasks(ray, jobs, execution)
    finally:
        if here:
            ray.shutdown()


def _ray_tasks(ray: Any, jobs: Sequence[Job], execution: Execution) -> Iterator[tuple[str, str]]:
    gpus = 1 if ray.cluster_resources().get("GPU") else 0
    task = ray.remote(num_cpus=1, num_gpus=gpus, max_retries=0, max_calls=0)(work_elsewhere)
    waiting = list(jobs)
    running: dict[Any, str] = {}
    try:
        while waiting or running:
            while waiting and len(running) < execution.workers:
                job = waiting.pop(0)
                running[task.remote(job)] = job.name
            done, _ = ray.wait(list(running), num_returns=1, timeout=POLL_SECONDS)
            for reference in done:
                name = running.pop(reference)
                try:
                    yield name, ray.get(reference)
                except ray.exceptions.RayTaskError:
                    raise
                except ray.exceptions.RayError:  # its process or machine is gone
                    yield name, LOST
    except KeyboardInterrupt:
        for reference in running:
            ray.cancel(reference)  # sends the task SIGINT, on which it saves
        ray.wait(list(running), num_returns=len(running), timeout=60) if running else None
        raise


def run_slurm(jobs: Sequence[Job], execution: Execution) -> Iterator[tuple[str, str]]:
    """Train jobs as an array of a Slurm cluster, `workers` at a time, through submitit.

    Raises:
        ConfigError: if submitit is not installed, there is no Slurm, or it does not know an option.
    """
    submitit = _optional("submitit", "slurm")
    options = dict(_slurm_option(text) for text in execution.slurm)
    cluster = options.pop("cluster", "slurm")
    try:
        executor = submitit.AutoExecutor(folder=Path(jobs[0].store) / "slurm", cluster=cluster)
        if cluster == "slurm":
            options.setdefault("slurm_array_parallelism", execution.workers)
        executor.update_parameters(**options)
        submitted = executor.map_array(work_elsewhere, jobs)
    except (RuntimeError, NameError, ValueError, TypeError, submitit.core.utils.FailedSubmissionError) as error:
        raise ConfigError(f"--executor slurm: {str(error).splitlines()[0]}") from error
    running = dict(zip((job.name for job in jobs), submitted, strict=True))
    try:
        while running:
            for name in [name for name, task in running.items() if task.done()]:
                task = running.pop(name)
                yield name, task.result() if task.exception() is None else LOST
            time.sleep(POLL_SECONDS)
    except KeyboardInterrupt:
        for task in running.values():
            task.cancel(check=False)
        raise


EXECUTORS: dict[str, Executor] = {
    "local": run_local,
    "workers": run_workers,
    "ray": run_ray,
    "slurm": run_slurm,
}


def threads_of(execution: Execution) -> int | None:
    """Return how many threads a run may use: its share of the machine's, or None to leave the number unchanged."""
    if execution.executor != "workers" or "OMP_NUM_THREADS" in os.environ:
        return None
    return max(1, (os.cpu_count() or 1) // execution.workers)


def _slurm_option(text: str) -> tuple[str, Any]:
    name, sign, value = text.partition("=")
    if not sign:
        raise ConfigError(f"--slurm is '{text}'; write OPTION=VALUE, as in --slurm slurm_partition=gpu.")
    return name, int(value) if value.isdecimal() else value


def _optional(module: str, extra: str) -> Any:
    import importlib

    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise ConfigError(
            f"--executor {extra}: {module} is not installed. Install it with: pip install 'qvtune[{extra}]'"
        ) from error


@contextmanager
def _stopping_workers(futures: Iterable[Any]) -> Iterator[list[bool]]:
    """On SIGINT or SIGTERM, start no further job and let the workers save; on a second one, end them at once."""
    stopped: list[bool] = []

    def stop(number: int, frame: Any) -> None:
        kind = signal.SIGKILL if stopped else signal.SIGTERM
        stopped.append(True)
        for future in futures:
            if not future.running():
                future.cancel()
        for process in multiprocessing.active_children():
            if process.pid is not None:
                os.kill(process.pid, kind)

    with answering_signals(stop):
        yield stopped
