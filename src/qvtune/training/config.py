"""`TrainConfig`: every option of a run, defined once."""

import hashlib
import json
from collections.abc import Collection
from pathlib import Path
from typing import Annotated, Any, Literal

import yaml
from pydantic import Field, field_validator, model_validator

from qvtune.amounts import join_words
from qvtune.documents import key_lines, load_yaml, read_document
from qvtune.errors import ConfigError, RateError, nearest
from qvtune.methods.method import OPTIONS, Method
from qvtune.methods.resolve import MOST_RANK
from qvtune.methods.table import METHODS
from qvtune.options import OneOf, Options, option_name, parse_options
from qvtune.rates import Rates, parse_rates
from qvtune.roles.attention import parse_roles
from qvtune.roles.layouts import ATTENTION, OUTPUTS, ROLES, SEPARATE_LAYOUTS
from qvtune.tasks.options import BALANCED, DataOptions

MethodName = Annotated[str, OneOf(METHODS)]

LORA: Any = METHODS["lora"]
# The paper's words for two options.
WORDS = {"task": "data", "target": "roles"}
# Rates that may be searched for before a run, and the word that asks for it.
AUTO, SEARCHED = "auto", ("lr", "lr_ratio", "head_lr")

# Options that change where results go or how they are shown, but not the results.
NOT_IN_FINGERPRINT = {
    "out", "report_to", "log_updates", "num_workers", "data", "glue_dir", "model", "validation", "attention", "device",
    "class_weights", "chat_template",
}  # fmt: skip
# Options that were added after the first stores were written, each with the value that means what runs did before. Only
# another value counts in a run's name, so a new option does not rename the runs of older stores.
LATER: dict[str, Any] = {
    "train_on": None, "chat_template": None, "answer_pattern": None, "generate_samples": None, "max_new_tokens": None,
    "packing": False, "rate": [],
}  # fmt: skip
# Options that mean nothing if no role trains.
ROLE_OPTIONS = ("roles", "layers", "lr_ratio", "rate", *(f"{ROLES[role]}_lr" for role in ATTENTION))
# A range is expanded to a list; a typing error must not fill the memory.
MOST_LAYERS = 10_000
PATHS = ("data", "glue_dir", "model", "validation", "attention", "class_weights", "chat_template")


def _others(option: str) -> str:
    """Say an option's default for the methods where it differs from LoRA's."""
    own = getattr(LORA, option)
    others: dict[float, list[str]] = {}
    for method in METHODS.values():
        value = getattr(method, option)
        if value not in (None, own):
            others.setdefault(value, []).append(method.name)
    return f"For {', '.join(f'{join_words(names)} {value:g}' for value, names in others.items())}." if others else ""


class AdaptOptions(Options):
    """Which model, and what of it trains."""

    model: str = Field(
        description="A model folder, a name on the Hugging Face hub, pkg:minilm or pkg:smollm2 (packages of the "
        "extra 'demo')."
    )
    roles: str = Field(
        "qv",
        description="What trains: any of q (query), k (key), v (value), o (output) of attention, and g (gate), u (up), "
        "d (down) of the feed-forward; attention is qkvo, mlp is gud, all is both.",
    )
    method: MethodName = Field(
        "lora", description="; ".join(f"{method.name}: {method.summary}" for method in METHODS.values()) + "."
    )
    rank: int = Field(LORA.rank, ge=1, le=MOST_RANK, description=f"Rank of the factors. {_others('rank')}")
    alpha: float = Field(
        LORA.alpha,
        gt=0,
        description=f"LoRA adds (alpha / rank) B A to a weight; GaLore scales by alpha. {_others('alpha')}",
    )
    dropout: float = Field(
        LORA.dropout, ge=0, lt=1, description=f"Dropout on the input of the factors. {_others('dropout')}"
    )
    density: float = Field(
        next(method.density for method in METHODS.values() if method.density is not None),
        gt=0,
        le=1,
        description="Part of a projection's entries that --method sift trains.",
    )
    attention: Path | None = Field(
        None,
        description="YAML file that states where the roles are, for a model whose layout is not known: 'heads: 4', "
        "'q: h.*.attn.query', 'u: h.*.mlp.up' and so on.",
    )
    layers: list[int] | None = Field(
        None, description="Layers to adapt, as in 0,1,2 or 8-11; -1 is the last. All when left out."
    )
    trust_remote_code: bool = Field(False, description="Run Python code that a model's repository brings along.")
    new_head: bool = Field(False, description="Start the classification head anew where the model brings one.")

    @field_validator("roles", mode="before")
    @classmethod
    def _check_roles(cls, roles: Any) -> str:
        return parse_roles(roles if isinstance(roles, (list, tuple)) else str(roles))

    @field_validator("layers", mode="before")
    @classmethod
    def _expand_layers(cls, layers: Any) -> Any:
        return (
            [index for part in layers.split(",") for index in _layer_range(part)] if isinstance(layers, str) else layers
        )


