"""`run`: one configuration becomes one run folder."""

import json
from collections.abc import Callable, Sequence
from typing import Any

from rich.console import Console

from qvtune.adapters import loads_in_peft
from qvtune.files import write_json, write_text
from qvtune.interrupts import Stop
from qvtune.tasks.files import file_digests
from qvtune.training.callbacks import Callback, Draw, Watchers, check_callbacks
from qvtune.training.card import adapter_card, model_card
from qvtune.training.checkpoint import Checkpoints
from qvtune.training.conclusion import conclude
from qvtune.training.config import TrainConfig
from qvtune.training.environment import describe_environment, is_main_process, reset_peak_memory
from qvtune.training.fit import Fitted, fit
from qvtune.training.folder import RunFolder
from qvtune.training.prepare import Prepared, prepare
from qvtune.training.processes import check_unsharded
from qvtune.training.saving import describe_result, save_trained
from qvtune.training.timetable import count_passes


def run(
    config: TrainConfig,
    console: Console | None = None,
    on_prepared: Callable[[Prepared], None] | None = None,
    callbacks: Sequence[Callback] = (),
    stop: Stop | None = None,
    draw: Draw | None = None,
) -> dict[str, Any]:
    """Train as `config` says and return the contents of `result.json`.

    A killed run goes on from its last checkpoint. For a finished run the stored result is returned. Nothing is written
    before model and data are loaded and checked.

    Args:
        config: every option.
        console: where progress goes; standard error when None.
        on_prepared: called once before the first step, with what will train.
        callbacks: watch the training; an exception from one ends the run.
        stop: asks the run to save and stop after the current step.
        draw: draws the run at its end, for trackers that take pictures; they get none when None.

    Raises:
        QVTuneError: for anything wrong with options, data, model or folder; DivergedError if the loss stops being
            finite; Interrupted after `stop` was asked for, when the state has been saved.
    """
    console = console or Console(stderr=True)
    check_unsharded()
    check_callbacks(callbacks)
    folder = RunFolder(config.out)
    folder.claim(config)
    if folder.is_finished:
        console.out(f"{folder.path} holds this run already, finished.", highlight=False)
        result = folder.read_result()
        for text in result.get("warnings", []):
            console.out(text, highlight=False)
        return result
    Checkpoints(folder.checkpoints).newest()  # refused before model and data are read, which takes a while
    reset_peak_memory()
    watchers = Watchers(console, callbacks, stop or Stop(), draw)
    prepared = prepare(config, console)
    if on_prepared is not None:
        on_prepared(prepared)
    if not is_main_process():
        return describe_result(config, prepared, fit(config, prepared, folder, watchers))
    with folder.locked():
        folder.claim(config)
        folder.compare_task(prepared.data.task.to_dict())
        folder.remove_unfinished()
        _start_folder(folder, config, prepared)
        fitted = fit(config, prepared, folder, watchers)
        return _end_folder(folder, config, prepared, fitted, console)


def _start_folder(folder: RunFolder, config: TrainConfig, prepared: Prepared) -> None:
    """Write what the run sets out to do."""
    write_text(folder.config, config.to_yaml())
    write_json(folder.environment, describe_environment(prepared.device) | {"seed": config.seed})
    write_json(
        folder.plan,
        prepared.plan.to_dict()
        | {
            "task": prepared.data.task.to_dict(),
            "head_start": prepared.head_start.to_dict(),
            "epochs": count_passes(config, len(prepared.train)),
            "notes": prepared.notes,
            "files": file_digests(config),
        },
    )


def _end_folder(
    folder: RunFolder, config: TrainConfig, prepared: Prepared, fitted: Fitted, console: Console
) -> dict[str, Any]:
    """Write the results of the run, `result.json` last, and return it."""
    result = describe_result(config, prepared, fitted)
    records = fitted.progress.records
    found = conclude(config, prepared.data, fitted.evaluation, records, result.get("head_start"))
    result |= found.to_result()
    rates, is_plain = prepared.plan.learning_rates, loads_in_peft(prepared.model)
    about = (config, fitted.evaluation.task, rates, result["metrics"])
    card = adapter_card(*about, is_plain) if config.saves_adapter else model_card(*about)
    saved = save_trained(prepared.model, prepared.data.task, prepared.tokenizer, folder, card)
    result["saved_bytes"] = sum(file.stat().st_size for file in saved.glob("*.safetensors"))
    write_text(folder.mistakes, "".join(json.dumps(row, ensure_ascii=False) + "\n" for row in found.mistakes))
    for text in found.verdict.values():
        console.out(text, highlight=False)
    write_json(folder.result, result)
    return result
