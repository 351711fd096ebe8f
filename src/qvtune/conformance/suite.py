"""`check_conformance`: the whole suite, here or in two processes that it starts."""

import importlib.metadata
import importlib.util
from collections.abc import Sequence

from qvtune.conformance.checks import CHECKS, Trial, run_checks
from qvtune.conformance.group import is_launched, joined, shared_folder, total
from qvtune.conformance.launch import run_apart
from qvtune.conformance.report import FAILED, NOT_RUN, PASSED, Cell, Report
from qvtune.conformance.session import Share
from qvtune.conformance.ways import ALL, WAYS, Way, find_wrapper, parse_ways


def check_conformance(
    ways: str | Sequence[str] | None = None, *, wrapper: str | None = None, device: str = "auto"
) -> Report:
    """Check that groups, rates and adapters survive data parallel and sharding.

    In a process that torchrun or `accelerate launch` started, every process calls this. Any other starts two processes
    on the CPU.

    Args:
        ways: of "ddp", "fsdp2", "zero1", "zero2", "zero3", as names or as text with commas; all when None, or none
            beside a `wrapper`.
        wrapper: MODULE:FUNCTION of a wrapping function of one's own, `wrap(model, setup) -> (model, optimizer)`. Its
            optimizer has to be AdamW with torch's defaults over `setup.groups(model)`.
        device: "auto", or "cpu" also where there are accelerators.

    Returns:
        The `Report`; `print` shows its table, and `failed` has what failed.

    Raises:
        ConfigError: for an unknown way, or a wrapper that is not found.
        RunError: if the processes ended without a report.
    """
    chosen = choose(ways, wrapper)
    if not is_launched():
        return run_apart(ways=",".join(chosen), wrapper=wrapper)
    return check_here(find_ways(chosen, wrapper), device)


def choose(ways: str | Sequence[str] | None, wrapper: str | None) -> list[str]:
    """Return the names of the ways.

    Raises:
        ConfigError: as from `parse_ways` and `find_wrapper`.
    """
    if wrapper is not None:
        find_wrapper(wrapper)
    if ways is None:
        return [] if wrapper is not None else parse_ways(ALL)
    return parse_ways(ways if isinstance(ways, str) else ",".join(ways))


def find_ways(names: Sequence[str], wrapper: str | None) -> list[Way]:
    """Return the ways by name, and the user's own."""
    own = [] if wrapper is None else [find_wrapper(wrapper)]
    return [WAYS[name] for name in names] + own


def check_here(ways: Sequence[Way], device: str = "auto") -> Report:
    """Run the checks with the processes that were launched with this one, or in this process alone."""
    with joined(device) as share:
        cells = [cell for way in ways for cell in _check_way(way, share)]
        return Report(tuple(cells), share.world, share.device.type, _versions())


def _check_way(way: Way, share: Share) -> list[Cell]:
    obstacle = way.obstacle()
    if obstacle is not None:
        return [Cell(name, way.title, NOT_RUN, obstacle) for name in CHECKS]
    cells = []
    with shared_folder(share) as folder:
        for name, problem, detail in run_checks(Trial(way.wrap, share, folder)):
            elsewhere = total([float(problem is not None)], share)[0] and problem is None
            if elsewhere:
                problem = "another process failed; its output may say more"
            status = PASSED if problem is None else FAILED
            cells.append(Cell(name, way.title, status, detail if problem is None else problem))
    return cells


def _versions() -> dict[str, str]:
    names = [name for name in ("torch", "transformers", "peft", "deepspeed") if importlib.util.find_spec(name)]
    return {name: importlib.metadata.version(name) for name in names}
