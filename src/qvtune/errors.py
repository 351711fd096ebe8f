"""The errors that a user can cause. Each text says what was found, what was expected and what to do next."""

import difflib
from collections.abc import Iterable


class QVTuneError(Exception):
    """Base of every error that the command line turns into one message and exit code 2."""


class RoleError(QVTuneError, ValueError):
    """The query, key, value or output projections of a model are not what was asked for, or cannot be found."""


class AdaptError(QVTuneError, ValueError):
    """A model cannot be adapted in the way that was asked for."""


class RateError(QVTuneError, ValueError):
    """A learning rate, ratio or parameter group makes no sense."""


class ConfigError(QVTuneError, ValueError):
    """An option is unknown, missing or out of range."""


class DataError(QVTuneError, ValueError):
    """A data set cannot be read or does not fit the task."""


class ModelError(QVTuneError, ValueError):
    """A model or adapter cannot be loaded, or does not fit the data."""


class RunError(QVTuneError, RuntimeError):
    """A run folder is in the way, incomplete, or belongs to another configuration."""


class DivergedError(QVTuneError, FloatingPointError):
    """The loss or a trained parameter is no longer a finite number."""


class OutOfMemoryError(QVTuneError, MemoryError):
    """A computation asked for memory that the system does not have."""


class Interrupted(QVTuneError):
    """Training was stopped by a signal after its state had been saved."""


def nearest(word: str, known: Iterable[str]) -> str:
    """Return " Did you mean 'x'?" for the closest of `known`, or an empty string if none is close."""
    close = difflib.get_close_matches(word.lower(), list(known), n=1, cutoff=0.6)
    return f" Did you mean '{close[0]}'?" if close else ""
