"""Short random inputs for a model, made from its configuration."""

from typing import Any

import torch
from torch import Tensor

POSITIONS = 8


def dummy_inputs(inner: Any, positions: int = POSITIONS) -> dict[str, Tensor]:
    """Make one short random input from the model's configuration, without touching the global random state."""
    generator = torch.Generator().manual_seed(0)
    config = inner.config
    device = next(inner.parameters()).device
    main = getattr(inner, "main_input_name", "input_ids")
    if main == "pixel_values":
        size = config.image_size
        height, width = (size, size) if isinstance(size, int) else size
        image = torch.randn(1, config.num_channels, height, width, generator=generator)
        return {main: image.to(device, next(inner.parameters()).dtype)}
    vocabulary = config.get_text_config().vocab_size
    special = {getattr(config, f"{name}_token_id", None) for name in ("pad", "eos", "bos")}
    eos = getattr(config, "eos_token_id", None)
    ordinary = torch.tensor([token for token in range(min(vocabulary, 5000)) if token not in special])
    ids = ordinary[torch.randint(len(ordinary), (1, positions), generator=generator)]
    if isinstance(eos, int) and eos < vocabulary:
        ids[:, -1] = eos  # BART and T5 classifiers pool at the end-of-sequence token
    inputs = {"input_ids": ids.to(device)}
    if config.is_encoder_decoder:
        inputs["decoder_input_ids"] = inputs["input_ids"]
    return inputs
