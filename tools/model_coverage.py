"""What qvtune finds in every model type of the installed transformers: a table, and the page docs/coverage.md.

    python tools/model_coverage.py --out coverage.json --page docs/coverage.md

A model type is built twice: on the meta device from its default configuration, where every attention layer must be
found by structure, and every feed-forward network beside it; and small, with random weights, where the probe measures
the roles, and one step of training must change the chosen roles and nothing else. Models are built one at a time, each
with a time limit.
"""

import argparse
import copy
import json
import logging
import re
import signal
import sys
import time
import warnings
from collections import Counter
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import nn
from transformers import AutoModel
from transformers.models.auto.configuration_auto import CONFIG_MAPPING, CONFIG_MAPPING_NAMES

from qvtune.adaptation import adapt, restore
from qvtune.errors import QVTuneError
from qvtune.roles.attention import AttentionMap
from qvtune.roles.feed_forward import with_feed_forward
from qvtune.roles.find import find_attention

# Words of the reasons why a model has no softmax attention.
NO_SOFTMAX = ("no attention layer was found", "no softmax", "no query and key", "Fourier", "additive", "scalar query")
STATUSES = ("verified", "found", "unsupported", "none", "not built")
SECONDS = 30
# Parameters of a default model that is still built and run where its configuration cannot be shrunk.
LARGEST = 150_000_000

WIDTH, HEADS, KV_HEADS, HEAD_DIM = 32, 4, 2, 8
# What configurations call their sizes, and a small one for each.
HEAD_NAMES = ("num_attention_heads", "n_head", "num_heads", "n_heads", "encoder_attention_heads",
              "decoder_attention_heads", "num_encoder_attention_heads", "num_decoder_attention_heads")  # fmt: skip
LAYER_NAMES = ("num_hidden_layers", "n_layer", "num_layers", "n_layers", "encoder_layers", "decoder_layers",
               "num_decoder_layers", "num_encoder_layers", "depth", "text_layers", "vision_layers")  # fmt: skip
