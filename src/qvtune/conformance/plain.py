"""The adapter in plain PEFT, on a model that qvtune has not touched."""

from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from qvtune.adaptation import restore
from qvtune.conformance.material import Batch, make_model


def load_in_peft(folder: Path) -> nn.Module:
    """Return the suite's model as it was before `adapt`, with the adapter that a folder holds."""
    from peft import PeftModel

    base: Any = restore(make_model(), merge=False)
    return PeftModel.from_pretrained(base, str(folder))


def outputs(model: Any, batch: Batch) -> Tensor:
    """Return a model's logits, on the CPU."""
    model.eval()
    with torch.no_grad():
        inputs = {name: tensor for name, tensor in batch.items() if name != "labels"}
        return model(**inputs).logits.detach()
