"""Short random inputs for a model of text, images, video or sound, from its configuration."""

import inspect
from collections.abc import Callable, Iterator, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn

POSITIONS = 8
# Samples of a waveform: a few steps after the strides of a feature extractor, which usually are 320.
SAMPLES = 6400
FRAMES = 64
IMAGE = 64
# Patches along a side of an image that is passed as patches.
GRID = 4

IMAGE_SIZES = ("image_size", "img_size", "input_size", "pretrain_image_size", "max_img_size")
CHANNELS = ("num_channels", "in_channels", "in_chans", "num_input_channels")
INSIDE = ("vision_config", "audio_config", "encoder_config", "backbone_config")
FEATURES = ("input_feat_per_channel", "feature_projection_input_dim", "num_mel_bins", "input_feat_size", "input_dim",
            "input_size")  # fmt: skip
TEMPORAL = ("temporal_patch_size", "patch_temporal")


@dataclass
class Source:
    """What inputs are made from: `width` is the input width of the model's first linear layer or norm."""

    config: Any
    generator: torch.Generator
    positions: int
    width: int

    def random(self, *shape: int) -> Tensor:
        """Return normal numbers of a shape."""
        return torch.randn(*shape, generator=self.generator)

    def first(self, names: tuple[str, ...], default: Any) -> Any:
        """Return the first of these values in the configuration, or in one inside it."""
        inside = (getattr(self.config, name, None) for name in INSIDE)
        sources = [self.config, *(source for source in inside if source is not None)]
        values = (getattr(source, name, None) for source in sources for name in names)
        return next((value for value in values if value is not None), default)


Make = Callable[[Source], Tensor]


def candidate_inputs(model: Any, positions: int = POSITIONS) -> Iterator[dict[str, Tensor]]:
    """Yield short random inputs, the likeliest first: a configuration does not state the order of the axes.

    First come those with only the model's main input, then those with every input that its forward pass names, such as
    text and an image. The global random state is not changed.
    """
    parameter = next(model.parameters())
    wanted = inspect.signature(model.forward).parameters
    main = _main_input(model, wanted)
    together = [main, *(name for name in MAKERS if name in wanted and name not in {main, *EMBEDDED})]
    embedded = [name for name in ("inputs_embeds",) if name in wanted]
    for names in [[main], *([together] if together != [main] else []), *([embedded] if main not in embedded else [])]:
        for number in range(max((len(_makers(name, wanted)) for name in names), default=0)):
            source = Source(model.config, torch.Generator().manual_seed(0), positions, _entry_width(model))
            try:
                inputs = {name: _makers(name, wanted)[number % len(_makers(name, wanted))](source) for name in names}
                inputs |= _beside(source, wanted, inputs, inputs[names[0]])
            except (AttributeError, TypeError, KeyError):
                continue  # the configuration lacks a value for this input
            yield {name: _placed(value, parameter) for name, value in inputs.items()}


def _main_input(model: Any, wanted: Mapping[str, inspect.Parameter]) -> str:
    main = str(getattr(model, "main_input_name", "input_ids"))
    if "grid_thw" in wanted and "hidden_states" in wanted:
        return "hidden_states"
    if main == "input_ids" and not hasattr(model.config.get_text_config(), "vocab_size") and main not in wanted:
        main = "pixel_values"  # towers whose class does not name their input
    if main in wanted and main in MAKERS:
        return main
    required = [name for name, parameter in wanted.items() if _is_required(parameter)]
    return next((name for name in (*required, *wanted) if name in MAKERS), main if main in MAKERS else "input_ids")


def _is_required(parameter: inspect.Parameter) -> bool:
    named = parameter.kind in (parameter.POSITIONAL_OR_KEYWORD, parameter.KEYWORD_ONLY)
    return named and parameter.default is parameter.empty


def _makers(name: str, wanted: Mapping[str, Any]) -> list[Make]:
    if name == "pixel_values" and "target_sizes" in wanted:
        return [_patch_strip]
    if name == "pixel_values" and GRIDS & set(wanted):
        return [*PATCHES, *MAKERS[name]]
    if name == "hidden_states" and "grid_thw" in wanted:
        return [_patches]
    return MAKERS[name]


