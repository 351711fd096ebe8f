"""One configuration: defaults, the YAML file, the paper's words, the fingerprint."""

import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from qvtune.errors import ConfigError
from qvtune.methods.method import OPTIONS
from qvtune.methods.table import METHODS
from qvtune.training.config import LATER, TrainConfig, make_config, read_config

BASE = {"model": "m", "data": "d.csv", "out": "runs/x"}


def test_defaults_by_method() -> None:
    assert (make_config(BASE).lr, make_config(BASE).lr_ratio) == (1e-3, 4.0)
    full = make_config(BASE | {"method": "full"})
    assert (full.lr, full.lr_ratio) == (5e-5, 2.0)
    assert make_config(BASE | {"method": "full", "lr": 1e-5}).lr == 1e-5


def test_yaml_of_a_configuration_gives_it_back(tmp_path: Path) -> None:
    for extra in (
        {},
        {"value_lr": 1e-3},
        {"batch_tokens": 500},
        {"layers": "0,2-4", "text_column": ["a", "b"], "glue_dir": "/glue"},
    ):
        config = make_config(BASE | extra)
        path = tmp_path / "config.yaml"
        path.write_text(config.to_yaml())
        assert make_config({}, path) == config


def test_command_line_overrides_the_file(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(BASE | {"lr": 1e-3, "value_lr": 5e-3, "epochs": 7}))
    config = make_config({"lr": "2e-4", "lr_ratio": "3"}, path)
    assert (config.lr, config.lr_ratio, config.value_lr, config.epochs) == (2e-4, 3.0, None, 7)


def test_exponents_without_a_point_are_numbers(tmp_path: Path) -> None:
    # YAML 1.1 reads 1e-3 as text.
    path = tmp_path / "run.yaml"
    path.write_text("model: m\ndata: d.csv\nout: x\nlr: 1e-3\n")
    assert make_config({}, path).lr == 1e-3


def test_words_of_the_paper() -> None:
    config = make_config({"model": "m", "out": "x", "task": "mnli", "target": "q_proj,v_proj", "lr_ratio": "2.5"})
    assert (config.data, config.roles, config.lr_ratio) == ("glue/mnli", "qv", 2.5)
    assert make_config({**BASE, "target": "query,key,value,out_proj"}).roles == "qkvo"
    with pytest.raises(ConfigError, match="--target means --roles qv, and --roles is k"):
        make_config({**BASE, "target": "q_proj,v_proj", "roles": "k"})


@pytest.mark.parametrize(
    ("text", "layers"),
    [("0", [0]), ("0,2", [0, 2]), ("8-11", [8, 9, 10, 11]), ("0, 3-4,-1", [0, 3, 4, -1])],
)
def test_layers(text: str, layers: list[int]) -> None:
    assert make_config(BASE | {"layers": text}).layers == layers


def test_fingerprint_is_of_what_changes_results() -> None:
    config = make_config(BASE)
    same = [{"out": "elsewhere"}, {"report_to": ["tensorboard"]}, {"data": "/other/place/d.csv"}, {"num_workers": 2}]
    other = [{"lr": 2e-3}, {"seed": 1}, {"roles": "v"}, {"data": "e.csv"}, {"model": "n"}, {"eval_batch_size": 8}]
    assert {make_config(BASE | change).fingerprint() for change in same} == {config.fingerprint()}
    assert len({make_config(BASE | change).fingerprint() for change in other} | {config.fingerprint()}) == 7


def test_names_of_runs_stay_what_they_are() -> None:
    """Stores know their runs by them. Whoever adds an option enters it in LATER and changes nothing here."""
    assert make_config(BASE).fingerprint() == "d10aea129b0c3e30"
    changed = {"method": "full", "lr": 1e-4, "layers": "0,1", "class_weights": "balanced", "warmup": 0.1}
    assert make_config(BASE | changed).fingerprint() == "392cc301f102b1ce"


def test_later_options_leave_runs_as_they_were() -> None:
    fields = TrainConfig.model_fields
    assert {name: fields[name].default for name in LATER} == LATER


@pytest.mark.parametrize("method", METHODS)
def test_a_configuration_of_every_method_repeats_itself(method: str, tmp_path: Path) -> None:
    config = make_config(BASE | {"method": method})
    entry = METHODS[method]
    assert config.lr == entry.lr
    assert {name: getattr(config, name) for name in entry.defaults} == entry.defaults
    path = tmp_path / "config.yaml"
    path.write_text(config.to_yaml())
    assert make_config({}, path) == config
    written = yaml.safe_load(config.to_yaml()).keys()
    assert {name for name in OPTIONS if name in written} == set(entry.defaults)
    assert ("roles" in written) == ("lr_ratio" in written) == entry.has_roles


def test_every_option_has_help_text() -> None:
    assert all(field.description for field in TrainConfig.model_fields.values())


def test_unknown_keys_name_file_and_nearest(tmp_path: Path) -> None:
    path = tmp_path / "run.yaml"
    path.write_text("modle: m\nepoch: 3\n")
    with pytest.raises(
        ConfigError, match=r"(?s)run.yaml, line 1: unknown option 'modle'.*'model'.*line 2: .*'epoch'.*'epochs'"
    ):
        read_config(path)


def test_a_batch_has_one_size(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="--batch-tokens and --batch-size both set"):
        make_config(BASE | {"batch_tokens": 500, "batch_size": 8})
    with pytest.raises(ConfigError, match="--batch-tokens is a part of the fast path"):
        make_config(BASE | {"batch_tokens": 500, "fast": False})
    path = tmp_path / "run.yaml"
    path.write_text(yaml.safe_dump(BASE | {"batch_size": 8}))
    assert make_config({"batch_tokens": "500"}, path).pass_tokens(128) == 500
    assert make_config({"batch_tokens": "5"}, path).pass_tokens(128) == 128
    assert make_config({}, path).pass_tokens(128) == 8 * 128


def test_options_and_methods_are_read_without_torch() -> None:
    code = "import sys, qvtune.training.config; assert not {'torch', 'transformers', 'peft'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)
