"""Load a model and its tokenizer for a task, with the right labels and padding."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
import transformers
from transformers import AutoConfig, AutoModel, AutoTokenizer, PreTrainedTokenizerBase
from transformers import logging as transformers_logging

from qvtune.data.packaged import PREFIX, locate_model
from qvtune.errors import ConfigError, ModelError
from qvtune.network import hub_is_reachable
from qvtune.roles.unwrap import unwrap
from qvtune.tasks.examples import TextData
from qvtune.tasks.task import Task
from qvtune.training.readable import input_names
from qvtune.training.weights import WRAPPERS, check_loaded, forget_wrappers

# Heads whose weights may have the same names and shapes as those of a head for another task.
HEADS = (
    "ForSequenceClassification", "ForTokenClassification", "ForQuestionAnswering", "ForMultipleChoice",
    "ForNextSentencePrediction",
)  # fmt: skip

RESERVED_POSITIONS = 4
# Models round their vocabulary up, byte vocabularies by half and more. A tokenizer without its files has a handful.
LEAST_VOCABULARY = 0.5


@dataclass(frozen=True)
class ModelSource:
    """Where a model is: a folder or a hub name, and the keyword arguments that reading it needs."""

    name: str
    location: str
    options: dict[str, Any]


def find_model(name: str, trust_remote_code: bool = False, *, config_alone: bool = False) -> ModelSource:
    """Resolve pkg: names; leave folders and hub names as they are.

    Args:
        name: what the user called it.
        trust_remote_code: run the Python code in its repository.
        config_alone: a config.json file is enough, since no weights are needed.

    Raises:
        ModelError: for an unknown packaged model, or a path that does not exist.
    """
    options: dict[str, Any] = {"trust_remote_code": trust_remote_code}
    if name.startswith(PREFIX):
        folder, gguf_file = locate_model(name.removeprefix(PREFIX))
        return ModelSource(name, str(folder), options | ({"gguf_file": gguf_file} if gguf_file else {}))
    path = Path(name).expanduser()
    if path.is_dir():
        if (path / "config.yaml").is_file() or (path / "adapter_config.json").is_file():
            raise ModelError(
                f"{name}: is a run or an adapter. Make a model of a run with: qvtune merge --run RUN --out DIR"
            )
        if not (path / "config.json").is_file():
            raise ModelError(f"{name}: the folder has no config.json, so it holds no model.")
        return ModelSource(name, str(path), options)
    if path.is_file() and config_alone and path.suffix == ".json":
        return ModelSource(name, str(path), options)
    if path.is_file():
        raise ModelError(f"{name}: is a file. Give a model folder, a hub name, or pkg:minilm.")
    if path.is_absolute() or name.startswith((".", "~")):
        raise ModelError(f"{name}: no such folder. Give a model folder, a hub name, or pkg:minilm.")
    return ModelSource(name, name, options | {"local_files_only": not hub_is_reachable()})


def load_config(source: ModelSource) -> Any:
    """Load a model's configuration.

    Raises:
        ModelError: if there is none, its architectures are not a list, or there is no network to fetch it.
    """
    config = _reading(source, AutoConfig.from_pretrained, source.location, **source.options)
    named = config.architectures or []
    if not (isinstance(named, list) and all(isinstance(name, str) for name in named)):
        raise ModelError(
            f"{source.name}: 'architectures' in its configuration is {named!r}, and should be a list of names."
        )
    return config


def load_tokenizer(source: ModelSource, config: Any) -> PreTrainedTokenizerBase:
    """Load a tokenizer that pads on the right with an existing token, and gives the inputs that the model reads.

    If the tokenizer names no padding token, or one that the model has no embedding for, the end-of-sequence or unknown
    token pads. Nothing is added to the vocabulary and no embedding is resized.

    Args:
        source: where it is.
        config: configuration of the model that will read its tokens.

    Raises:
        ModelError: if there is none, its vocabulary is not the model's, or it has no token to pad with.
    """
    tokenizer = _reading(source, AutoTokenizer.from_pretrained, source.location, **source.options)
    # If the tokenizer's files are missing, transformers silently makes an empty tokenizer of the model's type.
    words = getattr(config.get_text_config(), "vocab_size", None)
    if isinstance(words, int) and len(tokenizer) < words * LEAST_VOCABULARY:
        raise ModelError(
            f"{source.name}: its tokenizer knows {len(tokenizer):,} tokens, and the model {words:,}. The files of the "
            "tokenizer (tokenizer.json and the like) seem to be missing: save it beside the model with "
            "tokenizer.save_pretrained."
        )
    if tokenizer.pad_token_id is None or (isinstance(words, int) and tokenizer.pad_token_id >= words):
        substitute = tokenizer.eos_token or tokenizer.unk_token
        if substitute is None:
            raise ModelError(f"{source.name}: the tokenizer has no padding, end-of-sequence or unknown token.")
        tokenizer.pad_token = substitute
    tokenizer.padding_side = "right"
    tokenizer.model_input_names = input_names(config, tokenizer.model_input_names)
    return tokenizer


def load_model(
    source: ModelSource, config: Any, task: Task, tokenizer: PreTrainedTokenizerBase, *, new_head: bool = False
) -> Any:
    """Load the model with a head for the task, in float32.

    Args:
        source: where it is.
        config: its configuration, into which the labels and the padding token are written.
        task: has the number and the names of the labels, in the order of their ids.
        tokenizer: has the padding token that the head of a decoder looks for.
        new_head: initialise the head even if the checkpoint holds one.

    Raises:
        ModelError: if it cannot be read, has no head for the task in transformers, is quantized, or if the
            checkpoint leaves a parameter of the body without a weight that fits.
    """
    prepare_config(config, task, tokenizer)
    verbosity = transformers_logging.get_verbosity()
    transformers_logging.set_verbosity_error()  # the plan shows the new parameters already
    try:
        model, loading = _reading(
            source,
            task.auto_class.from_pretrained,
            source.location,
            config=config,
            dtype=torch.float32,
            ignore_mismatched_sizes=True,  # so that all of them are listed, and checked by place
            output_loading_info=True,
            key_mapping=WRAPPERS,
            **source.options,
            **_dequantized(source),
        )
    finally:
        transformers_logging.set_verbosity(verbosity)
    _make_plain(model, source)
    forget_wrappers(model)
    if not task.has_new_head:
        if new_head:
            raise ConfigError(f"--new-head is given, and {task.noun} needs the head that a model brings. Leave it out.")
        check_loaded(source.name, model, loading, new_head=False, may_lack_head=False)
        return model
    check_loaded(source.name, model, loading, new_head=new_head or _other_head(config, task) is not None)
    if new_head or _other_head(config, task):
        _start_head_anew(model)
    return model


def checkpoint_activations(model: Any) -> None:
    """Let a model recompute activations in the backward pass instead of storing them.

    Raises:
        ModelError: if it cannot.
    """
    inner: Any = unwrap(model)
    # transformers 5.21 renamed gradient_checkpointing_enable, and Python 3.10 ends at 5.20.
    enable = getattr(inner, "activation_checkpointing_enable", None) or inner.gradient_checkpointing_enable
    try:
        enable({"use_reentrant": False})
    except ValueError as error:
        raise ModelError(f"--gradient-checkpointing: {_first_line(error)} Leave it out.") from error


def build_on_meta(source: ModelSource, task: Task) -> Any:
    """Build the model without weights, on the meta device, to count and plan.

    It has a head for the task if transformers has one for its type, and none otherwise.

    Raises:
        ModelError: if there is no configuration, or no model for it.
    """
    config = prepare_config(load_config(source), task)
    known = type(config) in task.auto_class._model_mapping or hasattr(config, "auto_map")
    auto_class = task.auto_class if known else AutoModel
    with torch.device("meta"):
        return _reading(source, auto_class.from_config, config, trust_remote_code=source.options["trust_remote_code"])


def prepare_config(config: Any, task: Task, tokenizer: PreTrainedTokenizerBase | None = None) -> Any:
    """Write the task's head and the padding token into a model's configuration, and return it."""
    task.configure(config)
    if tokenizer is not None:
        config.get_text_config().pad_token_id = tokenizer.pad_token_id
    return config


def match_labels(source: ModelSource, config: Any, data: TextData, *, new_head: bool) -> TextData:
    """Put the data's classes in the order of the model with this configuration, if it was trained on them before.

    A note is added if a head whose labels have no names is used, or is not used.

    Raises:
        ModelError: if the model has a head for other labels, and no new one is asked for.
    """
    if new_head or not data.task.has_new_head:
        return data
    if other := _other_head(config, data.task):
        return _noted(data, f"The head of {source.name} is of another kind of task ({other}), so it starts anew.")
    if not any(name.endswith(data.task.head) for name in config.architectures or ()):
        return data
    known = [str(config.id2label[i]) for i in range(len(config.id2label))]
    task, note = data.task.match_head(known, source.name)
    data = data.with_labels(task.labels)
    return data if note is None else _noted(data, note)


def _other_head(config: Any, task: Task) -> str | None:
    """Return the name of the architecture if a checkpoint's head is for another kind of task."""
    others = tuple(head for head in HEADS if head != task.head)
    return next((name for name in config.architectures or () if name.endswith(others)), None)


