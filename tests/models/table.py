"""All architectures, by name, field after field."""

from importlib import import_module

from tests.models import ARCHITECTURES

__all__ = ["ARCHITECTURES"]

for field in (
    *("language", "vision", "vision_transformers", "speech", "multimodal", "state_space", "experts", "graphs"),
    *("generative", "physics", "reinforcement", "probabilistic", "recommender"),
):
    import_module(f"tests.models.{field}")
