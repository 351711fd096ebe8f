"""`Plan`: what would train, and what a step costs, before anything runs."""

from contextlib import suppress
from dataclasses import asdict, dataclass
from typing import Any

import pandas as pd
from torch import nn
from transformers.pytorch_utils import Conv1D

from qvtune.adaptation import adapt, count_parameters
from qvtune.data.tokens import token_lengths
from qvtune.errors import ModelError
from qvtune.groups import check_trains
from qvtune.methods.adapted import adaptation_of
from qvtune.methods.method import Adaptation, Batches, ParameterCounts
from qvtune.methods.table import METHODS
from qvtune.notebook import ShownInNotebooks
from qvtune.rates import parse_rates
from qvtune.roles.attention import AttentionMap
from qvtune.roles.declare import declare_attention, read_declaration
from qvtune.roles.find import find_attention
from qvtune.roles.layouts import ROLES
from qvtune.roles.unwrap import base_layer, unwrap
from qvtune.tasks.classification import Classification
from qvtune.tasks.load import load_data
from qvtune.training.config import AdaptOptions, TrainConfig
from qvtune.training.model import build_on_meta, find_model, load_tokenizer, text_length

# A plan needs neither data nor a place to write.
UNNAMED = {"data": "none", "out": "none"}
TWO_CLASSES = Classification("none", ("0", "1"), "classes", "accuracy", ("text",), "label")

FLOAT_BYTES = 4
ADAM_BYTES = 8


@dataclass(frozen=True)
class Plan(ShownInNotebooks):
    """What a run trains and what a step costs. A notebook shows it as tables.

    `attention_layers` and `feed_forward_layers` count those that `layers` names, whether they train or not.
    `parameters_by_role` counts trainable ones; `memory_bytes` is an estimate by part, `step_operations` floating
    point operations (a multiply-add is two) of forward and backward for a batch of texts of `text_tokens` tokens each.
    """

    model: str
    model_type: str
    verified: bool
    method: str
    roles: str
    attention_layers: int
    feed_forward_layers: int
    learning_rates: dict[str, float]
    parameters_by_role: dict[str, int]
    parameters_adapter: int
    parameters_head: int
    parameters_trainable: int
    parameters_total: int
    head: tuple[str, ...]
    text_tokens: int
    memory_bytes: dict[str, int]
    step_operations: int
    adapter_bytes: int
    attention: AttentionMap

    @property
    def table(self) -> pd.DataFrame:
        """A row for every role that trains, and the head: `role`, `parameters` and `learning_rate`."""
        counts = self.parameters_by_role | ({"head": self.parameters_head} if self.parameters_head else {})
        rows = [(role, count, self.learning_rates.get(role)) for role, count in counts.items()]
        return pd.DataFrame(rows, columns=["role", "parameters", "learning_rate"])

    def to_dict(self) -> dict[str, Any]:
        """Return plain lists and dictionaries that JSON can hold."""
        return asdict(self)


def make_plan(model: nn.Module, config: TrainConfig, text_tokens: int) -> Plan:
    """Plan a run on an adapted model, with weights or on the meta device, for texts of at most `text_tokens` tokens.

    Raises:
        RateError: if a role has a rate and does not train in this model.
    """
    adaptation = adaptation_of(model)
    assert adaptation is not None, "make_plan takes what adapt returned"
    counts = count_parameters(model)
    method = METHODS[adaptation.method]
    trained = [ROLES[role] for role in adaptation.roles] + (["head"] if counts.head else [])
    check_trains(parse_rates(config.rate), trained)
    return Plan(
        model=config.model,
        model_type=adaptation.attention.model_type,
        verified=_is_measured(adaptation),
        method=adaptation.method,
        roles=adaptation.roles,
        attention_layers=len(adaptation.attention.chosen(adaptation.layers)),
        feed_forward_layers=len(adaptation.attention.chosen_feed_forward(adaptation.layers)),
        learning_rates=config.rates.by_group(trained),
        parameters_by_role=counts.by_role,
        parameters_adapter=counts.adapter,
        parameters_head=counts.head,
        parameters_trainable=counts.trainable,
        parameters_total=counts.total,
        head=adaptation.head,
        text_tokens=text_tokens,
        memory_bytes=_memory(unwrap(model), adaptation, counts, config, text_tokens),
        step_operations=_operations(unwrap(model), adaptation, counts, config, text_tokens),
        adapter_bytes=method.count_saved(adaptation, counts) * FLOAT_BYTES,
        attention=adaptation.attention,
    )


