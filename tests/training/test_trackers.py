"""Each tracker's stored run, read back by its own reader."""

import io
import json
import struct
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

import pytest
from rich.console import Console
from tiny import save_tiny_bert, write_reviews

from qvtune.report.drawn import draw_run
from qvtune.training.config import make_config
from qvtune.training.pictures import takes_pictures
from qvtune.training.run import run


class Stored(NamedTuple):
    """What a tracker has of a run: every value by name and step, the configuration, and pictures as files by name."""

    values: dict[str, dict[int, float]]
    config: dict[str, Any]
    pictures: dict[str, bytes]


GROUP = "pictures/"


def tensorboard(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Stored]:
    pytest.importorskip("tensorboard")

    def read() -> Stored:
        import yaml
        from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

        (events,) = folder.rglob("events.out.tfevents*")
        found = EventAccumulator(str(events.parent)).Reload()
        values = {n: {e.step: e.value for e in found.Scalars(n)} for n in found.Tags()["scalars"]}
        text = found.Tensors("config/text_summary")[0].tensor_proto.string_val[0].decode()
        pictures = {n.removeprefix(GROUP): found.Images(n)[0].encoded_image_string for n in found.Tags()["images"]}
        return Stored(values, yaml.safe_load(text.strip("`").removeprefix("yaml\n")), pictures)

    return read


def wandb(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Stored]:
    pytest.importorskip("wandb")
    monkeypatch.setenv("WANDB_MODE", "offline")
    monkeypatch.setenv("WANDB_SILENT", "true")

    def read() -> Stored:
        from wandb.proto import wandb_internal_pb2

        (path,) = folder.rglob("run-*.wandb")
        values: dict[str, dict[int, float]] = {}
        config: dict[str, Any] = {}
        pictures: dict[str, bytes] = {}
        for data in leveldb_records(path.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            for item in record.config.update if record.HasField("config") else record.run.config.update:
                config[item.key or item.nested_key[0]] = json.loads(item.value_json)
            row = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            for name, value in row.items():
                if name.startswith(GROUP):
                    if name.endswith("/path"):
                        picture = name.removeprefix(GROUP).removesuffix("/path")
                        pictures[picture] = (path.parent / "files" / value).read_bytes()
                elif not name.startswith("_"):
                    values.setdefault(name, {})[row["_step"]] = value
        return Stored(values, config, pictures)

    return read


def leveldb_records(file: bytes) -> Iterator[bytes]:
    """Yield the records of a log in LevelDB's format, in which W&B writes, after its header of 7 bytes."""
    place, kept, block = 7, b"", 2**15
    while place + 7 <= len(file):
        if block - place % block < 7:  # no room for the start of a part
            place += block - place % block
            continue
        length, kind = struct.unpack_from("<HB", file, place + 4)
        kept += file[place + 7 : place + 7 + length]
        place += 7 + length
        if kind in (1, 4):  # whole, or the last part
            yield kept
            kept = b""


def mlflow(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Stored]:
    pytest.importorskip("mlflow")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)

    def read() -> Stored:
        from mlflow import MlflowClient

        (store,) = folder.rglob("trackers/mlflow")
        client = MlflowClient(store.as_uri())
        (experiment,) = client.search_experiments(filter_string="name = 'qvtune'")
        (found,) = client.search_runs([experiment.experiment_id])
        assert found.info.run_name == "run"
        history = {name: client.get_metric_history(found.info.run_id, name) for name in found.data.metrics}
        values = {name: {point.step: point.value for point in points} for name, points in history.items()}
        files = [Path(file.path) for file in client.list_artifacts(found.info.run_id, GROUP.strip("/"))]
        pictures = {
            f.stem: Path(client.download_artifacts(found.info.run_id, f.as_posix())).read_bytes() for f in files
        }
        return Stored(values, dict(found.data.params), pictures)

    return read


def trackio(folder: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[], Stored]:
    pytest.importorskip("trackio")
    from trackio import sqlite_storage, utils
    from trackio.media import media
    from trackio.media import utils as media_utils
    from trackio.sqlite_storage import SQLiteStorage

    for module in (utils, sqlite_storage, media, media_utils):
        monkeypatch.setattr(module, "TRACKIO_DIR", folder / "trackio", raising=False)
        monkeypatch.setattr(module, "MEDIA_DIR", folder / "trackio" / "media", raising=False)
    monkeypatch.setenv("TRACKIO_DIR", str(folder / "trackio"))

    def read() -> Stored:
        values: dict[str, dict[int, float]] = {}
        pictures: dict[str, bytes] = {}
        for row in SQLiteStorage.get_logs("qvtune", "run"):
            for name, value in row.items():
                if name.startswith(GROUP):
                    path = folder / "trackio" / "media" / value["file_path"]
                    pictures[name.removeprefix(GROUP)] = path.read_bytes()
                elif "/" in name:
                    values.setdefault(name, {})[row["step"]] = value
        return Stored(values, SQLiteStorage.get_run_config("qvtune", "run"), pictures)

    return read


@pytest.mark.parametrize("tracker", [tensorboard, wandb, mlflow, trackio])
def test_it_has_every_rate_what_the_roles_did_the_options_and_the_end(
    tracker: Callable[..., Any], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    read = tracker(tmp_path, monkeypatch)
    save_tiny_bert(tmp_path / "bert")
    write_reviews(tmp_path / "reviews.csv", 40)
    settings = {"model": str(tmp_path / "bert"), "data": str(tmp_path / "reviews.csv"), "out": str(tmp_path / "run")}
    settings |= {"max_steps": 4, "logging_steps": 1, "eval_steps": 2, "lr_ratio": 3}
    config = make_config(settings | {"report_to": [tracker.__name__]})
    result = run(config, Console(quiet=True), draw=draw_run)
    stored = read()
    lines = [json.loads(line) for line in (tmp_path / "run" / "metrics.jsonl").read_text().splitlines()]
    for name in ("loss", "lr/query", "lr/value", "lr/head"):
        wanted = {line["step"]: line[name] for line in lines if name in line}
        assert stored.values[f"train/{name}"] == pytest.approx(wanted, rel=1e-6), name
    telemetry = {f"train/{name}" for line in lines for name in line if name.startswith(("update", "change", "moved"))}
    assert telemetry <= set(stored.values)
    accuracy = {line["step"]: line["eval_accuracy"] for line in lines if "eval_accuracy" in line}
    assert stored.values["eval/accuracy"] == pytest.approx(accuracy)
    final = {name: list(stored.values[f"final/{name}"].values()) for name in result["metrics"]}
    assert final == {name: [pytest.approx(value, rel=1e-6)] for name, value in result["metrics"].items()}
    assert float(stored.config["lr_ratio"]) == 3
    assert stored.config["method"] == "lora"
    drawn = draw_run(lines, "accuracy")
    assert {"loss", "accuracy", "learning-rate", "change-of-the-weights"} <= set(drawn)
    assert set(stored.pictures) == (set(drawn) if takes_pictures(tracker.__name__) else set())
    for name, content in stored.pictures.items():
        assert pixels(content) == pixels(drawn[name]), name


def pixels(file: bytes) -> tuple[tuple[int, int], bytes]:
    image = pytest.importorskip("PIL.Image").open(io.BytesIO(file)).convert("RGB")
    return image.size, image.tobytes()