def _noted(data: TextData, note: str) -> TextData:
    return replace(data, notes=(*data.notes, note))


def text_length(
    max_length: int | None,
    config: Any,
    tokenizer: PreTrainedTokenizerBase | None = None,
    *,
    most: int = Task.most_tokens,
) -> int:
    """Return the most tokens of a text that a model is given: those asked for, or `most` if it reads so many.

    Args:
        max_length: the number asked for, if any.
        config: the model's.
        tokenizer: knows how many positions texts can use, if the configuration counts others too.
        most: the task's number by default.

    Raises:
        ConfigError: if more is asked for than the model has positions; the text says how many it has.
    """
    positions = getattr(config.get_text_config(), "max_position_embeddings", None)
    if not isinstance(positions, int) or positions < 1:
        return max_length or most  # relative positions have no limit
    # RoBERTa's configuration counts a few positions that texts cannot use, and its tokenizer does not.
    if tokenizer is not None and 0 < positions - tokenizer.model_max_length <= RESERVED_POSITIONS:
        positions = tokenizer.model_max_length
    if max_length is not None and max_length > positions:
        raise ConfigError(f"--max-length is {max_length}; this model reads {positions} tokens at most.")
    return max_length or min(most, positions)


def _dequantized(source: ModelSource) -> dict[str, Any]:
    # From 5.21 on, transformers may leave a GGUF file's weights in their blocks, which cannot be trained.
    config = getattr(transformers, "GgufConfig", None)
    return {"quantization_config": config(dequantize=True)} if config and "gguf_file" in source.options else {}


