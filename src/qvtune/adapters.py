"""Save what `adapt` trained as an ordinary PEFT adapter, and load it back as it was."""

import copy
import json
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from transformers.pytorch_utils import Conv1D

from qvtune.adaptation import adaptation_of, apply, check_fresh
from qvtune.arguments import check_model, checked_folder
from qvtune.errors import AdaptError, ModelError, RoleError
from qvtune.methods.method import Adaptation
from qvtune.methods.start import Factors, Start, begin_at, start_of
from qvtune.methods.state import load_trained, trained_state
from qvtune.methods.table import METHODS
from qvtune.roles.attention import AttentionMap
from qvtune.roles.fused import misfit, split_modules
from qvtune.roles.locate import locate
from qvtune.roles.multihead import OUTPUT, SplitMultihead
from qvtune.roles.relative import SplitRelative
from qvtune.roles.split import PART_NAMES, Split, SplitProjection
from qvtune.roles.unwrap import base_layer, unwrap, unwrap_wrappers
from qvtune.stored import read_stored

ADAPTATION_FILE = "qvtune.json"
WEIGHTS_FILE = "adapter_model.safetensors"
# What trained of a method that PEFT does not have.
TRAINED_FILE = "trained.safetensors"
# What to do about an adapter that is damaged.
SAVE_AGAIN = "Put it back from a copy, or save the adapter again."

# What PEFT puts in front of the names of the model's own modules.
PREFIX = "base_model.model."
# What PEFT calls DoRA's norms.
MAGNITUDE = "lora_magnitude_vector"
# Methods that start at factors, and are saved with them.
WITH_FACTORS = ("start.start_pissa", "start.start_olora")

UNLOADABLE = """# Trained by {method} with qvtune

Plain PEFT cannot load this. With qvtune, on the model that it was trained on:

```python
import qvtune

model = qvtune.load_adapter(model, "path/of/this/folder")
```
"""


def save_adapter(model: nn.Module, folder: str | Path) -> None:
    """Save what `adapt` trained beside the model: as an adapter that plain PEFT loads, wherever PEFT can express it.

    On a fused projection the LoRAs of its roles become one: with rank r and n trained roles, A is theirs stacked,
    (n r, inputs), B is block-wise, (rows, n r), zero for rows of roles that did not train, and the scale stays. What
    started elsewhere than at zero ("pissa", "olora") becomes a LoRA of twice the rank, B A less the product that it
    started with, which fits the model as it was. On XLNet's raw parameters PEFT has no low-rank form for what the
    factors do, and what is saved of each is as large as the parameter. What plain PEFT cannot load (`loads_in_peft`) is
    kept as it is, for `load_adapter`. `qvtune.json` beside it tells that what trained.

    Args:
        model: what `adapt` returned, of a method that does not save the whole model.
        folder: where to write; made if it is not there.

    Raises:
        AdaptError: if the model was not adapted by such a method, or in a way that PEFT does not compute.
    """
    folder, adaptation = checked_folder(folder), adaptation_of(model)
    if adaptation is None or METHODS[adaptation.method].saves == "model":
        raise AdaptError(
            "only a model that qvtune.adapt gave LoRA or another adapter has an adapter to save. Save this one with "
            "model.save_pretrained."
        )
    peft_model: Any = unwrap_wrappers(model)
    method = METHODS[adaptation.method]
    fused = dict(split_modules(unwrap(model)))
    if method.config is None:
        folder.mkdir(parents=True, exist_ok=True)
        state = {name: value.detach().cpu().contiguous() for name, value in trained_state(model).items()}
        save_file(state, folder / TRAINED_FILE, metadata={"format": "pt"})
    else:
        _check_multihead(adaptation, fused)
        folder.mkdir(parents=True, exist_ok=True)
        _save_for_peft(peft_model, fused, adaptation, folder)
    if not loads_in_peft(model):
        (folder / "README.md").write_text(UNLOADABLE.format(method=adaptation.method), encoding="utf-8")
    text = json.dumps(adaptation.to_dict(), indent=2, ensure_ascii=False) + "\n"
    (folder / ADAPTATION_FILE).write_text(text, encoding="utf-8")