class RateOptions(Options):
    """Learning rates, of AdamW."""

    lr: float = Field(LORA.lr, gt=0, description=f"Learning rate of every role but the value (η_QK). {_others('lr')}")
    lr_ratio: float = Field(
        LORA.lr_ratio,
        gt=0,
        description="λ = η_V / η_QK: the value's learning rate is this many times --lr. " + _others("lr_ratio"),
    )
    b_lr_ratio: float = Field(
        LORA.b_lr_ratio,
        gt=0,
        description="η_B / η_A: the learning rate of the factors B is this many times that of A. "
        + _others("b_lr_ratio"),
    )
    head_lr: float | None = Field(None, gt=0, description="Learning rate of the head; --lr when left out.")
    query_lr: float | None = Field(None, gt=0, description="Learning rate of the query alone.")
    key_lr: float | None = Field(None, gt=0, description="Learning rate of the key alone.")
    value_lr: float | None = Field(None, gt=0, description="Learning rate of the value, in place of --lr-ratio.")
    output_lr: float | None = Field(None, gt=0, description="Learning rate of the output projection alone.")
    rate: list[str] = Field(
        [],
        description="ROLE=VALUE, the learning rate of one role, by its name or letter: a number, as in gate=2e-4, or a "
        "multiple of --lr, as in u=4x. Once for each role.",
    )

    @field_validator("rate", mode="before")
    @classmethod
    def _read_rates(cls, rate: Any) -> Any:
        if not isinstance(rate, (dict, list, tuple)):
            return rate
        return [f"{role}={text}" for role, text in parse_rates(rate).items()]


class OptimizationOptions(Options):
    """Steps, batches and the optimizer."""

    head_start: Literal["probe", "plain", "even", "random"] = Field(
        "probe",
        description="How a head that the model does not bring starts. probe: fitted on frozen features of the training "
        "texts, as they are (plain) or with a first token that attends evenly (even), whichever is better on held-out "
        "examples; random: as it was drawn.",
    )
    epochs: float | None = Field(
        None,
        gt=0,
        description="Passes over the training examples. When left out, from 3 for many thousands of examples to 30 for "
        "a hundred, by the square root of their number: 10 for 1,000.",
    )
    max_steps: int | None = Field(None, ge=1, description="Stop after this many steps, in place of --epochs.")
    batch_size: int = Field(32, ge=1, description="Examples per forward pass and device.")
    batch_tokens: int | None = Field(
        None,
        ge=1,
        description="Tokens per forward pass at most, padding included, in place of --batch-size: a batch of short "
        "texts holds more of them. In one process.",
    )
    packing: bool = Field(
        False,
        description="Conversations and completions: put short examples of a batch together in rows as long as its "
        "longest, where they do not see each other. The gradient is the same.",
    )
    accumulation: int = Field(1, ge=1, description="Forward passes per step: gradients add up before an update.")
    schedule: Literal["linear", "constant", "cosine"] = Field("linear", description="Shape of the rates after warmup.")
    warmup: float = Field(0.0, ge=0, lt=1, description="Part of the steps over which the rates rise from zero.")
    weight_decay: float = Field(0.0, ge=0, description="AdamW's weight decay; biases and norms are spared.")
    adam_beta1: float = Field(0.9, ge=0, lt=1, description="AdamW's β₁.")
    adam_beta2: float = Field(0.999, ge=0, lt=1, description="AdamW's β₂.")
    adam_epsilon: float = Field(1e-8, gt=0, description="AdamW's ε.")
    max_grad_norm: float = Field(1.0, ge=0, description="Clip the norm of the gradient to this; 0 does not clip.")
    seed: int = Field(0, ge=0, lt=2**32, description="Of everything random: initial values, order, dropout, samples.")


