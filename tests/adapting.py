"""What tests of `adapt` and `restore` share."""

import torch
from models import batch
from peft import PeftModel


def expected_trainable(model, family, roles, method, head, layers=None):
    """Name what trains, from the names written by hand."""
    names = set()
    for module in family.projections(roles, layers):
        if method == "lora":
            names |= {f"{module}.lora_A.default.weight", f"{module}.lora_B.default.weight"}
        else:
            names.add(f"{module}.weight")
            if any(name == f"{module}.bias" for name, _ in model.named_parameters()):
                names.add(f"{module}.bias")
    for module in head:
        inner = [name for name, _ in model.named_parameters() if name.startswith(module + ".")]
        middle = ".modules_to_save.default" if method == "lora" else ""
        names |= {module + middle + name.removeprefix(module) for name in inner}
    return names


def step(model, inputs=None):
    """Take one AdamW step with a big rate; the decay moves also what has no gradient but for rounding (key biases)."""
    model.train()
    model(**(inputs or batch())).loss.backward()
    trainable = [p for p in model.parameters() if p.requires_grad]
    torch.optim.AdamW(trainable, lr=0.1, weight_decay=0.1).step()
    return {name: p.grad for name, p in inner_of(model).named_parameters() if p.grad is not None}


def inner_of(model):
    return model.get_base_model() if isinstance(model, PeftModel) else model


def changed_after_a_step(model):
    before = {name: p.detach().clone() for name, p in inner_of(model).named_parameters()}
    gradients = step(model)
    flat = [n for n, g in gradients.items() if not g.any() and ".k" not in n and "key" not in n]
    assert flat == []
    return {name for name, p in inner_of(model).named_parameters() if not torch.equal(p, before[name])}


@torch.no_grad()
def logits(model):
    inputs = batch()
    inputs.pop("labels")
    return model.eval()(**inputs).logits
