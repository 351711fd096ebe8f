"""What trains beside the roles, where a classifier is its own base model."""

import pytest
from torch import nn
from transformers import (
    BertConfig,
    BertModel,
    CLIPConfig,
    CLIPForImageClassification,
    PreTrainedModel,
    SiglipConfig,
    SiglipForImageClassification,
    ViTConfig,
    ViTForImageClassification,
    ViTModel,
    WhisperConfig,
    WhisperForAudioClassification,
)

from qvtune.adaptation import adapt, count_parameters
from qvtune.errors import AdaptError

SIZES = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
VISION = {**SIZES, "image_size": 16, "patch_size": 8}


def whisper() -> nn.Module:
    heads = {"encoder_layers": 2, "encoder_attention_heads": 4, "encoder_ffn_dim": 64}
    ids = {"vocab_size": 60, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2, "decoder_start_token_id": 1}
    config = WhisperConfig(
        d_model=32, num_mel_bins=8, max_source_positions=20, classifier_proj_size=16, num_labels=3, **heads, **ids
    )
    return WhisperForAudioClassification(config)


class ToldForImageClassification(PreTrainedModel):
    """Says what its head is as timm's models do, and is its own base model as their wrapper is."""

    def __init__(self) -> None:
        super().__init__(ViTConfig(**VISION, num_labels=3))
        self.timm_model = ViTForImageClassification(self.config)
        self.timm_model.get_classifier = lambda: self.timm_model.classifier

    def forward(self, pixel_values):
        return self.timm_model(pixel_values)


class MuteForImageClassification(ToldForImageClassification):
    """Does not say it."""

    def __init__(self) -> None:
        super().__init__()
        del self.timm_model.get_classifier


MODELS = {
    "CLIP": (
        lambda: CLIPForImageClassification(CLIPConfig(vision_config=VISION, text_config=SIZES, num_labels=3)),
        ("classifier",),
    ),
    "SigLIP": (
        lambda: SiglipForImageClassification(SiglipConfig(vision_config=VISION, text_config=SIZES, num_labels=3)),
        ("classifier",),
    ),
    "Whisper": (whisper, ("projector", "classifier")),
    "timm": (ToldForImageClassification, ("timm_model.classifier",)),
    "base model beside": (lambda: ViTForImageClassification(ViTConfig(**VISION, num_labels=3)), ("classifier",)),
    "no head": (lambda: BertModel(BertConfig(**SIZES, vocab_size=60)), ()),
    "no head, of images": (lambda: ViTModel(ViTConfig(**VISION)), ()),
}


@pytest.mark.parametrize("is_loaded", [False, True])
@pytest.mark.parametrize(("make", "head"), MODELS.values(), ids=MODELS.keys())
def test_the_head_of_a_classifier_trains(make, head, is_loaded):
    model = make()
    for parameter in model.parameters():
        parameter._is_hf_initialized = is_loaded  # as of a model that was fine-tuned before
    parts = [parameter for name in head for parameter in model.get_submodule(name).parameters()]
    adapted = adapt(model, roles="qv", rank=2)
    assert count_parameters(adapted).head == sum(parameter.numel() for parameter in parts)


def test_a_classifier_whose_head_cannot_be_told_is_refused():
    with pytest.raises(AdaptError, match=r"which of its modules is the head cannot be told. Name it: .*head=\["):
        adapt(MuteForImageClassification())
    assert count_parameters(adapt(MuteForImageClassification(), head=["timm_model.classifier"])).head == 99
    assert count_parameters(adapt(MuteForImageClassification(), head=[])).head == 0
