"""`scaling_experiment`: Theorem 2 on a toy layer and on real blocks, from measurements to fitted exponents."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import replace
from itertools import product
from typing import Any

import numpy as np
import torch
from rich.console import Console

from qvtune.options import parse_options
from qvtune.progress import track
from qvtune.theory.blocks import FAMILIES, RATES, SIDES, measure_block
from qvtune.theory.fit import fit_exponent
from qvtune.theory.options import ScalingOptions
from qvtune.theory.predict import predicted_exponents, verdict
from qvtune.theory.results import BlockResult, ScalingResult, Sizes, ToyResult
from qvtune.theory.toy import QUANTITIES, Attention, Setting, Value, draw, measure

# Rates by name: η = n^-a for each a.
SCALINGS = {"1": 0.0, "n^-1/2": 0.5, "n^-1": 1.0}
# Linear attention is exactly multilinear; softmax bounds the output; a fully trained value contracts over the width
# too.
TOYS: tuple[tuple[Attention, Value], ...] = (("linear", "factor"), ("softmax", "factor"), ("linear", "full"))


def scaling_experiment(options: Mapping[str, Any], *, console: Console | None = None) -> ScalingResult:
    """Measure how the change of attention's output in a training step grows with the width n (Yao et al., Theorem 2).

    A toy layer is trained with every pair of rates η_QK, η_V among 1, n^-1/2 and n^-1. The changes in each step through
    query and key (d1), through the value (d2) and through both at once (d3) are measured by freezing one side at a
    time. Their exponents are fitted over the widths. Blocks of real families with random weights, trained in full and
    by LoRA, get the coordinate check of both sides.

    Args:
        options: fields of `qvtune.theory.options.ScalingOptions`, such as {"widths": [64, 256, 1024], "blocks": False}.
        console: where progress goes; standard error when None.

    Raises:
        ConfigError: for options that make no sense.
    """
    chosen = parse_options(ScalingOptions, dict(options))
    console = console or Console(stderr=True)
    with _one_thread():
        toys = tuple(_measure_toys(chosen, console))
        sizes = _measure_blocks(chosen, console) if chosen.blocks else {}
    blocks = tuple(_block_result(chosen.block_widths, *kind, found) for kind, found in sizes.items())
    assumed = {
        family: fit_exponent(
            chosen.block_widths, (sizes[family, "full"]["query_key"] / sizes[family, "lora"]["value"])[..., 0]
        )
        for family in (FAMILIES if chosen.blocks else ())
    }
    return ScalingResult(chosen, toys, blocks, assumed)


@contextmanager
def _one_thread() -> Iterator[None]:
    """Compute on one thread: sums then have the same order everywhere, and small matrices gain nothing by more."""
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(threads)


def _seed(root: int, member: int, width: int) -> int:
    """Return the seed of everything random in one toy layer or block."""
    return int(np.random.SeedSequence((root, member, width)).generate_state(1)[0])


def _measure_toys(options: ScalingOptions, console: Console) -> Iterator[ToyResult]:
    settings = [
        (Setting(*toy, SCALINGS[query_key], SCALINGS[value]), query_key, value)
        for toy in TOYS
        for query_key, value in product(SCALINGS, SCALINGS)
    ]
    shape = (len(options.widths), options.seeds, options.steps)
    sizes = np.empty((len(settings), *shape, len(QUANTITIES)))
    entropies = np.full((len(settings), *shape), np.nan)
    # Seeds in the outer loop, so that the time left can be estimated from the finished seeds.
    tasks = list(product(range(options.seeds), enumerate(options.widths)))
    for member, (w, width) in track(tasks, len(tasks), "toy layer", console):
        layer = draw(_seed(options.seed, member, width), width)
        for c, (setting, _, _) in enumerate(settings):
            for step, changes in enumerate(measure(layer, setting, options.optimizer, options.steps)):
                sizes[c, w, member, step] = [changes[name] for name in QUANTITIES]
                entropies[c, w, member, step] = changes.get("entropy", np.nan)
    for c, (setting, query_key, value) in enumerate(settings):
        entropy = float(entropies[c, -1, :, -1].mean()) if setting.attention == "softmax" else None
        yield _toy_result(options.widths, setting, (query_key, value), sizes[c], entropy)


def _toy_result(
    widths: list[int], setting: Setting, names: tuple[str, str], sizes: Sizes, entropy: float | None
) -> ToyResult:
    steps = range(sizes.shape[2])
    exponents = tuple(
        {name: fit_exponent(widths, sizes[:, :, step, q]) for q, name in enumerate(QUANTITIES)} for step in steps
    )
    predicted = tuple(predicted_exponents(setting, step + 1) for step in steps)
    result = ToyResult(setting.attention, setting.value, *names, sizes, exponents, predicted, {}, entropy)
    return replace(result, verdict=verdict(exponents[result.shown_step]))


def _measure_blocks(options: ScalingOptions, console: Console) -> dict[tuple[str, str], dict[str, Sizes]]:
    shape = (len(options.block_widths), options.block_seeds, options.steps)
    kinds = list(product(FAMILIES, RATES))
    sizes = {kind: {side: np.empty(shape) for side in SIDES} for kind in kinds}
    tasks = list(product(range(options.block_seeds), enumerate(options.block_widths), kinds))
    for member, (w, width), kind in track(tasks, len(tasks), "real blocks", console):
        seed = _seed(options.seed, member, width)
        for side, found in measure_block(*kind, width, seed, options.optimizer, options.steps).items():
            sizes[kind][side][w, member] = found
    return sizes


def _block_result(widths: list[int], family: str, method: str, sizes: dict[str, Sizes]) -> BlockResult:
    ratio = sizes["query_key"] / sizes["value"]
    exponents = tuple(
        {name: fit_exponent(widths, of[:, :, step]) for name, of in {**sizes, "lambda": ratio}.items()}
        for step in range(ratio.shape[2])
    )
    factors = np.exp(-np.log(ratio[:, :, 0]).mean(axis=1))
    by_width = {width: float(factor) for width, factor in zip(widths, factors, strict=True)}
    return BlockResult(family, method, RATES[method], sizes, exponents, by_width)
