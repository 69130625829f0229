"""Tiny models of the transformers package, their weights random, in train mode."""

from typing import Any

import torch

# The names that configurations give to the same sizes.
BERT = {"hidden_size": 8, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 12}
LLAMA = {**BERT, "num_key_value_heads": 1, "max_position_embeddings": 16}
GPT = {"n_embd": 8, "n_layer": 1, "n_head": 2, "n_positions": 16}
T5 = {"d_model": 8, "d_kv": 4, "d_ff": 12, "num_layers": 1, "num_heads": 2}
BART = {
    "d_model": 8,
    "encoder_layers": 1,
    "decoder_layers": 1,
    "encoder_attention_heads": 2,
    "decoder_attention_heads": 2,
    "encoder_ffn_dim": 12,
    "decoder_ffn_dim": 12,
    "max_position_embeddings": 16,
}
VOCABULARY = 11
TOKENS = {"vocab_size": VOCABULARY, "pad_token_id": 0, "bos_token_id": 1, "eos_token_id": 2}


def tiny(kind: str, head: str, *, experts: str | None = None, **config: Any) -> torch.nn.Module:
    """A model by the names of its configuration and of its class."""
    import transformers

    cls, configuration = getattr(transformers, head), transformers.AutoConfig.for_model(kind, **config)
    chosen = {"experts_implementation": experts} if experts else {}
    return (cls.from_config if head.startswith("Auto") else cls._from_config)(configuration, **chosen).train()


def padded(length: int = 6, *, left: bool = False) -> dict[str, torch.Tensor]:
    """Two sentences, the second shorter, its padding masked and without a label."""
    tokens = torch.randint(3, VOCABULARY, (2, length))
    mask = torch.ones_like(tokens)
    mask[1, slice(0, 2) if left else slice(-2, None)] = 0
    tokens = tokens * mask
    return {"input_ids": tokens, "attention_mask": mask, "labels": tokens.masked_fill(mask == 0, -100)}


def unpadded(length: int = 6) -> dict[str, torch.Tensor]:
    """Two sentences of one length, without a mask."""
    tokens = torch.randint(3, VOCABULARY, (2, length))
    return {"input_ids": tokens, "labels": tokens}