class SelectionOptions(Options):
    """Evaluation, and the checkpoint that a run ends with."""

    eval_steps: int | None = Field(
        None,
        ge=1,
        description="Evaluate and save a checkpoint every so many steps. When left out, every epoch, or about ten "
        "times where there are more.",
    )
    eval_batch_size: int = Field(64, ge=1, description="Examples per forward pass and device in evaluation.")
    keep_best: bool | None = Field(
        None,
        description="End with the checkpoint whose metric is best; else with the last. When left out, with the best "
        "where at least 50 examples choose it, and of those within half a standard error with the lowest loss.",
    )
    early_stopping: int | None = Field(
        None, ge=1, description="Stop after this many evaluations without a better metric. Never when left out."
    )


class MachineOptions(Options):
    """Device, precision, memory and what is logged."""

    device: Literal["auto", "cpu", "cuda", "mps"] = Field(
        "auto", description="What computes; auto is the GPU or other accelerator that torch finds, else the CPU."
    )
    precision: Literal["auto", "fp32", "bf16", "fp16"] = Field(
        "auto",
        description="Arithmetic of the forward pass; auto is bf16 where the hardware multiplies it faster, else fp32.",
    )
    fast: bool = Field(
        True,
        description="Train and evaluate by qvtune's own kernels and batches of similar length; --no-fast leaves all to "
        "the libraries.",
    )
    gradient_checkpointing: bool = Field(False, description="Compute activations twice to save memory.")
    num_workers: int = Field(0, ge=0, description="Processes that prepare batches.")
    logging_steps: int = Field(10, ge=1, description="Log loss and rates every so many steps.")
    log_updates: bool = Field(
        True,
        description="Log also, for each role, how far its weights have moved and what a step changes in the outputs of "
        "attention layers, and warn of sides that starve or blow up.",
    )
    report_to: list[str] = Field(
        [], description="Trackers of Accelerate: tensorboard, wandb, trackio, mlflow, comet_ml, clearml, ..."
    )