def loads_in_peft(model: nn.Module) -> bool:
    """Whether plain PEFT loads what `save_adapter` saves of an adapted model, on the model in its original shape."""
    adaptation = adaptation_of(model)
    assert adaptation is not None
    method, fused = METHODS[adaptation.method], [module for _, module in split_modules(unwrap(model))]
    if method.config is None or adaptation.method == "loftq":
        return False  # PEFT does not have it, or would need the 4-bit weights
    plain = adaptation.method != "dora" or all(isinstance(module, SplitProjection) for module in fused)
    return not fused or (method.has_lora and plain)


def _check_multihead(adaptation: Adaptation, fused: dict[str, Split]) -> None:
    if "o" in adaptation.roles and any(isinstance(module, SplitMultihead) for module in fused.values()):
        raise AdaptError(
            "PEFT adds an adapter on the output projection of nn.MultiheadAttention twice, so one with role o would "
            "not give the same outputs there. Merge it with qvtune.restore(model), or train other roles."
        )


def _save_for_peft(peft_model: Any, fused: dict[str, Split], adaptation: Adaptation, folder: Path) -> None:
    start = start_of(peft_model)
    raw = {name: module for name, module in fused.items() if isinstance(module, SplitRelative)}
    if not loads_in_peft(peft_model) or not (fused or (start and start.factors)):
        peft_model.save_pretrained(str(folder), save_embedding_layers=False)
        return
    from peft import get_peft_model_state_dict

    weights = dict(get_peft_model_state_dict(peft_model, save_embedding_layers=False))
    config = copy.deepcopy(peft_model.peft_config["default"])
    if start is not None:
        weights = _less_start(weights, start)
        config.r, config.lora_alpha = 2 * config.r, 2 * config.lora_alpha
    if raw:
        _save_raw(peft_model, config, weights, raw, folder)
    elif fused:
        _save_fused(peft_model, config, weights, fused, adaptation, folder)
    else:
        _write(peft_model, config, weights, folder)


def _less_start(weights: dict[str, Tensor], start: Start) -> dict[str, Tensor]:
    """Return factors of B A - B0 A0, which is the change of the weights as they were before A0 and B0 came."""
    weights = dict(weights)
    for name, (a, b) in start.factors.items():
        first, second = (f"{PREFIX}{name}.lora_{letter}.weight" for letter in "AB")
        weights[first] = torch.cat([weights[first], a.to(weights[first])])
        weights[second] = torch.cat([weights[second], -b.to(weights[second])], dim=1)
    return weights


def load_adapter(model: nn.Module, folder: str | Path) -> nn.Module:
    """Put an adapter that `save_adapter` wrote on a model, ready to be used or trained on.

    Args:
        model: the transformers model that it was trained on, changed in place.
        folder: where the adapter is.

    Returns:
        What `adapt` returned when the adapter was made, with its weights.

    Raises:
        ModelError: if the folder holds no adapter of qvtune's, or one for another model; the text names what differs.
        AdaptError: if the model is adapted already.
    """
    check_model(model)
    folder = checked_folder(folder)
    recorded = _read_adaptation(folder)
    check_fresh(model)
    problem = misfit(unwrap(model), recorded.attention) or _other_layers(unwrap(model), recorded.attention)
    if problem is not None:
        raise ModelError(
            f"{folder}: the adapter does not fit the model: it was made for {_summary(recorded.attention)}, and the "
            f"model {problem}. Give the model that it was trained on."
        )
    method = METHODS[recorded.method]
    weights = _read_weights(folder / (WEIGHTS_FILE if method.config is not None else TRAINED_FILE))
    _check_head(unwrap(model), recorded, weights, folder)
    try:
        # The number of steps means nothing to an adapter whose ranks are shared out.
        adapted = apply(model, recorded, total_steps=2, start=False)
    except (AdaptError, RoleError, ValueError) as error:  # the last is PEFT's, of an option
        raise ModelError(f"{folder / ADAPTATION_FILE}: is damaged, or was edited: {error} {SAVE_AGAIN}") from error
    if method.config is None:
        load_trained(adapted, weights, folder)
    else:
        _fill(adapted, weights, recorded, folder)
    return adapted


