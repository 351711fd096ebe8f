"""Short random inputs for a model of text, images, video or sound, made from its configuration."""

from typing import Any

import torch
from torch import Tensor

POSITIONS = 8
# Samples of a waveform: a few steps after the strides of a feature extractor, 320 as a rule.
SAMPLES = 6400
FRAMES = 64
IMAGE = 64

IMAGE_SIZES = ("image_size", "img_size", "input_size", "pretrain_image_size")
CHANNELS = ("num_channels", "in_channels", "in_chans", "num_input_channels")
INSIDE = ("vision_config", "audio_config", "encoder_config", "backbone_config")
FEATURES = ("input_feat_per_channel", "feature_projection_input_dim", "num_mel_bins", "input_feat_size", "input_dim")


def dummy_inputs(model: Any, positions: int = POSITIONS) -> dict[str, Tensor]:
    """Make one short random input from a model's configuration, without touching the global random state."""
    generator = torch.Generator().manual_seed(0)
    main = getattr(model, "main_input_name", "input_ids")
    parameter = next(model.parameters())
    made = _make(model, main, positions, generator)
    return {name: _placed(value, parameter) for name, value in made.items()}


def _make(model: Any, main: str, positions: int, generator: torch.Generator) -> dict[str, Tensor]:
    config = model.config
    if main == "input_ids" and not hasattr(config.get_text_config(), "vocab_size"):
        main = "pixel_values"  # towers whose class does not say what they read
    if main in ("pixel_values", "pixel_values_videos"):
        return {main: _image(config, generator, video=main == "pixel_values_videos" or hasattr(config, "num_frames"))}
    inputs = {}
    if main == "input_values":
        inputs[main] = _sound(config, generator)
    elif main == "input_features":
        inputs[main] = _spectrogram(config, generator)
    else:
        inputs[main] = _ids(config, positions, generator)
    if config.is_encoder_decoder:
        inputs["decoder_input_ids"] = inputs["input_ids"] if main == "input_ids" else _ids(config, positions, generator)
    return inputs


def _ids(config: Any, positions: int, generator: torch.Generator) -> Tensor:
    text = config.get_text_config()
    vocabulary = text.vocab_size
    special = {getattr(config, f"{name}_token_id", None) for name in ("pad", "eos", "bos")}
    # Placeholders of images and sounds stand for inputs that are not given.
    special |= {
        v for name, v in vars(config).items() if name.endswith(("_token_id", "_token_index")) and isinstance(v, int)
    }
    eos = getattr(config, "eos_token_id", None)
    ordinary = torch.tensor([token for token in range(min(vocabulary, 5000)) if token not in special])
    ids = ordinary[torch.randint(len(ordinary), (1, positions), generator=generator)]
    if isinstance(eos, int) and eos < vocabulary:
        ids[:, -1] = eos  # BART and T5 classifiers pool at the end-of-sequence token
    return ids


def _image(config: Any, generator: torch.Generator, *, video: bool) -> Tensor:
    size = _first(config, IMAGE_SIZES, IMAGE)
    if isinstance(size, dict):
        size = (size["height"], size["width"])
    height, width = (size, size) if isinstance(size, int) else tuple(size)[-2:]
    frames = (_first(config, ("num_frames",), 2),) if video else ()
    return torch.randn(1, *frames, _first(config, CHANNELS, 3), height, width, generator=generator)


def _sound(config: Any, generator: torch.Generator) -> Tensor:
    if hasattr(config, "num_mel_bins") and hasattr(config, "max_length"):
        return torch.randn(1, config.max_length, config.num_mel_bins, generator=generator)
    channels = (1,) if hasattr(config, "audio_channels") else ()
    return torch.randn(1, *channels, SAMPLES, generator=generator)


def _spectrogram(config: Any, generator: torch.Generator) -> Tensor:
    if hasattr(config, "max_source_positions") and not hasattr(config, "input_feat_per_channel"):
        return torch.randn(1, config.num_mel_bins, 2 * config.max_source_positions, generator=generator)
    return torch.randn(1, FRAMES, _first(config, FEATURES, 80), generator=generator)


def _placed(value: Tensor, parameter: Tensor) -> Tensor:
    return value.to(parameter.device, parameter.dtype) if value.is_floating_point() else value.to(parameter.device)


def _first(config: Any, names: tuple[str, ...], default: Any) -> Any:
    inside = (getattr(config, name, None) for name in INSIDE)
    sources = [config, *(source for source in inside if source is not None)]
    values = (getattr(source, name, None) for source in sources for name in names)
    return next((value for value in values if value is not None), default)
