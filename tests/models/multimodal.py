"""Images and words together."""

import torch
from torch import nn
from torch.nn import functional as F

from tests.models import Example, of_field
from tests.models.hugging_face import BERT, LLAMA, TOKENS, padded, tiny

architecture = of_field("Multimodal")
TEXT = {**BERT, **TOKENS, "max_position_embeddings": 16}
VISION = {**BERT, "image_size": 8, "patch_size": 4}


def captioned() -> dict[str, torch.Tensor]:
    """Two padded sentences and their images."""
    batch = padded()
    return {
        "input_ids": batch["input_ids"],
        "attention_mask": batch["attention_mask"],
        "pixel_values": torch.randn(2, 3, 8, 8),
    }


@architecture("CLIP", "attention_mask, return_loss=True")
def clip():
    """Radford et al., 2021."""
    model = tiny(
        "clip",
        "CLIPModel",
        text_config={**TEXT, "projection_dim": 6},
        vision_config={**VISION, "projection_dim": 6},
        projection_dim=6,
    )
    return Example(model, captioned() | {"return_loss": True})


@architecture("SigLIP", "attention_mask, return_loss=True")
def siglip():
    """Zhai et al., 2023."""
    model = tiny("siglip", "SiglipModel", text_config={**TEXT, "projection_size": 8}, vision_config=VISION)
    return Example(model, captioned() | {"return_loss": True})


@architecture("BLIP", "image-text matching, return_loss=True")
def blip():
    """Li et al., 2022."""
    model = tiny(
        "blip", "BlipModel", text_config={**TEXT, "encoder_hidden_size": 8}, vision_config=VISION, projection_dim=6
    )
    return Example(model, captioned() | {"return_loss": True})


@architecture("AltCLIP", "attention_mask, return_loss=True")
def altclip():
    """Chen et al., 2022."""
    text = {**TEXT, "project_dim": 6, "max_position_embeddings": 20}
    model = tiny(
        "altclip", "AltCLIPModel", text_config=text, vision_config={**VISION, "projection_dim": 6}, projection_dim=6
    )
    return Example(model, captioned() | {"return_loss": True})


@architecture("ViLT", "question answering, labels")
def vilt():
    """Kim et al., 2021. Its patches are drawn at random at every call."""
    model = tiny("vilt", "ViltForQuestionAnswering", **TEXT, image_size=8, patch_size=4, num_labels=3)
    return Example(
        model, captioned() | {"pixel_mask": torch.ones(2, 8, 8, dtype=torch.long), "labels": torch.rand(2, 3)}
    )


@architecture("VisualBERT", "visual embeddings, labels")
def visual_bert():
    """Li et al., 2019."""
    model = tiny("visual_bert", "VisualBertForQuestionAnswering", **TEXT, visual_embedding_dim=6, num_labels=3)
    seen = {
        "visual_embeds": torch.randn(2, 3, 6),
        "visual_attention_mask": torch.ones(2, 3, dtype=torch.long),
        "visual_token_type_ids": torch.ones(2, 3, dtype=torch.long),
    }
    words = padded()
    return Example(
        model,
        seen
        | {
            "input_ids": words["input_ids"],
            "attention_mask": words["attention_mask"],
            "labels": torch.rand(2, 3).softmax(-1),
        },
    )


@architecture("GIT, captions", "pixel_values and labels")
def git():
    """Wang et al., 2022."""
    return Example(
        tiny("git", "GitForCausalLM", **TEXT, vision_config=VISION),
        captioned() | {"labels": torch.randint(3, 11, (2, 6))},
    )


@architecture("LLaVA", "image tokens, attention_mask and labels")
def llava():
    """Liu et al., 2023: a vision encoder's patches in the place of tokens."""
    model = tiny(
        *("llava", "LlavaForConditionalGeneration"),
        image_token_index=10,
        vision_feature_layer=-1,
        text_config={**LLAMA, **TOKENS, "model_type": "llama"},
        vision_config={**VISION, "model_type": "clip_vision_model"},
    )
    batch = padded()
    batch["input_ids"] = torch.cat([torch.full((2, 4), 10), batch["input_ids"].clamp(max=9)], 1)
    batch["attention_mask"] = F.pad(batch["attention_mask"], (4, 0), value=1)
    batch["labels"] = F.pad(batch["labels"], (4, 0), value=-100)
    return Example(model, batch | {"pixel_values": torch.randn(2, 3, 8, 8)})


@architecture("TrOCR, encoder and decoder of two models", "pixel_values and labels")
def vision_encoder_decoder():
    """Li et al., 2021."""
    import transformers

    config = transformers.VisionEncoderDecoderConfig.from_encoder_decoder_configs(
        transformers.ViTConfig(**VISION), transformers.BertConfig(**TEXT), decoder_start_token_id=1, pad_token_id=0
    )
    model = transformers.VisionEncoderDecoderModel(config).train()
    return Example(model, {"pixel_values": torch.randn(2, 3, 8, 8), "labels": torch.randint(3, 11, (2, 5))})


@architecture("LayoutLM", "bounding boxes, attention_mask and labels")
def layoutlm():
    """Xu et al., 2020."""
    box = torch.rand(2, 6, 4).mul(10).long().sort(-1).values[..., [0, 1, 2, 3]]
    model = tiny("layoutlm", "LayoutLMForTokenClassification", **TEXT, max_2d_position_embeddings=32, num_labels=3)
    batch = padded()
    return Example(model, batch | {"bbox": box, "labels": torch.randint(3, (2, 6))})


@architecture("Perceiver resampler", "cross attention of latents, cross entropy")
def perceiver():
    """Alayrac et al., 2022: a fixed number of queries reads any number of tokens."""

    class Resampler(nn.Module):
        def __init__(self):
            super().__init__()
            self.latents, self.read = (
                nn.Parameter(torch.randn(3, 8)),
                nn.MultiheadAttention(8, 2, kdim=5, vdim=5, batch_first=True),
            )
            self.norm, self.head = nn.LayerNorm(8), nn.Linear(8, 3)

        def forward(self, tokens, absent):
            latents = self.latents.expand(len(tokens), -1, -1)
            return self.head(
                self.norm(latents + self.read(latents, tokens, tokens, key_padding_mask=absent)[0]).mean(1)
            )

    absent = torch.arange(6).expand(3, -1) >= torch.tensor([[6], [4], [5]])
    batch = torch.randn(3, 6, 5), absent, torch.randint(3, (3,))
    return Example(Resampler(), batch, lambda net, x, absent, y: F.cross_entropy(net(x, absent), y))