def _beside(
    source: Source, wanted: Mapping[str, inspect.Parameter], inputs: Mapping[str, Tensor], main: Tensor
) -> dict[str, Tensor]:
    """Return the inputs that some models need beside their main input."""
    beside = {}
    if source.config.is_encoder_decoder and "decoder_input_ids" in wanted:
        is_text = not main.is_floating_point()
        beside["decoder_input_ids"] = main if is_text else _ids(source)
    frames = _frames(source)
    if frames not in main.shape and main.dim() == 3:
        frames = max(main.shape[1:])
    length = main.shape[1] if main.dim() > 1 else len(main)
    ones = {
        "input_features_mask": (1, frames), "mask": (1, frames),
        "attention_mask": (1, length), "pixel_attention_mask": (1, length),
        "aspect_ratio_ids": (1, 1), "aspect_ratio_mask": (1, 1, source.first(("max_num_tiles",), 1)),
        "image_attention_mask": (1, source.positions, source.first(("num_frames",), 2)), "merge_sizes": (1,),
        "freq": (1, 1),
    }  # fmt: skip
    rows, columns = torch.meshgrid(torch.arange(GRID), torch.arange(GRID), indexing="ij")
    grid = {
        **dict.fromkeys(("grid_thw", "image_grid_thw"), torch.tensor([[1, GRID, GRID]])),
        **dict.fromkeys(("spatial_shapes", "target_sizes"), torch.tensor([[GRID, GRID]])),
        "pixel_position_ids": torch.stack([columns.flatten(), rows.flatten()], dim=-1)[None],
        # True, or one, marks padding.
        "audio_mel_mask": torch.zeros(1, frames, dtype=torch.bool),
        "past_values_padding": torch.zeros(1, length, dtype=torch.long),
        "feature_lens": torch.tensor([frames]),
        "bbox": torch.zeros(1, source.positions, 4, dtype=torch.long),
    }
    for name in set(wanted) - set(inputs):
        # A grid, a size or a mask of frames describes another input, and is left out without that input.
        if not _is_required(wanted[name]) and not (main.is_floating_point() and name in DESCRIBES) and name != "bbox":
            continue
        if name in grid:
            beside[name] = grid[name]
        elif name in ones:
            beside[name] = torch.ones(ones[name], dtype=torch.bool if name == "mask" else torch.long)
        elif name in MAKERS:
            beside[name] = MAKERS[name][0](source)
    if "query_embeds" in inputs and "encoder_hidden_states" in wanted:
        beside["encoder_hidden_states"] = _encoded(source)
    return beside


def _ids(source: Source) -> Tensor:
    config = source.config
    vocabulary = getattr(config.get_text_config(), "vocab_size", None)
    if vocabulary is None:  # Unicode code points
        return torch.randint(97, 123, (1, source.positions), generator=source.generator)
    # Placeholders for images and sounds would need inputs that are not given.
    named = (value for name, value in vars(config).items() if name.endswith(("_token_id", "_token_index")))
    special = {value for value in named if isinstance(value, int)}
    eos = getattr(config, "eos_token_id", None)
    ordinary = torch.tensor([token for token in range(min(vocabulary, 5000)) if token not in special])
    ids = ordinary[torch.randint(len(ordinary), (1, source.positions), generator=source.generator)]
    if isinstance(eos, int) and eos < vocabulary:
        ids[:, -1] = eos  # BART and T5 classifiers pool at the end-of-sequence token
    return ids


def _codebook_rows(source: Source) -> Tensor:
    """Return the codes of one sound, a row for each codebook, as MusicGen's decoder takes them."""
    return torch.randint(2, 30, (source.config.num_codebooks, source.positions), generator=source.generator)


def _codes(source: Source) -> Tensor:
    """Return, at every position, a text token and one token of each codebook of a sound."""
    many = source.config.num_codebooks + 1
    return torch.randint(2, 30, (1, source.positions, many), generator=source.generator)


def _image(source: Source) -> Tensor:
    return source.random(1, source.first(CHANNELS, 3), *_image_size(source))


def _video(source: Source) -> Tensor:
    return source.random(1, source.first(("num_frames",), 2), source.first(CHANNELS, 3), *_image_size(source))


def _tiles(source: Source) -> Tensor:
    return source.random(1, 1, source.config.max_num_tiles, source.first(CHANNELS, 3), *_image_size(source))


def _patches(source: Source) -> Tensor:
    """Return the flattened patches of one image, as the vision towers of Qwen-VL and similar models take them."""
    size = source.config.patch_size
    values = source.first(CHANNELS, 3) * source.first(TEMPORAL, 1) * size * size
    return source.random(GRID * GRID, values)


def _patch_images(source: Source) -> Tensor:
    """Return each patch as an image."""
    size = source.config.patch_size
    return source.random(GRID * GRID, source.first(CHANNELS, 3), size, size)


def _patch_strip(source: Source) -> Tensor:
    """Return the patches side by side, as MiniCPM-V takes them."""
    size = source.config.patch_size
    return source.random(1, source.first(CHANNELS, 3), size, GRID * GRID * size)


def _merged_patches(source: Source) -> Tensor:
    """Return images of some patches each, channels last."""
    size = source.config.patch_size * source.config.spatial_merge_size
    return source.random(GRID * GRID, size, size, source.first(CHANNELS, 3))


def _patch_rows(source: Source) -> Tensor:
    return source.random(1, GRID * GRID, source.width)


