"""Language models of Hugging Face: causal, masked, encoder-decoder; padded, packed, tied, untied, with dropout."""

from typing import Any

import torch

from tests.models import Example, of_field
from tests.models.hugging_face import BART, BERT, GPT, LLAMA, T5, TOKENS, VOCABULARY, padded, tiny, unpadded

architecture = of_field("Language")
PADDED = "attention_mask and labels"


def packed() -> dict[str, torch.Tensor]:
    """Sentences of 4 and 3 tokens in one row, their positions counted anew."""
    tokens = torch.randint(3, VOCABULARY, (1, 7))
    positions = torch.tensor([[0, 1, 2, 3, 0, 1, 2]])
    return {"input_ids": tokens, "position_ids": positions, "labels": tokens.masked_fill(positions == 0, -100)}


def translated() -> dict[str, torch.Tensor]:
    """A padded batch of the encoder, and what the decoder is to say."""
    return padded() | {"labels": torch.randint(3, VOCABULARY, (2, 5))}


def enter(name: str, call: str, kind: str, head: str, batch: Any, **config: Any) -> None:
    """Enter a model of transformers."""
    architecture(name, call)(lambda: Example(tiny(kind, f"AutoModelFor{head}", **(TOKENS | config)), batch()))


def causal(name: str, kind: str, batch: Any = padded, call: str = PADDED, **config: Any) -> None:
    """Enter a causal language model."""
    enter(name, call, kind, "CausalLM", batch, **config)


def masked(name: str, kind: str, call: str = PADDED, **config: Any) -> None:
    """Enter a masked language model."""
    enter(name, call, kind, "MaskedLM", padded, **({**BERT, "max_position_embeddings": 16} | config))


def translating(name: str, kind: str, call: str = PADDED, **config: Any) -> None:
    """Enter an encoder-decoder."""
    enter(name, call, kind, "Seq2SeqLM", translated, decoder_start_token_id=1, **config)


causal("GPT-2", "gpt2", call=f"{PADDED}, dropout on", **GPT)
causal("GPT-2, untied, packed", "gpt2", packed, "position_ids of packed sentences", tie_word_embeddings=False, **GPT)
causal(
    "GPT-Neo",
    "gpt_neo",
    hidden_size=8,
    num_layers=2,
    num_heads=2,
    max_position_embeddings=16,
    attention_types=[[["global", "local"], 1]],
    window_size=4,
)
causal("GPT-NeoX", "gpt_neox", **BERT)
causal("GPT-J", "gptj", **GPT, rotary_dim=4)
causal("CodeGen", "codegen", **GPT | {"n_head": 4}, rotary_dim=2)
causal(
    "OPT",
    "opt",
    hidden_size=8,
    num_hidden_layers=1,
    num_attention_heads=2,
    ffn_dim=12,
    max_position_embeddings=16,
    word_embed_proj_dim=8,
)
causal("Falcon", "falcon", hidden_size=8, num_hidden_layers=1, num_attention_heads=2)
causal("MPT", "mpt", d_model=8, n_layers=1, n_heads=2, max_seq_len=16)
causal("Llama", "llama", **LLAMA)
causal("Llama, left padding", "llama", lambda: padded(left=True), f"left-padded {PADDED}", **LLAMA)
causal("Llama, packed", "llama", packed, "position_ids of packed sentences", **LLAMA)
causal(
    "Llama, eager attention, tied",
    "llama",
    unpadded,
    "labels",
    attn_implementation="eager",
    tie_word_embeddings=True,
    **LLAMA,
)
causal("Mistral, sliding window", "mistral", sliding_window=3, **LLAMA)
causal("Qwen2", "qwen2", **LLAMA)
causal("Qwen3", "qwen3", **LLAMA, head_dim=4)
causal("Gemma", "gemma", **LLAMA, head_dim=4)
causal(
    "Gemma 2, soft caps",
    "gemma2",
    **LLAMA | {"num_hidden_layers": 2},
    head_dim=4,
    sliding_window=3,
    query_pre_attn_scalar=4,
)
causal("Phi", "phi", **BERT, max_position_embeddings=16)
causal("Phi-3", "phi3", **LLAMA)
causal("StableLM", "stablelm", **LLAMA)
causal("OLMo 2", "olmo2", **LLAMA)
causal("Cohere", "cohere", **LLAMA)
masked("BERT", "bert", call=f"{PADDED}, dropout on")
masked("RoBERTa", "roberta", max_position_embeddings=20)
masked("DistilBERT", "distilbert", dim=8, n_layers=1, n_heads=2, hidden_dim=12)
masked("ALBERT", "albert", embedding_size=4)
masked("ELECTRA", "electra", embedding_size=4)
masked("DeBERTa v2", "deberta-v2", relative_attention=True, pos_att_type=["p2c", "c2p"], position_buckets=4)
masked("MPNet", "mpnet")
masked("ConvBERT", "convbert", embedding_size=8, conv_kernel_size=3)
masked("RoFormer", "roformer", embedding_size=8)
masked("SqueezeBERT", "squeezebert", embedding_size=8)
masked("MobileBERT", "mobilebert", intra_bottleneck_size=8, true_hidden_size=8, embedding_size=4)
masked("ModernBERT", "modernbert", global_attn_every_n_layers=2, local_attention=4)
masked("Longformer", "longformer", attention_window=[4])
masked("ESM, proteins", "esm", mask_token_id=3, position_embedding_type="rotary")
translating("T5", "t5", **T5)
translating("BART", "bart", **BART)
translating("Pegasus", "pegasus", **BART)
translating("Marian", "marian", **BART)
translating("M2M-100", "m2m_100", f"{PADDED}, layerdrop=0", **BART, encoder_layerdrop=0.0, decoder_layerdrop=0.0)
translating(
    "LED",
    "led",
    **BART | {"max_position_embeddings": 16},
    attention_window=[4],
    max_encoder_position_embeddings=16,
    max_decoder_position_embeddings=16,
)


@architecture("BLOOM", f"{PADDED}, trust=[GeLUFunction]")
def bloom():
    """Le Scao et al., 2022. Its activation is an autograd.Function in train mode."""
    model = tiny("bloom", "BloomForCausalLM", **TOKENS, hidden_size=8, n_layer=1, n_head=2)
    from transformers.models.bloom.modeling_bloom import GeLUFunction

    return Example(model, padded(), trust=(GeLUFunction,))