# pydantic lists the fields of the last base first.
class TrainConfig(MachineOptions, SelectionOptions, OptimizationOptions, RateOptions, DataOptions, AdaptOptions):
    """The run folder."""

    out: Path = Field(description="Folder of the run. The same command again continues or finds it.")

    @model_validator(mode="before")
    @classmethod
    def _resolve(cls, values: dict[str, Any]) -> dict[str, Any]:
        values = {name: value for name, value in values.items() if value is not None}
        method = values.get("method", "lora")
        if "value_lr" in values and "lr_ratio" in values:
            raise ValueError("--value-lr and --lr-ratio both set the value's rate; give one of them.")
        has_own = "value_lr" in values or "value" in _named_rates(values)
        if "lr_ratio" in values and has_own and "value_lr" not in values:
            raise ValueError("--rate value and --lr-ratio both set the value's rate; give one of them.")
        if values.get("batch_tokens") is not None and "batch_size" in values:
            raise ValueError("--batch-tokens and --batch-size both set the size of a batch; give one of them.")
        if values.get("batch_tokens") is not None and values.get("fast") in (False, "false", "False"):
            raise ValueError(
                "--batch-tokens is a part of the fast path, and --no-fast is given. Leave one of them out."
            )
        entry = METHODS.get(str(method))
        if entry is not None:
            _check_options(entry, values)
            defaults = entry.defaults | {"lr": entry.lr}
            if entry.lr_ratio is not None:
                defaults["lr_ratio"] = 1.0 if has_own else entry.lr_ratio
            values = defaults | values
        return values

    @field_validator("report_to")
    @classmethod
    def _leave_out_none(cls, names: list[str]) -> list[str]:
        return [name for name in names if name != "none"]  # transformers' word for no tracker

    @model_validator(mode="after")
    def _check_rates(self) -> "TrainConfig":
        for role, name in ROLES.items():
            own = getattr(self, f"{name}_lr", None) is not None
            if own and name in parse_rates(self.rate):
                raise ValueError(f"--rate {name} and --{name}-lr both set the {name}'s rate; give one of them.")
            if name in self.own_rates and role not in self.roles:
                given = f"--{name}-lr" if own else f"--rate {name}"
                raise ValueError(f"{given} is given, and --roles is {self.roles}: the {name} does not train.")
        return self

    @property
    def own_rates(self) -> dict[str, str]:
        """The option that sets a role's own rate and its value, by the role's name, such as "--rate gate (now 4x)"."""
        names = [ROLES[role] for role in ATTENTION]
        released = {name: getattr(self, f"{name}_lr") for name in names}
        own = {name: f"--{name}-lr (now {rate:g})" for name, rate in released.items() if rate is not None}
        return own | {name: f"--rate {name} (now {text})" for name, text in parse_rates(self.rate).items()}

    @property
    def saves_adapter(self) -> bool:
        """Whether a run saves an adapter, and not a whole model."""
        return METHODS[self.method].saves == "adapter"

    @property
    def useless_options(self) -> tuple[str, ...]:
        """Options that the method does not use."""
        return _useless(METHODS[self.method])

    @property
    def method_options(self) -> dict[str, Any]:
        """The options for `adapt`; None for those that the method does not take."""
        names = ("roles", "layers", *(name for name in OPTIONS if name != "b_lr_ratio"))
        return {name: None if name in self.useless_options else getattr(self, name) for name in names}

    @property
    def rates(self) -> Rates:
        """The learning rates, resolved."""
        method = METHODS[self.method]
        names = ("lr", "head_lr", *(f"{ROLES[role]}_lr" for role in ATTENTION))
        given = {name: getattr(self, name) for name in names} | {"rates": self.rate}
        given["lr_ratio"] = self.lr_ratio if method.has_roles else None
        given["b_lr_ratio"] = self.b_lr_ratio if method.b_lr_ratio is not None else None
        return Rates.resolve(method, **given)

    def pass_tokens(self, length: int) -> int:
        """Return the most tokens that a forward pass can have if texts have at most `length` tokens."""
        return max(self.batch_tokens or self.batch_size * length, length)

    def fingerprint(self) -> str:
        """Return a hash of every option that can change a result, the same wherever files are.

        It is the name of a run in a store. It stays the same when an option is added: see `LATER`.
        """
        values = self.model_dump(mode="json")
        kept = {name: value for name, value in values.items() if name not in NOT_IN_FINGERPRINT}
        kept = {name: value for name, value in kept.items() if name not in LATER or value != LATER[name]}
        kept |= {name: Path(values[name]).name for name in PATHS if values[name] is not None}
        return hashlib.sha256(json.dumps(kept, sort_keys=True).encode()).hexdigest()[:16]

    def to_yaml(self) -> str:
        """Return the resolved configuration as a file that `--config` reads from any folder."""
        # Rates left to their defaults are not written beside a rate that replaces them.
        values = {k: v for k, v in self.model_dump(mode="json").items() if v is not None}
        values |= {name: str(Path(values[name]).absolute()) for name in PATHS if self._is_here(values.get(name))}
        if "value" in self.own_rates:
            del values["lr_ratio"]
        if "batch_tokens" in values:
            del values["batch_size"]
        values = {name: value for name, value in values.items() if name not in self.useless_options}
        start = "# qvtune train --config config.yaml\n"
        return start + yaml.safe_dump(values, sort_keys=False, allow_unicode=True)

    @staticmethod
    def _is_here(path: str | None) -> bool:
        return path not in (None, BALANCED) and Path(path).exists()


def _useless(method: Method) -> tuple[str, ...]:
    return tuple(name for name in OPTIONS if name not in method.defaults) + (() if method.has_roles else ROLE_OPTIONS)


def _check_options(method: Method, values: dict[str, Any]) -> None:
    for name in _useless(method):
        if name in values:
            why = "trains the head alone" if name in ROLE_OPTIONS else f"has no {name.replace('_', ' ')}"
            raise ValueError(f"{option_name(name)} is given, and --method {method.name} {why}. Leave it out.")