def _numbered_rows(source: Source) -> Tensor:
    """Return patches that begin with the numbers of their row and column, as Pix2Struct takes them."""
    number = torch.arange(GRID * GRID)
    places = torch.stack([number // GRID + 1, number % GRID + 1], dim=-1)[None]
    return torch.cat([places, _patch_rows(source)], dim=-1)


def _sound(source: Source) -> Tensor:
    config = source.config
    if hasattr(config, "num_mel_bins") and hasattr(config, "max_length"):
        return source.random(1, config.max_length, config.num_mel_bins)
    channels = (1,) if hasattr(config, "audio_channels") else ()
    return source.random(1, *channels, SAMPLES)


def _one_channel(source: Source) -> Tensor:
    return source.random(1, 1, SAMPLES)


def _spectrogram(source: Source) -> Tensor:
    config = source.config
    if {"max_source_positions", "num_mel_bins"} <= set(vars(config)) and not hasattr(config, "input_feat_per_channel"):
        return _whole_spectrogram(source)
    return source.random(1, _frames(source), source.first(FEATURES, 80))


def _turned_spectrogram(source: Source) -> Tensor:
    return source.random(1, source.first(FEATURES, 80), _frames(source))


def _whole_spectrogram(source: Source) -> Tensor:
    """Return a spectrogram of the one length that Whisper reads."""
    return source.random(1, source.config.num_mel_bins, 2 * source.config.max_source_positions)


def _wide_spectrogram(source: Source) -> Tensor:
    return source.random(1, _frames(source), 128)


def _flat_spectrogram(source: Source) -> Tensor:
    return source.random(source.first(FEATURES, 80), _frames(source))


def _frame_rows(source: Source) -> Tensor:
    return source.random(1, _frames(source), source.width)


def _frames(source: Source) -> int:
    """Return a number of frames: one window, if the model reads windows."""
    return 2 * source.config.n_window if hasattr(source.config, "n_window") else FRAMES


def _series(source: Source) -> Tensor:
    channels = source.first(CHANNELS, 0)
    return source.random(1, source.config.context_length, *((channels,) if channels else ()))


def _embeddings(source: Source) -> Tensor:
    return source.random(1, source.positions, source.width)


def _encoded(source: Source) -> Tensor:
    return source.random(1, source.positions, source.first(("encoder_hidden_size",), source.width))


def _regions(source: Source) -> Tensor:
    return source.random(1, source.positions, source.config.visual_feat_dim)


def _corners(source: Source) -> Tensor:
    return torch.rand(1, source.positions, 4, generator=source.generator)


PATCHES: list[Make] = [_patches, _patch_rows, _patch_images, _merged_patches,
                       lambda source: _patch_images(source)[None]]  # fmt: skip
MAKERS: dict[str, list[Make]] = {
    "input_ids": [_ids, _codebook_rows, _codes],
    "task_inputs": [_ids],
    "inputs": [lambda source: source.random(1, source.positions, source.config.d_model)],
    "audio_mel": [_spectrogram],
    "pixel_values": [_image, _video, _patch_rows, _tiles],
    "pixel_values_videos": [_video],
    "input_values": [_sound, _spectrogram, _one_channel],
    "input_features": [_spectrogram, _turned_spectrogram, _whole_spectrogram, _frame_rows, _flat_spectrogram,
                       _wide_spectrogram, lambda source: _spectrogram(source)[None]],
    "flattened_patches": [_numbered_rows],
    "past_values": [_series],
    "visual_feats": [_regions],
    "visual_pos": [_corners],
    "prompt_pixel_values": [_image],
    "prompt_masks": [_image],
    "qformer_input_ids": [_ids],
    "hidden_states": [_frame_rows, _image, _spectrogram],
    "query_embeds": [_embeddings],
    "context": [_embeddings],
    "inputs_embeds": [_embeddings],
    "encoder_hidden_states": [_encoded],
}  # fmt: skip
# Inputs that replace another one; they are given only to a model that takes nothing else.
EMBEDDED = {"hidden_states", "query_embeds", "context", "inputs_embeds", "qformer_input_ids"}
GRIDS = {"grid_thw", "image_grid_thw", "spatial_shapes", "target_sizes", "pixel_position_ids"}
DESCRIBES = GRIDS | {"merge_sizes", "pixel_attention_mask", "input_features_mask", "audio_mel_mask", "feature_lens",
                     "image_attention_mask"}  # fmt: skip


def _image_size(source: Source) -> tuple[int, ...]:
    size = source.first(IMAGE_SIZES, IMAGE)
    if isinstance(size, dict):
        size = (size["height"], size["width"])
    return (size, size) if isinstance(size, int) else tuple(size)[-2:]


def _entry_width(model: nn.Module) -> int:
    for module in model.modules():
        if isinstance(module, nn.Linear):
            return module.in_features
        if isinstance(module, nn.LayerNorm):
            return module.normalized_shape[-1]
    return 0


def _placed(value: Tensor, parameter: Tensor) -> Tensor:
    return value.to(parameter.device, parameter.dtype) if value.is_floating_point() else value.to(parameter.device)