def plan_without_weights(config: TrainConfig, *, with_data: bool) -> Plan:
    """Plan a run on the meta device: no weights are loaded, and roles come from the structure alone.

    Args:
        config: every option.
        with_data: read the data to get the number of labels and, if the model has its tokenizer, the longest text.
            Otherwise assume two classes and texts of the maximum length.
    """
    source = find_model(config.model, config.trust_remote_code, config_alone=True)
    data = load_data(config, config.seed) if with_data else None
    task = TWO_CLASSES if data is None else data.task
    model = build_on_meta(source, task)
    text_tokens = text_length(config.max_length, model.config, most=task.most_tokens)
    if data is not None:
        with suppress(ModelError):  # a configuration alone has no tokenizer
            tokenizer = load_tokenizer(source, model.config)
            task.fit_tokenizer(tokenizer)
            length = text_length(config.max_length, model.config, tokenizer, most=task.most_tokens)
            tokens = task.encode(data.train, tokenizer, length)
            text_tokens = int(token_lengths(tokens).max())
    adapted = adapt_for(config, model, verify=False, total_steps=2, batches=())
    return make_plan(adapted, config, text_tokens)


def attention_without_weights(options: AdaptOptions) -> AttentionMap:
    """Find the roles in a model on the meta device, by structure alone or as declared."""
    source = find_model(options.model, options.trust_remote_code, config_alone=True)
    return _attention_of(options, build_on_meta(source, TWO_CLASSES), verify=False)


def adapt_for(
    config: TrainConfig,
    model: nn.Module,
    *,
    verify: bool = True,
    total_steps: int | None = None,
    batches: Batches | None = None,
) -> nn.Module:
    """Adapt a model as a configuration says. The roles are measured or, without weights, found by structure alone."""
    attention = _attention_of(config, model, verify=verify)
    return adapt(
        model,
        method=config.method,
        **config.method_options,
        attention=attention,
        total_steps=total_steps,
        batches=batches,
    )


def _attention_of(options: AdaptOptions, model: nn.Module, *, verify: bool) -> AttentionMap:
    if options.attention is None:
        return find_attention(model, verify=verify)
    roles, heads = read_declaration(options.attention)
    return declare_attention(model, roles, heads=heads, verify=verify)


def _is_measured(adaptation: Adaptation) -> bool:
    """Whether the layers with a role that trains were measured on the model."""
    attention = adaptation.attention
    trained = [layer for layer in attention.every if {p.role for p in layer.projections} & set(adaptation.roles)]
    return all(layer.verified for layer in trained or attention.layers)


def _memory(
    inner: nn.Module, adaptation: Adaptation, counts: ParameterCounts, config: TrainConfig, length: int
) -> dict[str, int]:
    """Estimate memory by part.

    Activations follow Korthikanti et al. 2022 ("Reducing Activation Recomputation"), eq. 1: a layer of width h with a
    heads keeps s b (34 h + 5 a s) bytes in 16 bits, twice that in 32; with checkpointing only its input.
    """
    layers = _layer_calls(adaptation)
    width = adaptation.attention.layers[0]["q"].shape[1]
    heads = adaptation.attention.layers[0].heads
    tokens = config.pass_tokens(length)
    scale = 1 if config.precision in ("bf16", "fp16") else 2
    per_layer = 2 * width if config.gradient_checkpointing else 34 * width + 5 * heads * length
    return {
        "weights": counts.total * FLOAT_BYTES,
        "gradients": counts.trainable * FLOAT_BYTES,
        "optimizer": counts.trainable * ADAM_BYTES,
        "activations": scale * tokens * per_layer * layers,
    }


def _operations(
    inner: nn.Module, adaptation: Adaptation, counts: ParameterCounts, config: TrainConfig, length: int
) -> int:
    """Count operations of one step: each matrix forward and for its input's gradient, trained ones once more."""
    tokens = config.pass_tokens(length) * config.accumulation
    uses = {layer.name: max(1, layer.uses) for layer in adaptation.attention}
    shared = max(uses.values())
    body = {id(m) for m in getattr(inner, "base_model", inner).modules()}
    matrices = sum(
        module.weight.numel() * shared
        for module in inner.modules()
        if isinstance(module, (nn.Linear, Conv1D)) and id(module) in body and base_layer(module) is module
    )
    products = 4 * length * sum(layer.heads * layer.head_dim * max(1, layer.uses) for layer in adaptation.attention)
    return tokens * (2 * (2 * matrices + counts.adapter * shared) + 2 * products)


def _layer_calls(adaptation: Adaptation) -> int:
    return sum(max(1, layer.uses) for layer in adaptation.attention)
