"""What a model can read: which inputs it takes, which ids have embeddings, and how long texts may be."""

import inspect
from collections.abc import Mapping
from typing import Any

import pyarrow.compute as pc
import torch
from datasets import Dataset
from torch import nn
from transformers import MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING, PreTrainedTokenizerBase

from qvtune.data.tokens import token_lengths
from qvtune.device import CPU, device_of
from qvtune.errors import DataError, ModelError

SEGMENTS = "token_type_ids"
# These models distinguish segments without an embedding table, so their configurations have no size for one.
WITHOUT_TABLE = ("funnel", "xlnet")
# How many tokens of a text a message shows.
SHOWN = 12


def input_names(config: Any, names: list[str]) -> list[str]:
    """Return the inputs that a tokenizer should give to a model: segment ids only if it has embeddings for them.

    By itself a tokenizer gives what its class or file lists, and that often belongs to another model.

    Args:
        config: configuration of the model.
        names: what the tokenizer lists.
    """
    kind: Any = MODEL_FOR_SEQUENCE_CLASSIFICATION_MAPPING.get(type(config), None)
    if kind is None:
        return names
    takes = SEGMENTS in inspect.signature(kind.forward).parameters
    kinds = getattr(config, "type_vocab_size", None)
    if takes and (config.model_type in WITHOUT_TABLE or (kinds or 0) > 1):
        return names if SEGMENTS in names else [names[0], SEGMENTS, *names[1:]]
    if not takes or kinds is not None:
        return [name for name in names if name != SEGMENTS]
    return names


def check_ends(config: Any, tokenizer: PreTrainedTokenizerBase, dataset: Dataset) -> None:
    """Refuse texts that hold the token at which the head of an encoder-decoder reads; it reads once per text.

    Raises:
        DataError: if there are such texts.
    """
    end = config.eos_token_id
    if not getattr(config, "is_encoder_decoder", False) or not isinstance(end, int):
        return
    rows = dataset["input_ids"][:]
    counts = [ids.count(end) for ids in rows]
    usual = min(counts, default=0)  # two of them separate two texts
    odd = next((ids for ids, count in zip(rows, counts, strict=True) if count > usual), None)
    if odd is not None:
        start = tokenizer.decode(odd[:SHOWN], skip_special_tokens=True)
        raise DataError(
            f"the text that begins with '{start}' holds '{tokenizer.convert_ids_to_tokens(end)}', with which texts end "
            "for this model: its head reads there, and wants it as often in every text. Put something else there."
        )


def check_readable(name: str, model: Any, tokenizer: PreTrainedTokenizerBase, sets: Mapping[str, Dataset]) -> None:
    """Try a model on what it will be given: the largest ids, and the longest text once.

    Args:
        name: the model's name, for messages.
        model: with a head, on its device.
        tokenizer: the tokenizer that made the tokens.
        sets: tokenised examples.

    Raises:
        ModelError: if an id has no embedding, or the longest text cannot be read.
        DataError: if a text holds the token that ends texts for this model.
    """
    _check_ids(name, model, tokenizer, sets)
    for dataset in sets.values():
        check_ends(model.config, tokenizer, dataset)
    dataset, lengths = max(
        ((dataset, token_lengths(dataset)) for dataset in sets.values()), key=lambda found: found[1].max()
    )
    length = int(lengths.max())
    longest = dataset[int(lengths.argmax())]
    example = {key: value for key, value in longest.items() if key in tokenizer.model_input_names}
    if (problem := _try(model, example, length)) is None:
        return
    said = f"{name}: the model cannot read a text of {length} tokens ({problem})."
    if device_of(model) != CPU:  # one failure there may break later calls
        raise ModelError(f"{said} Give a lower --max-length.")
    reads, fails = 0, length
    while fails - reads > 1:
        middle = (reads + fails) // 2
        reads, fails = (middle, fails) if _try(model, example, middle) is None else (reads, middle)
    if not reads:
        raise ModelError(f"{said} Nor can it read a shorter one: is the tokenizer that of this model?")
    raise ModelError(f"{said} It reads {reads} of them. Give --max-length {reads}.")


def _check_ids(name: str, model: Any, tokenizer: PreTrainedTokenizerBase, sets: Mapping[str, Dataset]) -> None:
    try:
        table = model.get_input_embeddings()
    except (NotImplementedError, AttributeError):  # the model reads no ids
        return
    if not isinstance(table, nn.Embedding):
        return
    largest = max(_largest(dataset, "input_ids") for dataset in sets.values())
    if largest >= (rows := table.num_embeddings):
        raise ModelError(
            f"{name}: the token '{tokenizer.convert_ids_to_tokens(largest)}' has the id {largest:,}, and the model has "
            f"embeddings for {rows:,} (0 to {rows - 1:,}). Its tokenizer is that of another model, or has tokens that "
            "were added later: give the model after resize_token_embeddings and save_pretrained."
        )
    kinds = getattr(model.config, "type_vocab_size", None)
    if kinds and any(SEGMENTS in dataset.column_names for dataset in sets.values()):
        most = max(_largest(dataset, SEGMENTS) for dataset in sets.values())
        if most >= kinds:
            raise ModelError(
                f"{name}: its tokenizer numbers segments up to {most}, and the model has embeddings for {kinds} (0 to "
                f"{kinds - 1}): the tokenizer is that of another model."
            )


def _largest(dataset: Dataset, column: str) -> int:
    return int(pc.max(pc.list_flatten(dataset.with_format("arrow")[:][column])).as_py())


def _try(model: Any, example: Mapping[str, list[int]], length: int) -> str | None:
    """Run the first tokens of an example and its last one, and return what went wrong."""
    device = device_of(model)
    inputs = {
        name: torch.tensor([[*values[: length - 1], values[-1]]], device=device) for name, values in example.items()
    }
    training = model.training
    model.eval()
    try:
        with torch.no_grad():
            model(**inputs)
    except (IndexError, RuntimeError, ValueError) as error:
        return (str(error).strip() or type(error).__name__).splitlines()[0].rstrip(".")
    finally:
        model.train(training)
    return None
