"""Vision models of Hugging Face."""

from typing import Any

import torch
from torch.nn import functional as F

from tests.models import Example, of_field
from tests.models.hugging_face import BERT, tiny

architecture = of_field("Vision")


VIT = {**BERT, "image_size": 8, "patch_size": 4, "num_channels": 3}


def classifier(
    name: str, kind: str, head: str, size: int = 8, call: str = "labels", images: int = 2, **config: Any
) -> None:
    """Enter an image classifier of transformers."""
    architecture(name, call)(
        lambda: Example(
            tiny(kind, head, num_labels=3, **config),
            {"pixel_values": torch.randn(images, 3, size, size), "labels": torch.arange(images) * 2 % 3},
        )
    )


DROPOUT = {"hidden_dropout_prob": 0.1, "attention_probs_dropout_prob": 0.1}
classifier("ViT", "vit", "ViTForImageClassification", call="labels, dropout on", **VIT, **DROPOUT)
classifier("DeiT", "deit", "DeiTForImageClassification", **VIT)
classifier("BEiT", "beit", "BeitForImageClassification", **VIT, use_relative_position_bias=True)
classifier("DINOv2", "dinov2", "Dinov2ForImageClassification", **VIT)
classifier(
    *("ConvNeXt", "convnext", "ConvNextForImageClassification", 16),
    hidden_sizes=[4, 6],
    depths=[1, 1],
    num_stages=2,
    drop_path_rate=0.0,
)
classifier(
    *("ConvNeXt v2", "convnextv2", "ConvNextV2ForImageClassification", 16),
    hidden_sizes=[4, 6],
    depths=[1, 1],
    num_stages=2,
)
SWIN = {
    "image_size": 16,
    "patch_size": 2,
    "embed_dim": 4,
    "depths": [2, 1],
    "num_heads": [1, 2],
    "window_size": 4,
    "drop_path_rate": 0.0,
}
classifier("Swin", "swin", "SwinForImageClassification", 16, **SWIN)
classifier("Swin v2", "swinv2", "Swinv2ForImageClassification", 16, **SWIN)
classifier(
    *("ResNet, bottlenecks", "resnet", "ResNetForImageClassification", 16, "labels, train mode"),
    embedding_size=4,
    hidden_sizes=[4, 8],
    depths=[1, 1],
    layer_type="bottleneck",
)
classifier(
    *("RegNet", "regnet", "RegNetForImageClassification", 16, "labels, train mode"),
    embedding_size=4,
    hidden_sizes=[4, 8],
    depths=[1, 1],
    groups_width=2,
)
classifier(
    "MobileNet v1",
    "mobilenet_v1",
    "MobileNetV1ForImageClassification",
    32,
    "labels, train mode",
    depth_multiplier=0.25,
    min_depth=2,
)
classifier(
    *("PoolFormer", "poolformer", "PoolFormerForImageClassification", 16),
    hidden_sizes=[4, 6],
    depths=[1, 1],
    num_encoder_blocks=2,
    patch_sizes=[3, 3],
    strides=[2, 2],
    padding=[1, 1],
)
classifier(
    *("Pyramid vision transformer", "pvt", "PvtForImageClassification", 16),
    image_size=16,
    hidden_sizes=[4, 8],
    depths=[1, 1],
    num_encoder_blocks=2,
    num_attention_heads=[1, 2],
    patch_sizes=[4, 2],
    strides=[4, 2],
    sequence_reduction_ratios=[2, 1],
    mlp_ratios=[2, 2],
)
classifier(
    *("LeViT", "levit", "LevitForImageClassification", 32, "labels, train mode", 8),
    image_size=32,
    hidden_sizes=[8, 8, 8],
    num_attention_heads=[1, 1, 1],
    depths=[1, 1, 1],
    key_dim=[4, 4, 4],
)
classifier(
    *("FocalNet", "focalnet", "FocalNetForImageClassification", 16),
    drop_path_rate=0.0,
    image_size=16,
    embed_dim=4,
    hidden_sizes=[4, 8],
    depths=[1, 1],
    focal_levels=[1, 1],
    focal_windows=[3, 3],
)


