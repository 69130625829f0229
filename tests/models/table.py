"""All architectures, by name, field after field."""

from importlib import import_module

from tests.models import ARCHITECTURES

__all__ = ["ARCHITECTURES"]

for module in (
    *("language", "convolutional", "vision", "vision_transformers", "self_supervised", "speech", "multimodal"),
    *("state_space", "experts", "graphs", "molecules_and_sets", "autoencoders", "adversaries", "flows", "diffusion"),
    *("equations", "operators", "reinforcement", "likelihoods", "meta_and_metric", "recommender", "tables_and_series"),
):
    import_module(f"tests.models.{module}")
