"""`Store`: a folder of runs, each named by the hash of its configuration."""

import importlib.metadata
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from filelock import FileLock
from pydantic import ConfigDict
from typing_extensions import TypedDict

from qvtune.errors import RunError
from qvtune.files import remove_leftovers, write_json, writing
from qvtune.lab.outcome import Outcome, read_outcome
from qvtune.stored import read_stored
from qvtune.training.config import TrainConfig
from qvtune.training.folder import LOCK, RunFolder, check_free

MANIFEST = "store.json"
# To be increased when stores of the next version cannot be read like those of this one.
FORMAT = 1

VERSION = importlib.metadata.version("qvtune")

# Options that state in another way what a different option states; a run has a value for them even if they are not
# given.
DERIVED = ("value_lr", "batch_tokens")

SWEEP, COMPARISON, REPRODUCTION = "sweep", "comparison", "reproduction"
# What to do if a manifest is damaged.
AGAIN = "Put it back from a copy, or start anew in another --out."


class StoredVersion(TypedDict):
    """What `store.json` says about itself, in every format."""

    __pydantic_config__ = ConfigDict(extra="allow")  # type: ignore[misc]
    format: int
    qvtune: str


class StoredManifest(StoredVersion):
    """What `store.json` holds in this format."""

    options: list[str]
    kind: Literal["sweep", "comparison", "reproduction"]
    given: dict[str, Any]
    details: dict[str, Any]
    labels: dict[str, dict[str, Any]]


@dataclass(frozen=True)
class Store:
    """The files of many runs: `store.json` says which, and `runs/NAME/` is the run folder of each.

    Several processes may add runs to one store and train them at the same time. The manifest is merged under a lock.
    Each run has its own lock, and the process that holds it trains the run.
    """

    path: Path

    manifest = property(lambda self: self.path / MANIFEST)
    results = property(lambda self: self.path / "results.csv")
    report = property(lambda self: self.path / "report.html")

    @property
    def is_store(self) -> bool:
        """Whether there is a store here."""
        return self.manifest.is_file()

    def run_folder(self, name: str) -> RunFolder:
        """Return the folder of a run, which may not exist."""
        return RunFolder(self.path / "runs" / name)

    def read(self) -> dict[str, Any]:
        """Return the manifest: `kind`, `labels` by run, `given` options, and `details` for the kind.

        Raises:
            RunError: if there is none, it is damaged, or it has the format of another version of qvtune.
        """
        if not self.is_store:
            raise RunError(
                f"{self.path}: is no folder of a sweep or a comparison; it has no {MANIFEST}. Give the --out of one."
            )
        written = read_stored(self.manifest, StoredVersion, AGAIN)
        if written["format"] != FORMAT:
            raise RunError(
                f"{self.path}: was written by qvtune {written['qvtune']} in format {written['format']}, and this is "
                f"{VERSION} with format {FORMAT}. Use that version, or start anew in another --out."
            )
        return read_stored(self.manifest, StoredManifest, AGAIN)

    def outcomes(self) -> list[Outcome]:
        """Return the outcome of every run, in the order in which the runs were added."""
        return [read_outcome(self.run_folder(name), labels) for name, labels in self.read()["labels"].items()]

    def add(
        self, kind: str, runs: Mapping[str, dict[str, Any]], given: Mapping[str, Any], details: Mapping[str, Any]
    ) -> None:
        """Add runs to the store; create it if there is none.

        Args:
            kind: SWEEP, COMPARISON or REPRODUCTION.
            runs: labels by the name of the run.
            given: options that the user gave for all runs, with their resolved values.
            details: what else a report of this kind needs; replaces earlier details.

        Raises:
            RunError: if nothing can be written, if the folder holds something else or a store of another kind or
                version, or if its runs share other options.
        """
        check_free(self.path, MANIFEST, "sweep")
        with writing(self.path):
            self.path.mkdir(parents=True, exist_ok=True)
            with FileLock(self.path / LOCK):
                remove_leftovers(self.manifest)
                before = self._before(kind)
                labels = _merged(self.path, before, runs, given)
                _check_given(self.path, before["given"], given, labels)
                varied = {name for run in labels.values() for name in run}
                shared = {name: value for name, value in (before["given"] | given).items() if name not in varied}
                write_json(
                    self.manifest,
                    {
                        "format": FORMAT,
                        "qvtune": VERSION,
                        "options": sorted(TrainConfig.model_fields),
                        "kind": kind,
                        "given": shared,
                        "details": dict(details),
                        "labels": labels,
                    },
                )

    def _before(self, kind: str) -> dict[str, Any]:
        if not self.is_store:
            return {"labels": {}, "given": {}}
        before = self.read()
        if before["kind"] != kind:
            raise RunError(f"{self.path}: holds a {before['kind']}, and this is a {kind}. Give another --out.")
        if unknown := sorted(set(before["options"]) - set(TrainConfig.model_fields)):
            raise RunError(
                f"{self.path}: was written by qvtune {before['qvtune']}, which has options that {VERSION} lacks: "
                f"{', '.join(unknown)}. Use that version, or give another --out; 'qvtune report' and 'qvtune runs' "
                "still read it."
            )
        return before


def _merged(
    path: Path, before: Mapping[str, Any], runs: Mapping[str, dict[str, Any]], given: Mapping[str, Any]
) -> dict[str, dict[str, Any]]:
    """Return the labels of all runs; an option that was fixed for some runs becomes a label that distinguishes them.

    Raises:
        RunError: if runs lack an option that distinguishes the others, and it has no default.
    """
    merged = {name: dict(labels) for name, labels in before["labels"].items()}
    names = list(dict.fromkeys(name for labels in (*merged.values(), *runs.values()) for name in labels))
    for labels in merged.values():
        labels |= {name: _shared(name, before["given"]) for name in names if name not in labels}
    for run, labels in runs.items():
        unsaid = next((name for name in DERIVED if name in names and name not in labels and name not in given), None)
        if unsaid is not None and run not in merged:
            raise RunError(f"{path}: its runs differ in {unsaid}, which these leave open. Give --axis {unsaid}=VALUE.")
        merged[run] = {name: labels.get(name, _shared(name, given)) for name in names}
    return merged


def _shared(option: str, given: Mapping[str, Any]) -> Any:
    field = TrainConfig.model_fields.get(option)
    return given.get(option, None if field is None else field.default)


def _check_given(path: Path, before: Mapping[str, Any], given: Mapping[str, Any], labels: dict[str, Any]) -> None:
    varied = {name for run in labels.values() for name in run}
    for name in sorted({*before, *given} - varied) if before else []:
        default = TrainConfig.model_fields[name].default
        old, new = before.get(name, default), given.get(name, default)
        if old != new:
            raise RunError(
                f"{path}: holds runs with other {name} ({old} there, {new} here). Give another --out, or vary it: "
                f"--axis {name}={old},{new}"
            )
