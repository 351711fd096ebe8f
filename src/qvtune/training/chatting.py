"""`chat`: what a run's model says."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from qvtune.errors import RunError
from qvtune.training.inference import TrainedRun, load_run

Messages = str | Sequence[Mapping[str, Any]]


def chat(run: TrainedRun | str | Path, messages: Messages, *, max_new_tokens: int | None = None) -> str:
    """Return what the model of a run that writes says to a message, or to a conversation so far.

    The likeliest token is taken each time. A run on raw prompts and completions goes on from the last message.

    Args:
        run: what `load_run` returned, or a run folder.
        messages: what the user says; or a list of `{"role": ..., "content": ...}` with the roles system, user and
            assistant.
        max_new_tokens: most tokens of the answer; as in the run when None.

    Raises:
        RunError: if the run is on another kind of task, or there is no finished run.
        DataError: if the messages have other roles, or the chat template refuses them.
    """
    run = run if isinstance(run, TrainedRun) else load_run(run)
    if not run.task.writes:
        raise RunError(
            f"{run.folder.path}: the run was trained on {run.task.noun}, so its model writes no texts. Give a run on "
            "conversations or completions."
        )
    given = [{"role": "user", "content": messages}] if isinstance(messages, str) else messages
    return run.task.reply(run.model, run.tokenizer, given, max_new_tokens)
