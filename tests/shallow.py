"""The first layers of a packaged model, for tests of what is around many runs."""

from pathlib import Path

from transformers import AutoModel, AutoModelForCausalLM, AutoTokenizer, GgufConfig

from qvtune.data.packaged import locate_model


def two_layers(name: str, folder: Path) -> Path:
    """Save the first two layers of a packaged model and its tokenizer, and return where."""
    whole, gguf = locate_model(name)
    kept = folder / f"two-layers-of-{name}"
    settings = {"gguf_file": gguf} if gguf else {}
    if gguf:
        dequantized = {"quantization_config": GgufConfig(dequantize=True)}
        small = AutoModelForCausalLM.from_pretrained(whole, num_hidden_layers=2, **settings, **dequantized)
    else:
        small = AutoModel.from_pretrained(whole, num_hidden_layers=2)
    small.save_pretrained(kept)
    AutoTokenizer.from_pretrained(whole, **settings).save_pretrained(kept)
    return kept