@architecture("MAE", "pixels reconstructed, patches masked at random")
def mae():
    """He et al., 2022."""
    model = tiny(
        *("vit_mae", "ViTMAEForPreTraining"),
        **VIT,
        decoder_hidden_size=8,
        decoder_num_hidden_layers=1,
        decoder_num_attention_heads=2,
        decoder_intermediate_size=12,
    )
    return Example(model, {"pixel_values": torch.randn(2, 3, 8, 8), "noise": torch.rand(2, 4)})


@architecture("SegFormer", "per-pixel labels")
def segformer():
    """Xie et al., 2021."""
    model = tiny(
        *("segformer", "SegformerForSemanticSegmentation"),
        num_labels=3,
        drop_path_rate=0.0,
        num_encoder_blocks=2,
        depths=[1, 1],
        sr_ratios=[2, 1],
        hidden_sizes=[4, 8],
        patch_sizes=[3, 3],
        strides=[2, 2],
        num_attention_heads=[1, 2],
        mlp_ratios=[2, 2],
        decoder_hidden_size=8,
    )
    return Example(model, {"pixel_values": torch.randn(2, 3, 16, 16), "labels": torch.randint(3, (2, 16, 16))})


@architecture("DETR", "labels, matched inside the loss")
def detr():
    """Carion et al., 2020, as Hugging Face trains it: SciPy matches at every call."""
    import transformers

    backbone = transformers.ResNetConfig(embedding_size=4, hidden_sizes=[4, 8], depths=[1, 1], out_features=["stage2"])
    model = tiny(
        *("detr", "DetrForObjectDetection"),
        backbone_config=backbone,
        use_timm_backbone=False,
        use_pretrained_backbone=False,
        backbone=None,
        d_model=8,
        encoder_layers=1,
        decoder_layers=1,
        num_queries=3,
        encoder_attention_heads=2,
        decoder_attention_heads=2,
        encoder_ffn_dim=12,
        decoder_ffn_dim=12,
        num_labels=3,
    )
    labels = [
        {"class_labels": torch.tensor([1]), "boxes": torch.rand(1, 4)},
        {"class_labels": torch.tensor([0, 2]), "boxes": torch.rand(2, 4)},
    ]
    return Example(model, {"pixel_values": torch.randn(2, 3, 32, 32), "labels": labels})


@architecture("DPT, depth", "mean squared error of a depth map")
def dpt():
    """Ranftl et al., 2021."""
    model = tiny(
        "dpt",
        "DPTForDepthEstimation",
        **{**VIT, "num_hidden_layers": 4},
        is_hybrid=False,
        backbone_out_indices=[0, 1, 2, 3],
        neck_hidden_sizes=[4, 4, 8, 8],
        fusion_hidden_size=4,
        reassemble_factors=[4, 2, 1, 0.5],
    )
    batch = {"pixel_values": torch.randn(1, 3, 8, 8), "depth": torch.randn(1, 32, 32)}
    return Example(model, batch, lambda net, pixel_values, depth: F.mse_loss(net(pixel_values).predicted_depth, depth))


@architecture("Swin2SR", "mean absolute error of an image twice as large")
def swin2sr():
    """Conde et al., 2022."""
    model = tiny(
        "swin2sr",
        "Swin2SRForImageSuperResolution",
        drop_path_rate=0.0,
        image_size=8,
        patch_size=1,
        embed_dim=4,
        depths=[1],
        num_heads=[2],
        window_size=4,
        upscale=2,
    )
    batch = torch.rand(1, 3, 8, 8), torch.rand(1, 3, 16, 16)
    return Example(model, batch, lambda net, x, y: F.l1_loss(net(x).reconstruction, y))