def _save_fused(
    peft_model: Any,
    config: Any,
    weights: dict[str, Tensor],
    fused: dict[str, Split],
    adaptation: Adaptation,
    folder: Path,
) -> None:
    # PEFT adapts torch's attention as a whole, the output projection with the rest.
    inside = {f"{name}.{OUTPUT}" for name, module in fused.items() if isinstance(module, SplitMultihead)}
    targets = {projection.module for projection in adaptation.projections} - inside | set(fused)
    ranks: dict[str, int] = {}
    for name, module in fused.items():
        factors = {
            role: (weights.pop(f"{path}.lora_A.weight"), weights.pop(f"{path}.lora_B.weight"))
            for role in module.rows
            if f"{(path := f'{PREFIX}{name}.{PART_NAMES[role]}')}.lora_A.weight" in weights
        }
        ranks[name] = len(factors)
        if isinstance(module, SplitMultihead):
            weights |= _multihead_weights(name, module, factors, ranks[name] * config.r)
        else:
            weights |= _named(name, _stack(module, factors))
        if config.use_dora:
            weights |= _magnitudes(name, module, weights)
    parts = set(ranks.values())
    config.target_modules = targets
    config.fan_in_fan_out = any(isinstance(module.fused, Conv1D) for module in fused.values())
    if len(parts) == 1 and targets == set(ranks):
        count = parts.pop()
        config.r, config.lora_alpha = count * config.r, _more(config, count) * config.lora_alpha
    else:
        config.rank_pattern = {name: count * config.r for name, count in ranks.items()}
        config.alpha_pattern = {name: _more(config, count) * config.lora_alpha for name, count in ranks.items()}
    _write(peft_model, config, weights, folder)


def _more(config: Any, count: int) -> float:
    """Return how many times alpha keeps the scale when the rank grows by `count`."""
    return count**0.5 if config.use_rslora else count


def _magnitudes(name: str, module: Split, weights: dict[str, Tensor]) -> dict[str, Tensor]:
    """Return DoRA's norms of the fused module's rows: those that trained, and of other rows the weight's own."""
    norms = torch.cat([torch.linalg.norm(base_layer(part).weight.detach(), dim=1) for part in module.parts.values()])
    found = torch.empty_like(norms).index_copy(0, module.order(norms.device), norms)
    for role, rows in module.rows.items():
        own = weights.pop(f"{PREFIX}{name}.{PART_NAMES[role]}.{MAGNITUDE}", None)
        if own is not None:
            found[torch.tensor(rows.indices(), device=found.device)] = own.to(found)
    return {f"{PREFIX}{name}.{MAGNITUDE}": found}


def _save_raw(
    peft_model: Any, config: Any, weights: dict[str, Tensor], fused: dict[str, SplitRelative], folder: Path
) -> None:
    """Save the adapters on XLNet's parameters as PEFT's of parameters, beside the factors that `load_adapter` reads.

    PEFT takes a parameter W (e, n, d) for e matrices and gives each factors of its own. With e inputs, n heads of size
    d, rank n and B the identity, A is the whole change.
    """
    scale = config.lora_alpha / (config.r**0.5 if config.use_rslora else config.r)
    config.target_parameters, config.use_rslora = [], False
    for name, module in fused.items():
        width, heads, _ = module.shape
        trained = [role for role, part in module.parts.items() if hasattr(part, "lora_A")]
        # PEFT wraps the module once for each parameter; the last is the outermost.
        for place, role in zip(_nested(name, len(trained)), reversed(trained), strict=True):
            a, b = (weights[f"{PREFIX}{name}.{role}.lora_{letter}.weight"] for letter in "AB")
            change = module.raw(role, scale * b @ a)
            weights |= _named(place, (change.flatten(0, 1), torch.eye(heads).repeat_interleave(width, dim=1)))
            config.target_parameters.append(f"{name}.{role}")
        config.r = config.lora_alpha = heads
    config.target_modules, config.lora_dropout = [], 0.0  # PEFT has no dropout on parameters
    _write(peft_model, config, weights, folder)