def make_config(values: dict[str, Any], config_file: Path | None = None) -> TrainConfig:
    """Make a configuration from a YAML file, if there is one, and values that override it.

    The paper's words are accepted: `task` for GLUE ("mnli"), `target` for roles ("q_proj,v_proj").

    Raises:
        ConfigError: naming every unknown, missing or bad option at once.
    """
    loaded = read_config(config_file) if config_file else {}
    if {"value_lr", "lr_ratio"} & set(values) or "value" in _named_rates(values):
        loaded = {k: v for k, v in loaded.items() if k not in ("value_lr", "lr_ratio")}
    if {"batch_size", "batch_tokens"} & set(values):
        loaded = {k: v for k, v in loaded.items() if k not in ("batch_size", "batch_tokens")}
    merged = _translate({**loaded, **values})
    lines = key_lines(read_document(config_file)) if config_file else {}
    places = {name: f"{config_file}, line {lines[name]}" for name in loaded if name not in values}
    return parse_options(TrainConfig, merged, places)


def read_config(path: Path, also: Collection[str] = ()) -> dict[str, Any]:
    """Read a YAML configuration.

    Args:
        path: the file.
        also: further keys that it may have.

    Raises:
        ConfigError: if it is missing, not YAML, not a mapping, or has an unknown key.
    """
    try:
        values = load_yaml(read_document(path), _UniqueKeys)
    except OSError as error:
        raise ConfigError(f"{path}: cannot be read: {error.strerror}.") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise ConfigError(f"{path}: not YAML for options: {' '.join(str(error).split())}") from error
    if not isinstance(values, dict):
        raise ConfigError(f"{path}: must hold one option a line, as in 'lr: 4e-4'.")
    known = {*TrainConfig.model_fields, *WORDS, *also}
    if unknown := [key for key in values if key not in known]:
        lines = key_lines(read_document(path))
        raise ConfigError(
            "\n".join(
                f"{path}, line {lines.get(str(key), 1)}: unknown option '{key}'.{nearest(str(key), known)}"
                for key in unknown
            )
        )
    return values


def _translate(values: dict[str, Any]) -> dict[str, Any]:
    values = dict(values)
    if "task" in values:
        data = f"glue/{values.pop('task')}"
        if values.setdefault("data", data) != data:
            raise ConfigError(f"--task means --data {data}, and --data is {values['data']}. Give one of them.")
    if "target" in values:
        roles = _roles_of_targets(str(values.pop("target")))
        if values.setdefault("roles", roles) != roles:
            raise ConfigError(f"--target means --roles {roles}, and --roles is {values['roles']}. Give one of them.")
    return values


def _roles_of_targets(targets: str) -> str:
    names: dict[str, str] = {path: "o" for path in OUTPUTS if "/" not in path}
    for layout in SEPARATE_LAYOUTS:
        names |= {layout.query: "q", layout.key: "k", layout.value: "v"}
    roles = set()
    for target in targets.split(","):
        if target.strip() not in names:
            raise ConfigError(f"--target: unknown projection '{target}'.{nearest(target, names)} Or give --roles qv.")
        roles.add(names[target.strip()])
    return "".join(role for role in ATTENTION if role in roles)


def _named_rates(values: dict[str, Any]) -> set[str]:
    """Return the names of the roles that `rate` names, as far as it can be read."""
    try:
        return set(parse_rates(values.get("rate", ())))
    except RateError:
        return set()


def _layer_range(part: str) -> list[int]:
    first, dash, last = part.strip().partition("-") if not part.strip().startswith("-") else (part.strip(), "", "")
    try:
        layers = range(int(first), int(last) + 1) if dash else range(int(first), int(first) + 1)
    except ValueError:
        raise ValueError(f"layer '{part}' is neither a number nor a range such as 8-11") from None
    if layers and max(abs(layers[0]), layers[-1]) >= MOST_LAYERS:
        raise ValueError(f"the range '{part}' is of more layers than any model has. Write a number such as 11")
    if not layers:
        raise ValueError(f"the range '{part}' runs backwards. Write {last}-{first}")
    return list(layers)


class _UniqueKeys(yaml.SafeLoader):
    """Reads YAML and refuses a key that occurs twice, where PyYAML silently takes the last one."""

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Any, Any]:
        keys = [key.value for key, _ in node.value]
        for index, key in enumerate(keys):
            if key in keys[:index]:
                mark = node.value[index][0].start_mark
                raise yaml.YAMLError(f"'{key}' occurs a second time in line {mark.line + 1}.")
        return super().construct_mapping(node, deep)
