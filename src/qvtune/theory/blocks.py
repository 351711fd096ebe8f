"""The coordinate check of the two sides of attention on real transformer blocks of several widths.

For each side, a block with random weights of variance 1/width trains that side alone, at a rate that does not depend on
the width. The measure is the change per coordinate, in each step, of the input of the attention's output projection:
the root mean square over positions and channels.
"""

from collections.abc import Callable, Mapping
from itertools import pairwise
from typing import Any

import torch
from torch import Tensor, nn

from qvtune.adaptation import adapt
from qvtune.groups import param_groups
from qvtune.rates import NO_DECAY
from qvtune.roles.find import find_attention
from qvtune.roles.unwrap import unwrap
from qvtune.theory.options import HEAD_DIM
from qvtune.theory.steps import make_optimizer

# Sizes that stay fixed while more heads make the width grow.
SEQUENCES, LENGTH, VOCABULARY = 4, 8, 256
RANK = 8
# Small enough that one step changes outputs in proportion, and close to each method's usual rates.
RATES = {"full": 1e-5, "lora": 1e-3}
SIDES = {"query_key": ("query", "key"), "value": ("value",)}


def _bert(width: int) -> nn.Module:
    from transformers import BertConfig, BertForSequenceClassification

    return BertForSequenceClassification(
        BertConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            num_hidden_layers=1,
            num_attention_heads=width // HEAD_DIM,
            intermediate_size=2 * width,
            max_position_embeddings=LENGTH,
            initializer_range=width**-0.5,
        )
    )


def _llama(width: int) -> nn.Module:
    from transformers import LlamaConfig, LlamaForSequenceClassification

    return LlamaForSequenceClassification(
        LlamaConfig(
            vocab_size=VOCABULARY,
            hidden_size=width,
            num_hidden_layers=1,
            num_attention_heads=width // HEAD_DIM,
            num_key_value_heads=width // HEAD_DIM,
            intermediate_size=2 * width,
            max_position_embeddings=LENGTH,
            initializer_range=width**-0.5,
            pad_token_id=0,
        )
    )


def _gpt2(width: int) -> nn.Module:
    from transformers import GPT2Config, GPT2ForSequenceClassification

    return GPT2ForSequenceClassification(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_embd=width,
            n_layer=1,
            n_head=width // HEAD_DIM,
            n_inner=2 * width,
            n_positions=LENGTH,
            initializer_range=width**-0.5,
            bos_token_id=0,
            eos_token_id=0,
            pad_token_id=0,
        )
    )


FAMILIES: Mapping[str, Callable[[int], nn.Module]] = {"bert": _bert, "llama": _llama, "gpt2": _gpt2}


def measure_block(
    family: str, method: str, width: int, seed: int, optimizer: str, steps: int
) -> dict[str, list[float]]:
    """Train each side of a block in turn, from the same start, and measure what each step changes.

    Args:
        family: a name in `FAMILIES`.
        method: "full" or "lora"; both sides train at its rate in `RATES`.
        width: a multiple of `HEAD_DIM`.
        seed: seed of weights, tokens and labels, which are the same for every method.
        optimizer: "adam" or "sign".
        steps: number of steps.

    Returns:
        For "query_key" and "value", the root mean square change per coordinate of every step.
    """
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        plain = FAMILIES[family](width).eval()
        inputs = {
            "input_ids": torch.randint(1, VOCABULARY, (SEQUENCES, LENGTH)),
            "attention_mask": torch.ones(SEQUENCES, LENGTH, dtype=torch.long),
        }
        labels = torch.randint(0, 2, (SEQUENCES,))
        attention = find_attention(plain, inputs=inputs)
        lora: dict[str, Any] = {"rank": RANK, "alpha": RANK, "dropout": 0.0} if method == "lora" else {}
        model = adapt(plain, roles="qkv", method=method, attention=attention, **lora)
    contexts: list[Tensor] = []
    output = unwrap(model).get_submodule(attention.layers[0]["o"].module)
    output.register_forward_pre_hook(lambda _, args: contexts.append(args[0].detach()))
    start = {name: parameter.detach().clone() for name, parameter in model.named_parameters()}
    groups = {group["name"]: group for group in param_groups(model, lr=RATES[method])}
    found = {}
    for side, roles in SIDES.items():
        chosen = [groups[name + spared] for name in roles for spared in ("", NO_DECAY) if name + spared in groups]
        contexts.clear()
        with torch.no_grad():
            for name, parameter in model.named_parameters():
                parameter.copy_(start[name])
        _train(model, inputs | {"labels": labels}, make_optimizer(optimizer, chosen), steps)
        found[side] = [_rms(after.double() - before.double()) for before, after in pairwise(contexts)]
    return found


def _train(model: nn.Module, inputs: dict[str, Tensor], optimizer: torch.optim.Optimizer, steps: int) -> None:
    """Take some steps; a final forward pass shows the change of the last step."""
    for _ in range(steps):
        model.zero_grad()
        model(**inputs).loss.backward()
        optimizer.step()
    with torch.no_grad():
        model(**inputs)


def _rms(change: Tensor) -> float:
    return float(change.square().mean().sqrt())