EXPERT_NAMES = ("num_experts", "n_routed_experts", "num_local_experts", "moe_num_experts")
SMALL = {
    **dict.fromkeys(HEAD_NAMES, HEADS),
    **dict.fromkeys(LAYER_NAMES, 2),
    **dict.fromkeys(("hidden_size", "d_model", "n_embd", "dim", "embed_dim", "encoder_hidden_size", "emb_dim",
                     "decoder_hidden_size", "projection_dim", "embedding_size", "out_hidden_size", "rnn_hidden_size",
                     "word_embed_proj_dim", "pooler_hidden_size", "hidden_size_per_layer_input", "output_dim",
                     "output_hidden_size"), WIDTH),
    **dict.fromkeys(("intermediate_size", "ffn_dim", "d_ff", "hidden_dim", "encoder_ffn_dim", "decoder_ffn_dim",
                     "mlp_dim", "n_inner", "feed_forward_hidden_size", "ffn_hidden_size", "d_inner", "inner_dim"),
                    2 * WIDTH),
    **dict.fromkeys(("head_dim", "d_kv", "attention_head_dim", "d_head", "attention_head_size", "qk_nope_head_dim",
                     "v_head_dim", "global_head_dim"), HEAD_DIM),
    **dict.fromkeys(("moe_intermediate_size", "shared_expert_intermediate_size", "expert_ffn_hidden_size",
                     "kv_lora_rank", "q_lora_rank", "moe_shared_expert_intermediate_size"), 16),
    **dict.fromkeys(EXPERT_NAMES, 4),
    **dict.fromkeys(("qk_rope_head_dim", "rotary_dim"), HEAD_DIM // 2),
    **dict.fromkeys(("num_experts_per_tok", "moe_top_k", "top_k_experts"), 2),
    **dict.fromkeys(("n_group", "topk_group", "num_expert_group"), 1),
    **dict.fromkeys(("max_position_embeddings", "n_positions", "max_seq_len", "n_ctx"), 512),
    "vocab_size": 1000,
    "image_size": 64,
    "image_embedding_size": 4,
    "num_queries": 8,
    "insert_layer_id": 0,
    "cross_attention_hidden_size": WIDTH,
    **dict.fromkeys(("upsample_groups", "fpn_hidden_size", "output_channels"), WIDTH),
}  # fmt: skip
# Where widths do not fit one another when they are small: layers, experts and the vocabulary alone.
SHALLOW = {name: small for name, small in SMALL.items() if name in (*LAYER_NAMES, *EXPERT_NAMES, "vocab_size")}
# What the default configurations of some types lack, or would need in order to keep an attention layer when small.
REPAIRS: dict[str, dict[str, Any]] = {
    "aria": {"projector_patch_to_query_dict": {4: 4}},
    "deepseek_v2": {"num_experts_per_tok": 2},
    "jamba": {"attn_layer_period": 2, "attn_layer_offset": 1},
    "pegasus_x": {"block_size": 8},
    "lw_detr": {"projector_scale_factors": [1.0]},
    "recurrent_gemma": {"num_hidden_layers": 3},
    "sam3_lite_text_text_model": {"num_hidden_layers": 4},
    "step3p5": {"sliding_window": 4},
    "xmod": {"default_language": "en_XX"},
}
DEPTHS = ("depths",)
KEY_VALUE_HEADS = ("num_key_value_heads", "num_kv_heads", "kv_n_heads", "num_key_value_heads_vision")
# Vision towers of SAM start from weights of 1e-10, with which nothing has an effect.
INITIAL = 0.02
VOCABULARY = SMALL["vocab_size"]


class OutOfTimeError(BaseException):
    """Raised when a model takes too long; no `Exception`, which the probe takes for an input that does not fit."""


@dataclass
class Covered:
    """What was found for one model type. `status` is "verified", "found", "none", "unsupported" or "not built"."""

    model_type: str
    status: str
    layers: int = 0
    layouts: list[str] = field(default_factory=list)
    kinds: list[str] = field(default_factory=list)
    others: list[str] = field(default_factory=list)
    trained: bool = False
    wrong: str = ""
    reason: str = ""
    feed_forward: str = "none"
    networks: int = 0
    network_layouts: list[str] = field(default_factory=list)
    frozen: list[str] = field(default_factory=list)
    network_reason: str = ""


# What `feed_forward` can be, in the words of the page.
FEED_FORWARD = {
    "measured": "found and measured",
    "found": "found by structure, where the model or a part of it could not be run",
    "unclear": "not understood",
    "refused": "in a model that is refused for its attention",
    "experts": "routed experts alone",
    "none": "none",
}


def cover(model_type: str) -> Covered:
    """Build a model type and report what qvtune finds in it."""
    try:
        with torch.device("meta"):
            model = AutoModel.from_config(_default(model_type))
    except Exception as error:  # whatever a configuration without its data raises
        return Covered(model_type, "not built", reason=_line(error))
    try:
        attention = find_attention(model, verify=False)
    except QVTuneError as error:
        text = str(error)
        status = "none" if _has_none(text) else "unsupported"
        result = Covered(model_type, status, reason=text.split(". State")[0])
        _note_networks(result, with_feed_forward(model, AttentionMap(model_type, ())))
        result.feed_forward = "refused" if result.feed_forward in ("found", "unclear") else result.feed_forward
        return result
    result = Covered(
        model_type,
        "found",
        len(attention),
        sorted({layer.layout for layer in attention}),
        sorted({layer.kind for layer in attention}),
        sorted({f"{other.class_name}: {other.reason}" for other in attention.others}),
    )
    _note_networks(result, attention)
    _measure(result, model_type, sum(p.numel() for p in model.parameters()))
    return result


def _note_networks(result: Covered, attention: AttentionMap) -> None:
    """Note what was found of the feed-forward."""
    result.networks = len(attention.feed_forward)
    result.network_layouts = sorted({layer.layout for layer in attention.feed_forward})
    result.frozen = sorted({f"{part.class_name}: {part.reason}" for part in attention.experts})
    unknown = sorted({f"{part.class_name}: {part.reason}" for part in attention.unknown})
    result.network_reason = "; ".join(unknown)
    found = "found" if attention.feed_forward else "experts" if attention.experts else "none"
    result.feed_forward = "unclear" if unknown else found


def _default(model_type: str) -> Any:
    config = CONFIG_MAPPING[model_type]()
    if getattr(config, "vocab_size", 0) is None:  # ESM names no vocabulary of its own
        config.vocab_size, config.pad_token_id, config.mask_token_id = VOCABULARY, 0, 1
    if isinstance(getattr(config, "backbone_config", None), transformers.TimmBackboneConfig):  # of a library of its own
        config.backbone_config = transformers.ResNetConfig(out_features=["stage2", "stage3", "stage4"])
    return config


def _measure(result: Covered, model_type: str, parameters: int) -> None:
    """Build the model small, or at its own size where that is small, and measure it."""
    reasons, ends = [], time.monotonic() + SECONDS
    # Eager attention of some models takes only masks that other implementations make, and the other way round.
    attempts: list[tuple[dict[str, int], str | None]] = [(SMALL, "eager"), (SMALL, None), (SHALLOW, "eager")]
    if parameters <= LARGEST:
        attempts.append(({}, "eager"))
    for sizes, implementation in attempts:
        try:
            with _limited(ends - time.monotonic()):
                config = shrunk(_default(model_type), sizes) if sizes else _default(model_type)
                if sizes is SHALLOW and _parameters(config) > LARGEST:
                    continue
                torch.manual_seed(0)
                model = AutoModel.from_config(config, attn_implementation=implementation).float().eval()
                attention = find_attention(model)
                result.status = "verified"
                if result.feed_forward == "found" and attention.unknown:
                    part = attention.unknown[0]
                    result.feed_forward, result.network_reason = "unclear", f"{part.class_name}: {part.reason}"
                elif result.feed_forward == "found" and attention.feed_forward:
                    is_measured = all(layer.verified for layer in attention.feed_forward)
                    result.feed_forward = "measured" if is_measured else "found"
                    result.network_layouts = sorted({layer.layout for layer in attention.feed_forward})
                result.wrong = _train_wrongly(model, attention)
                result.trained = not result.wrong
            return
        except QVTuneError as error:
            reasons.append(f"{error}")
        except OutOfTimeError as error:
            reasons.append(_line(error))
            break
        except Exception as error:
            reasons.append(_line(error))
    result.reason = reasons[0]


def _parameters(config: Any) -> int:
    with torch.device("meta"):
        return sum(p.numel() for p in AutoModel.from_config(copy.deepcopy(config)).parameters())


def _train_wrongly(model: nn.Module, attention: AttentionMap) -> str:
    """Adapt, change what trains, restore; return what changed and should not have, or the other way round."""
    for roles in ("qv", "k", *(() if attention.unknown else ("u", "gd"))):
        copied = copy.deepcopy(model)
        present = {p.role for p in attention.projections(roles)}
        chosen = "".join(role for role in roles if role in present)
        if not chosen:
            continue
        before = {name: p.detach().clone() for name, p in copied.named_parameters()}
        adapted = adapt(copied, roles=chosen, method="full", head=[], attention=attention)
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.grad = torch.ones_like(parameter)
        torch.optim.SGD([p for p in adapted.parameters() if p.requires_grad], lr=0.1).step()
        after = dict(restore(adapted).named_parameters())
        problem = _difference(model, attention, before, after, chosen)
        if problem:
            return f"roles {chosen}: {problem}"
    return ""


def _difference(model: nn.Module, attention: AttentionMap, before: dict, after: dict, roles: str) -> str:
    if before.keys() != after.keys():
        return f"other parameters: {sorted(before.keys() ^ after.keys())[:2]}"
    expected = {name: torch.zeros_like(old, dtype=torch.bool) for name, old in before.items()}
    for projection in attention.projections(roles):
        if projection.module in expected:  # a parameter of XLNet's
            expected[projection.module][...] = True
            continue
        index = torch.tensor(projection.rows.indices())
        module = model.get_submodule(projection.module)
        prefix = "in_proj_" if isinstance(module, nn.MultiheadAttention) else ""
        weight = expected[f"{projection.module}.{prefix}weight"]
        is_turned = type(module).__name__ == "Conv1D"
        (weight.T if is_turned else weight)[index] = True
        if projection.bias:
            expected[f"{projection.module}.{prefix}bias"][index] = True
        for name in projection.extra:
            expected[name][...] = True
    for name, old in before.items():
        moved = old != after[name]
        if not torch.equal(moved, expected[name]):
            return f"{name}: {int((moved != expected[name]).sum())} of {moved.numel()} values"
    return ""


def shrunk(config: Any, sizes: Mapping[str, int]) -> Any:
    """Return a configuration with these sizes where they are smaller, also in the configurations inside it."""
    heads = next((getattr(config, n) for n in HEAD_NAMES if isinstance(getattr(config, n, None), int)), HEADS)
    for name, value in list(vars(config).items()):
        if isinstance(value, transformers.PreTrainedConfig):
            setattr(config, name, shrunk(value, sizes))
            continue
        if name in DEPTHS and isinstance(value, list | tuple):
            _set(config, name, [min(depth, 2) for depth in value])
        if sizes is SMALL and name in HEAD_NAMES and isinstance(value, list | tuple) and hasattr(config, "embed_dim"):
            _set(config, name, [HEADS * many // value[0] for many in value])
        if isinstance(value, bool) or not isinstance(value, int) or value <= 0:
            continue
        small = sizes.get(name)
        if name in KEY_VALUE_HEADS and sizes is SMALL:
            small = HEADS if value >= heads else min(value, KV_HEADS)
        if small is not None and small < value:
            _set(config, name, small)
    if 0 < (getattr(config, "initializer_range", None) or 1) < INITIAL:
        _set(config, "initializer_range", INITIAL)
    if hasattr(config, "qk_rope_head_dim") and hasattr(config, "head_dim"):
        _set(config, "head_dim", config.qk_rope_head_dim)
    for rope in (getattr(config, "rope_parameters", None), getattr(config, "rope_scaling", None)):
        if sizes is SMALL and isinstance(rope, dict):
            turned = int(HEAD_DIM * rope.get("partial_rotary_factor", 1)) // 2
            rope["mrope_section"] = [turned - 2 * (turned // 3), turned // 3, turned // 3]
    layers = next((getattr(config, n) for n in LAYER_NAMES if isinstance(getattr(config, n, None), int)), None)
    types = getattr(config, "layer_types", None)
    if isinstance(types, list) and layers is not None and len(types) > layers:
        kinds = list(dict.fromkeys(types))
        _set(config, "layer_types", (kinds * layers)[: max(layers, len(kinds))])
        for name in LAYER_NAMES:
            if isinstance(getattr(config, name, None), int):
                _set(config, name, max(layers, len(kinds)))
    for name, value in list(vars(config).items()):
        if name.endswith(("_token_id", "_token_index")) and isinstance(value, int) and value >= VOCABULARY:
            _set(config, name, VOCABULARY - 1 - sum(map(ord, name)) % 200)
    for name, value in REPAIRS.get(config.model_type, {}).items():
        _set(config, name, value)
    return config


def _set(config: Any, name: str, value: Any) -> None:
    try:
        setattr(config, name, value)
    except Exception:  # some configurations check on setting, against sizes that are still large
        object.__setattr__(config, name, value)


def page(results: list[Covered]) -> str:
    """Return the results as a page in Markdown."""
    by_status = {status: [r for r in results if r.status == status] for status in STATUSES}
    found = by_status["verified"] + by_status["found"]
    with_attention = len(found) + len(by_status["unsupported"])
    lines = [
        "# Coverage",
        "",
        "Made by `python tools/model_coverage.py --page docs/coverage.md`, with transformers "
        f"{transformers.__version__}.",
        "",
        f"transformers names {len(results)} model types. {len(results) - len(by_status['not built'])} of them build "
        f"from their default configuration, {with_attention} of these with softmax attention. In **{len(found)} of "
        f"{with_attention}** ({len(found) / max(1, with_attention):.1%}) every attention layer is found, or named as "
        "one that has no query, key and value to adapt.",
        "",
        f"**{len(by_status['verified'])}** were also measured: a small model with random weights was built and run, "
        "the probe confirmed the roles of every layer, and one step of full training of query and value, one of "
        "the key, one of up, and one of gate and down, changed their rows and nothing else, in the model as it was "
        "before it was split. "
        f"{sum(bool(r.wrong) for r in results)} changed something else.",
        "",
        "| layout | model types | measured |",
        "| --- | --- | --- |",
        *(
            f"| {layout} | {sum(layout in r.layouts for r in found)} | "
            f"{sum(layout in r.layouts for r in by_status['verified'])} |"
            for layout in sorted({layout for r in found for layout in r.layouts})
        ),
        "",
        *_feed_forward_lines(results),
        "## Found by structure, not measured",
        "",
        "`find_attention` and `adapt` refuse these until they get inputs that the model accepts, `inputs={...}`, or "
        "are told to do without, `find_attention(model, verify=False)`.",
        "",
        *_reasons(by_status["found"]),
        "",
        "## Not supported",
        "",
        *_reasons(by_status["unsupported"]),
        "",
        "## Without softmax attention",
        "",
        *_reasons(by_status["none"]),
        "",
        "## Layers that are left alone in models that are found",
        "",
        *(f"- {other}: " + ", ".join(f"`{r.model_type}`" for r in found if other in r.others)
          for other in sorted({other for r in found for other in r.others})),
        "",
        "## Not built from a default configuration",
        "",
        *_reasons(by_status["not built"]),
    ]  # fmt: skip
    return "\n".join(lines) + "\n"


def _feed_forward_lines(results: list[Covered]) -> list[str]:
    """Return the part of the page about gate, up and down."""
    kinds = {kind: [r for r in results if r.feed_forward == kind and r.status != "not built"] for kind in FEED_FORWARD}
    found = kinds["measured"] + kinds["found"]
    with_networks = len(found) + len(kinds["unclear"]) + len(kinds["refused"])
    layouts = sorted({layout for r in found for layout in r.network_layouts})
    reasons = sorted({reason for r in found + kinds["experts"] for reason in r.frozen})
    frozen: dict[str, list[str]] = {}
    for reason in reasons:
        names = [f"`{r.model_type}`" for r in found if reason in r.frozen]
        frozen.setdefault(reason.partition(": ")[2], []).extend(names)
    return [
        "## The feed-forward",
        "",
        f"{with_networks} types have a feed-forward network that every token passes. In **{len(found)} of "
        f"{with_networks}** ({len(found) / max(1, with_networks):.1%}) `--roles gud` finds it. "
        f"**{len(kinds['measured'])}** were measured, and a step changed the rows of the chosen roles alone.",
        "",
        "| feed-forward | model types |",
        "| --- | --- |",
        *(f"| {words} | {len(kinds[kind])} |" for kind, words in FEED_FORWARD.items()),
        "",
        "| layout of gate and up | model types | measured |",
        "| --- | --- | --- |",
        *(
            f"| {layout} | {sum(layout in r.network_layouts for r in found)} | "
            f"{sum(layout in r.network_layouts for r in kinds['measured'])} |"
            for layout in layouts
        ),
        "",
        "Not understood; `--roles gud` is refused, and attention trains:",
        "",
        *_reasons([replace(r, reason=r.network_reason) for r in kinds["unclear"]]),
        "",
        f"In a model that is refused for its attention: {_typed(kinds['refused'])}.",
        "",
        f"Routed experts alone, which stay frozen; `--roles gud` is refused: {_typed(kinds['experts'])}.",
        "",
        "Beside the shared and dense parts that are found, these stay frozen:",
        "",
        *(f"- {reason}: " + ", ".join(sorted(set(names))) for reason, names in frozen.items() if names),
        "",
        f"Without a feed-forward of linear layers in its blocks: {_typed(kinds['none'])}.",
        "",
    ]  # fmt: skip


def _typed(results: list[Covered]) -> str:
    return ", ".join(f"`{result.model_type}`" for result in results)


def _reasons(results: list[Covered]) -> list[str]:
    by_reason: dict[str, list[str]] = {}
    for result in results:
        reason = result.reason.split(". Give inputs")[0].split(" Probed:")[0].replace(f"'{result.model_type}'", "")
        reason = re.sub(r"^the model could not be run on a short input to measure its roles: ", "", reason)
        reason = re.sub(r"<class '[^']*'>|from '/[^']*'?", "...", reason)
        reason = re.sub(r"model type\s+has", "has", reason.split(". State")[0])
        by_reason.setdefault(reason.replace("|", "/")[:160], []).append(f"`{result.model_type}`")
    return [f"- {', '.join(names)}: {reason}" for reason, names in sorted(by_reason.items(), key=lambda x: -len(x[1]))]


def _has_none(text: str) -> bool:
    """Whether a refusal says that there is no softmax attention in the model, rather than one it cannot take."""
    return any(mark in text for mark in NO_SOFTMAX) and "look like attention" not in text


@contextmanager
def _limited(seconds: float) -> Iterator[None]:
    def stop(number: int, frame: Any) -> None:
        raise OutOfTimeError(f"took more than {SECONDS} seconds")

    before = signal.signal(signal.SIGALRM, stop)
    signal.setitimer(signal.ITIMER_REAL, max(0.1, seconds))
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def _line(error: BaseException) -> str:
    text = str(error).strip().splitlines()
    return f"{type(error).__name__}: {text[0][:160] if text else ''}"


def main() -> None:
    """Cover the model types, and write the table and the page."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").splitlines()[0])
    parser.add_argument("types", nargs="*", help="Model types; all of the installed transformers when left out.")
    parser.add_argument("--out", type=Path, default=None, metavar="FILE", help="Write the results as JSON.")
    parser.add_argument("--page", type=Path, default=None, metavar="FILE", help="Write the page.")
    parser.add_argument("--from", dest="source", type=Path, metavar="FILE", help="Make the page of earlier results.")
    args = parser.parse_args()
    if args.source:
        results = [Covered(**values) for values in json.loads(args.source.read_text(encoding="utf-8"))]
        args.page.write_text(page(results), encoding="utf-8")
        return
    warnings.filterwarnings("ignore")
    logging.disable(logging.WARNING)
    transformers.utils.logging.set_verbosity_error()
    torch.set_num_threads(1)
    started, results = time.monotonic(), []
    names = args.types or sorted(CONFIG_MAPPING_NAMES)
    for number, name in enumerate(names, 1):
        result = cover(name)
        results.append(result)
        left = (time.monotonic() - started) / number * (len(names) - number)
        told = f"{name}: {result.status} {result.feed_forward} {result.network_reason or result.wrong or result.reason}"
        told = told[:200]
        print(f"{number}/{len(names)} {told}, {left:.0f} s left", file=sys.stderr, flush=True)
    if args.page:
        args.page.write_text(page(results), encoding="utf-8")
    if args.out:
        args.out.write_text(json.dumps([asdict(result) for result in results], indent=1) + "\n", encoding="utf-8")
    print(Counter(result.status for result in results))


if __name__ == "__main__":
    main()
