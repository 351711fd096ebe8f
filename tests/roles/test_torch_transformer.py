"""torch's Transformer layers around its attention: they read its weights past whatever is attached to it."""

import pytest
import torch
from models import assert_same_state, snapshot
from rounding import assert_near
from torch import nn

from qvtune.adaptation import adapt, restore
from qvtune.roles.find import find_attention


class Encoder(nn.Module):
    """Two of torch's encoder layers, which have a fast path in evaluation mode, and with padding another."""

    def __init__(self, *, bias: bool = True, batch_first: bool = True) -> None:
        super().__init__()
        torch.manual_seed(0)
        layer = nn.TransformerEncoderLayer(32, 4, 64, batch_first=batch_first, dropout=0.0, bias=bias)
        self.body = nn.TransformerEncoder(layer, 2)
        for parameter in self.parameters():
            nn.init.normal_(parameter, std=0.3)
        self.eval()

    def forward(self, hidden: torch.Tensor, padding: torch.Tensor | None = None) -> torch.Tensor:
        return self.body(hidden, src_key_padding_mask=padding)


class Decoder(nn.Module):
    """A torch decoder layer, with self- and cross-attention."""

    def __init__(self) -> None:
        super().__init__()
        torch.manual_seed(0)
        self.body = nn.TransformerDecoder(nn.TransformerDecoderLayer(32, 4, 64, batch_first=True, dropout=0.0), 1)
        self.eval()

    def forward(self, hidden: torch.Tensor, padding: torch.Tensor | None = None) -> torch.Tensor:
        return self.body(hidden, 2 * hidden.flip(1), tgt_key_padding_mask=padding)


MODELS = {
    "encoder": Encoder,
    "encoder without biases": lambda: Encoder(bias=False),
    "encoder, positions first": lambda: Encoder(batch_first=False),
    "decoder": Decoder,
}
HIDDEN = torch.randn(3, 5, 32, generator=torch.Generator().manual_seed(2))
PADDING = torch.zeros(3, 5, dtype=torch.bool)
PADDING[1, 3:] = True


def paddings(name: str) -> list[torch.Tensor | None]:
    return [None] if "positions first" in name else [None, PADDING]


@pytest.mark.filterwarnings("ignore:enable_nested_tensor is True")
@pytest.mark.filterwarnings("ignore:The PyTorch API of nested tensors")
@pytest.mark.parametrize("name", MODELS)
@pytest.mark.parametrize("method", ["lora", "full"])
def test_it_is_measured_adapted_and_restored(name: str, method: str) -> None:
    model = MODELS[name]()
    before = snapshot(model)
    keep = torch.ones(3, 5, dtype=torch.bool)
    with torch.no_grad():  # in which the fast paths are taken
        plain = {i: model(HIDDEN, padding) for i, padding in enumerate(paddings(name))}
        attention = find_attention(model, inputs={"hidden": HIDDEN})
        assert all(layer.verified for layer in attention)
        adapted = adapt(model, roles="qkvo", method=method, attention=attention, head=[])
        for i, padding in enumerate(paddings(name)):
            kept = keep if padding is None else ~padding
            assert_near(model(HIDDEN, padding)[kept], plain[i][kept])
        for parameter in adapted.parameters():
            if parameter.requires_grad:
                parameter.add_(0.3)
        assert (model(HIDDEN) - plain[0]).abs().max() > 0.01  # what trains has an effect in evaluation mode
    if method == "lora":
        restore(adapted, merge=False)
        assert_same_state(before, model)
