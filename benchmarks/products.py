"""Products with frozen bfloat16 weights: torch's linear layer beside the packed weights of the fast path, by rows.

    python benchmarks/products.py --out docs/benchmarks/products

A measurement is the forward and the backward product of a layer, (rows, d) to (rows, o). Both kinds take turns, and the
tenth-fastest of a hundred counts, of three rounds the lower. `MOST_ROWS` of `qvtune/fast/frozen.py` is chosen by this.
"""

import argparse
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from results import for_this_machine, write_results

# Outputs and inputs of layers of MiniLM, SmolLM2 and BERT.
SHAPES = ((384, 384), (1536, 384), (384, 1536), (576, 576), (1536, 576), (576, 1536), (768, 768), (3072, 768))
ROWS = (256, 512, 768, 1024, 1536, 2048, 4096)
REPEATS, ROUNDS = 100, 3


def milliseconds(step: Callable[[], None], repeats: int) -> float:
    """Return the time that a tenth of the calls undercut."""
    times = []
    for _ in range(repeats):
        start = time.perf_counter()
        step()
        times.append(time.perf_counter() - start)
    return 1000 * sorted(times)[repeats // 10]


def measure(outputs: int, inputs: int, rows: int) -> tuple[float, float]:
    """Return the milliseconds of torch's layer and of the packed one."""
    import torch
    from torch import nn

    from qvtune.fast import frozen

    torch.manual_seed(0)
    plain, packed = (nn.Linear(inputs, outputs).to(torch.bfloat16).requires_grad_(False) for _ in range(2))
    packed.__class__ = frozen.FastFrozenLinear
    x = torch.randn(rows, inputs, dtype=torch.bfloat16, requires_grad=True)
    given = torch.randn(rows, outputs, dtype=torch.bfloat16)

    def step(layer: nn.Module) -> None:
        layer(x).backward(given)
        x.grad = None

    most, frozen.MOST_ROWS = frozen.MOST_ROWS, rows  # also where a run would not pack
    try:
        step(packed)
        found = [
            (milliseconds(lambda: step(plain), REPEATS), milliseconds(lambda: step(packed), REPEATS))
            for _ in range(ROUNDS)
        ]
    finally:
        frozen.MOST_ROWS = most
    return min(first for first, _ in found), min(second for _, second in found)


def main() -> None:
    """Measure every shape, and write the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--out", type=Path, default=Path("docs/benchmarks/products"), metavar="FILE")
    args = parser.parse_args()
    from qvtune.fast.frozen import MOST_ROWS

    lines = [f"| layer | {' | '.join(f'{rows:,} rows' for rows in ROWS)} |", "| --- " * (len(ROWS) + 1) + "|"]
    numbers: dict[str, Any] = {}
    for outputs, inputs in SHAPES:
        found = {rows: measure(outputs, inputs, rows) for rows in ROWS}
        name = f"{inputs} to {outputs}"
        numbers[name] = {str(rows): {"torch_ms": a, "packed_ms": b} for rows, (a, b) in found.items()}
        lines.append(f"| {name} | {' | '.join(f'{a / b:.2f}' for a, b in found.values())} |")
        print(lines[-1], flush=True)
    text = "\n".join(lines)
    text += (
        "\n\nThe time of torch's layer as a multiple of that with packed weights: above 1, packing pays. With AMX, "
        f"runs pack for products of up to {MOST_ROWS:,} rows, and leave others to oneDNN."
    )
    write_results(for_this_machine(args.out), "Products with frozen weights", text, {"products": numbers})


if __name__ == "__main__":
    main()