def _nested(name: str, count: int) -> list[str]:
    """List the names of so many wrappers around a module, the outermost first."""
    return [name + ".base_layer" * depth for depth in range(count)]


def _write(peft_model: Any, config: Any, weights: dict[str, Tensor], folder: Path) -> None:
    config.inference_mode = True
    if config.base_model_name_or_path is None:
        config.base_model_name_or_path = getattr(unwrap(peft_model), "name_or_path", None)
    config.save_pretrained(str(folder))
    contiguous = {name: tensor.detach().cpu().contiguous() for name, tensor in weights.items()}
    save_file(contiguous, folder / WEIGHTS_FILE, metadata={"format": "pt"})


def _multihead_weights(name: str, module: SplitMultihead, factors: dict[str, Factors], rank: int) -> dict[str, Tensor]:
    """Return PEFT's adapter of a whole `nn.MultiheadAttention`, zero where a role did not train."""
    width = module.embed_dim
    output = (torch.zeros(rank, width), torch.zeros(width, rank))
    return _named(name, _stack(module, factors)) | _named(f"{name}.base_layer.{OUTPUT}", output)


def _named(name: str, factors: Factors) -> dict[str, Tensor]:
    return {f"{PREFIX}{name}.lora_{letter}.weight": factor for letter, factor in zip("AB", factors, strict=True)}


def _stack(module: Split, factors: dict[str, Factors]) -> Factors:
    """Return A (n r, inputs) and B (rows, n r) of the fused module from those of its roles."""
    a = torch.cat([first for first, _ in factors.values()])
    b = a.new_zeros(sum(len(rows) for rows in module.rows.values()), len(a))
    column = 0
    for role, (_, second) in factors.items():
        rank = second.shape[1]
        b[torch.tensor(module.rows[role].indices(), device=b.device), column : column + rank] = second
        column += rank
    return a, b


def _fill(adapted: Any, weights: dict[str, Tensor], recorded: Adaptation, folder: Path) -> None:
    """Give the adapters of an adapted model these weights, taken apart where a module is split."""
    from peft import PeftConfig, set_peft_model_state_dict

    method = METHODS[recorded.method]
    if loads_in_peft(adapted) and method.has_lora:
        columns = (recorded.rank or 0) * (2 if method.start in WITH_FACTORS else 1)
        for name, module in split_modules(unwrap(adapted)):
            _take_apart(name, module, weights, columns, folder)
    if method.start in WITH_FACTORS:
        begin_at(adapted, recorded, _take_start(weights, recorded, folder))
    elif recorded.method == "loftq":
        begin_at(adapted, recorded, {})
    if method.steps:
        adapted.peft_config["default"].rank_pattern = PeftConfig.from_pretrained(str(folder)).rank_pattern
    try:
        result: Any = set_peft_model_state_dict(adapted, weights)
    except RuntimeError as error:  # torch's, of shapes that differ
        raise _other_weights(folder, str(error).splitlines()[-1].strip()) from error
    own = ("lora_", "ia3_", "vera_lambda_", "modules_to_save")
    missing = [key for key in result.missing_keys if any(word in key for word in own) and "ranknum" not in key]
    if missing or result.unexpected_keys:
        raise _other_weights(folder, f"'{(missing or result.unexpected_keys)[0]}'.")


def _other_weights(folder: Path, problem: str) -> ModelError:
    return ModelError(
        f"{folder}: the adapter's weights are not those of what it says it adapted: {problem} {SAVE_AGAIN}"
    )