def _make_plain(model: Any, source: ModelSource) -> None:
    """Remove a GGUF file's mark of quantization: its weights are plain by now, and train and save as such."""
    quantizer = getattr(model, "hf_quantizer", None)
    if quantizer is None:
        return
    method = str(getattr(quantizer.quantization_config.quant_method, "value", "unknown"))
    if method != "gguf":
        raise ModelError(
            f"{source.name}: its weights are quantized ({method}), and only float weights are trained here. Give the "
            "model that it was made from."
        )
    quantizer.remove_quantization_config(model)


def _start_head_anew(model: Any) -> None:
    inside = {id(module) for module in model.base_model.modules()}
    for module in model.modules():
        if id(module) not in inside and module is not model:
            module._is_hf_initialized = False
            for parameter in module.parameters(recurse=False):
                parameter._is_hf_initialized = False
            model._init_weights(module)


def _reading(source: ModelSource, function: Any, *args: Any, **kwargs: Any) -> Any:
    try:
        return function(*args, **kwargs)
    except ImportError as error:
        raise ModelError(f"{source.name}: {_first_line(error)}") from error
    except Exception as error:
        # Many libraries read a folder, and each raises its own errors for a broken one.
        hint = "Check the spelling or the folder."
        if source.options.get("local_files_only"):
            hint = "The hub cannot be reached and its cache here does not hold it. Check its name and the network."
        raise ModelError(f"model '{source.name}' cannot be loaded: {_first_line(error)} {hint}") from error


def _first_line(error: Exception) -> str:
    lines = [line for line in str(error).splitlines() if line.strip()]
    return lines[0].strip() if lines else type(error).__name__
