"""Short random inputs for a model of text, images, video or sound, made from its configuration."""

import inspect
from collections.abc import Iterator, Mapping
from typing import Any

import torch
from torch import Tensor

POSITIONS = 8
# Samples of a waveform: a few steps after the strides of a feature extractor, 320 as a rule.
SAMPLES = 6400
FRAMES = 64
IMAGE = 64
# Patches along a side of an image that is given as patches.
GRID = 4

IMAGE_SIZES = ("image_size", "img_size", "input_size", "pretrain_image_size")
CHANNELS = ("num_channels", "in_channels", "in_chans", "num_input_channels")
INSIDE = ("vision_config", "audio_config", "encoder_config", "backbone_config")
FEATURES = ("input_feat_per_channel", "feature_projection_input_dim", "num_mel_bins", "input_feat_size", "input_dim")


def candidate_inputs(model: Any, positions: int = POSITIONS) -> Iterator[dict[str, Tensor]]:
    """Yield short random inputs, the likeliest first: a configuration does not say in which order axes are read.

    The global random state is not touched.
    """
    config, parameter = model.config, next(model.parameters())
    main = getattr(model, "main_input_name", "input_ids")
    wanted = inspect.signature(model.forward).parameters
    if main == "input_ids" and not hasattr(config.get_text_config(), "vocab_size"):
        main = "pixel_values"  # towers whose class does not say what they read
    makers = {
        "pixel_values": [_image, _video],
        "pixel_values_videos": [_video],
        "input_values": [_sound, _spectrogram],
        "input_features": [_spectrogram, _turned_spectrogram, _whole_spectrogram],
    }
    if "grid_thw" in wanted and "hidden_states" in wanted:
        main, makers["hidden_states"] = "hidden_states", [_patches]
    for make in makers.get(main, [_ids]):
        generator = torch.Generator().manual_seed(0)
        try:
            inputs = {main: make(config, generator) if make is not _ids else _ids(config, generator, positions)}
            inputs |= _beside(config, wanted, inputs[main], generator, positions)
        except (AttributeError, TypeError, KeyError):
            continue  # the configuration lacks what this input is made from
        yield {name: _placed(value, parameter) for name, value in inputs.items()}


def _beside(
    config: Any, wanted: Mapping[str, Any], main: Tensor, generator: torch.Generator, positions: int
) -> dict[str, Tensor]:
    """Return what some models want beside their main input."""
    inputs = {}
    if config.is_encoder_decoder:
        is_text = not main.is_floating_point()
        inputs["decoder_input_ids"] = main if is_text else _ids(config, generator, positions)
    if "grid_thw" in wanted:
        inputs["grid_thw"] = torch.tensor([[1, GRID, GRID]])
    if "bbox" in wanted:
        inputs["bbox"] = torch.zeros(1, positions, 4, dtype=torch.long)
    for name in ("input_features_mask", "audio_mel_mask"):
        if name in wanted and main.dim() == 3:
            inputs[name] = torch.ones(1, max(main.shape[1:]), dtype=torch.long)
    return inputs


def _ids(config: Any, generator: torch.Generator, positions: int = POSITIONS) -> Tensor:
    text = config.get_text_config()
    vocabulary = text.vocab_size
    # Placeholders of images and sounds stand for inputs that are not given.
    named = (value for name, value in vars(config).items() if name.endswith(("_token_id", "_token_index")))
    special = {value for value in named if isinstance(value, int)}
    eos = getattr(config, "eos_token_id", None)
    ordinary = torch.tensor([token for token in range(min(vocabulary, 5000)) if token not in special])
    ids = ordinary[torch.randint(len(ordinary), (1, positions), generator=generator)]
    if isinstance(eos, int) and eos < vocabulary:
        ids[:, -1] = eos  # BART and T5 classifiers pool at the end-of-sequence token
    return ids


def _image(config: Any, generator: torch.Generator) -> Tensor:
    return torch.randn(1, _first(config, CHANNELS, 3), *_image_size(config), generator=generator)


def _video(config: Any, generator: torch.Generator) -> Tensor:
    frames = _first(config, ("num_frames",), 2)
    return torch.randn(1, frames, _first(config, CHANNELS, 3), *_image_size(config), generator=generator)


def _patches(config: Any, generator: torch.Generator) -> Tensor:
    """Return the flattened patches of one image, as the vision towers of Qwen-VL and its kin take them."""
    size = config.patch_size
    values = _first(config, CHANNELS, 3) * _first(config, ("temporal_patch_size",), 1) * size * size
    return torch.randn(GRID * GRID, values, generator=generator)


def _sound(config: Any, generator: torch.Generator) -> Tensor:
    if hasattr(config, "num_mel_bins") and hasattr(config, "max_length"):
        return torch.randn(1, config.max_length, config.num_mel_bins, generator=generator)
    channels = (1,) if hasattr(config, "audio_channels") else ()
    return torch.randn(1, *channels, SAMPLES, generator=generator)


def _spectrogram(config: Any, generator: torch.Generator) -> Tensor:
    if hasattr(config, "max_source_positions") and not hasattr(config, "input_feat_per_channel"):
        return _whole_spectrogram(config, generator)
    return torch.randn(1, FRAMES, _first(config, FEATURES, 80), generator=generator)


def _turned_spectrogram(config: Any, generator: torch.Generator) -> Tensor:
    return torch.randn(1, _first(config, FEATURES, 80), FRAMES, generator=generator)


def _whole_spectrogram(config: Any, generator: torch.Generator) -> Tensor:
    """Return a spectrogram of the one length that Whisper reads."""
    return torch.randn(1, config.num_mel_bins, 2 * config.max_source_positions, generator=generator)


def _image_size(config: Any) -> tuple[int, ...]:
    size = _first(config, IMAGE_SIZES, IMAGE)
    if isinstance(size, dict):
        size = (size["height"], size["width"])
    return (size, size) if isinstance(size, int) else tuple(size)[-2:]


def _placed(value: Tensor, parameter: Tensor) -> Tensor:
    return value.to(parameter.device, parameter.dtype) if value.is_floating_point() else value.to(parameter.device)


def _first(config: Any, names: tuple[str, ...], default: Any) -> Any:
    inside = (getattr(config, name, None) for name in INSIDE)
    sources = [config, *(source for source in inside if source is not None)]
    values = (getattr(source, name, None) for source in sources for name in names)
    return next((value for value in values if value is not None), default)