def _take_apart(name: str, module: Split, weights: dict[str, Tensor], rank: int, folder: Path) -> None:
    """Put the factors of a module's roles in place of those of the whole."""
    if isinstance(module, SplitRelative):
        for wrapper in _nested(name, len(module.rows)):  # for PEFT's sake, beside the factors
            for letter in "AB":
                weights.pop(f"{PREFIX}{wrapper}.lora_{letter}.weight", None)
        return
    keys = [f"{PREFIX}{name}.lora_{factor}.weight" for factor in "AB"]
    if not all(key in weights for key in keys):
        raise ModelError(f"{folder}: the adapter has no weights for '{name}'.")
    a, b = (weights.pop(key) for key in keys)
    norms = weights.pop(f"{PREFIX}{name}.{MAGNITUDE}", None)
    trained = [role for role, part in module.parts.items() if hasattr(part, "lora_A")]
    for place, role in enumerate(trained):
        columns, rows = slice(place * rank, (place + 1) * rank), torch.tensor(module.rows[role].indices())
        path = f"{PREFIX}{name}.{PART_NAMES[role]}"
        weights[f"{path}.lora_A.weight"] = a[columns]
        weights[f"{path}.lora_B.weight"] = b[rows, columns]
        if norms is not None:
            weights[f"{path}.{MAGNITUDE}"] = norms[rows]
    if isinstance(module, SplitMultihead):
        for letter in "AB":  # zero, for PEFT's sake
            weights.pop(f"{PREFIX}{name}.base_layer.{OUTPUT}.lora_{letter}.weight", None)


def _take_start(weights: dict[str, Tensor], recorded: Adaptation, folder: Path) -> dict[str, Factors]:
    """Take the factors that training started with out of the saved ones."""
    found = {}
    for name in recorded.targets:
        first, second = (f"{PREFIX}{name}.lora_{letter}.weight" for letter in "AB")
        if first not in weights or second not in weights:
            raise ModelError(f"{folder}: the adapter has no weights for '{name}'.")
        weights[first], a = weights[first].chunk(2)
        weights[second], b = weights[second].chunk(2, dim=1)
        found[name] = (a, -b)
    return found


def _read_weights(file: Path) -> dict[str, Tensor]:
    try:
        weights = load_file(file)
    except Exception as error:  # safetensors' own, and the system's
        raise ModelError(f"{file}: the adapter cannot be read: {str(error).splitlines()[0]}. {SAVE_AGAIN}") from error
    for name, weight in weights.items():
        if not torch.isfinite(weight).all():
            raise ModelError(f"{file}: '{name}' holds numbers that are not finite. {SAVE_AGAIN}")
    return weights


def _read_adaptation(folder: Path) -> Adaptation:
    file = folder / ADAPTATION_FILE
    if not file.is_file():
        raise ModelError(
            f"{folder}: is no adapter saved by qvtune: it has no {ADAPTATION_FILE}. Give the folder of one."
        )
    recorded = read_stored(file, Adaptation, SAVE_AGAIN, ModelError)
    if recorded.method not in METHODS:
        raise ModelError(
            f"{file}: is damaged, or of a later version of qvtune: method: '{recorded.method}' is none of "
            f"{', '.join(METHODS)}. {SAVE_AGAIN}"
        )
    return recorded


def _other_layers(inner: nn.Module, attention: AttentionMap) -> str | None:
    """Say how a model's layers differ from a map's in number or heads, where they can be found."""
    try:
        found = locate(inner)
    except RoleError:
        return None  # its roles were declared by hand
    sizes = [{(layer.name, layer.heads, layer.kv_heads) for layer in m} for m in (found, attention)]
    if sizes[0] == sizes[1] or "declared" in {layer.layout for layer in attention}:
        return None
    return (
        f"has {len(found)} layers of {found.layers[0].heads} heads, not {len(attention)} of {attention.layers[0].heads}"
    )


def _check_head(inner: nn.Module, recorded: Adaptation, weights: dict[str, Tensor], folder: Path) -> None:
    shapes = {name: tuple(parameter.shape) for name, parameter in inner.named_parameters()}
    for name, weight in weights.items():
        own = name.removeprefix(PREFIX)
        if not any(own.startswith(f"{head}.") for head in recorded.head):
            continue
        if shapes.get(own) != tuple(weight.shape):
            raise ModelError(
                f"{folder}: the adapter does not fit the model: it has '{own}' of {tuple(weight.shape)}, and the model "
                f"{shapes.get(own, 'none')}. Load the model with the same num_labels."
            )


def _summary(attention: AttentionMap) -> str:
    rows, columns = attention.layers[0]["q"].shape
    return f"{attention.model_type} with {len(attention)} attention layers of {columns} to {rows}"
