"""Mixtures of experts."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.models import Example, of_field
from tests.models.hugging_face import LLAMA, T5, TOKENS, padded, tiny

architecture = of_field("Mixture of experts")


def causal(name: str, kind: str, head: str, experts: str = "batched_mm", **config: Any) -> None:
    """Enter a causal language model of experts, of which each token is sent to two."""
    sizes = {**TOKENS, **LLAMA, "num_experts_per_tok": 2} | config

    architecture(name, f"attention_mask and labels, experts_implementation={experts!r}")(
        lambda: Example(tiny(kind, head, experts=experts, **sizes), padded())
    )


MIXTRAL = {"num_local_experts": 3, "output_router_logits": True}
QWEN = {"num_experts": 3, "moe_intermediate_size": 6, "shared_expert_intermediate_size": 6}
DEEPSEEK = {
    "num_key_value_heads": 2,
    "n_routed_experts": 4,
    "n_group": 2,
    "topk_group": 1,
    "n_shared_experts": 1,
    "moe_intermediate_size": 6,
    "first_k_dense_replace": 0,
    "kv_lora_rank": 4,
    "q_lora_rank": 4,
    "qk_rope_head_dim": 4,
    "qk_nope_head_dim": 4,
    "v_head_dim": 4,
}
causal("Mixtral", "mixtral", "MixtralForCausalLM", **MIXTRAL)
causal("Mixtral, experts one by one", "mixtral", "MixtralForCausalLM", "eager", **MIXTRAL)
causal("Qwen2-MoE", "qwen2_moe", "Qwen2MoeForCausalLM", **QWEN)
causal("OLMoE", "olmoe", "OlmoeForCausalLM", num_experts=3)
causal("GraniteMoE", "granitemoe", "GraniteMoeForCausalLM", num_local_experts=3)
causal("DeepSeek-V3", "deepseek_v3", "DeepseekV3ForCausalLM", **DEEPSEEK)


@architecture("Switch Transformers", "attention_mask and labels, no jitter of the router")
def switch():
    """Fedus et al., 2022."""
    model = tiny(
        "switch_transformers",
        "SwitchTransformersForConditionalGeneration",
        **TOKENS,
        **T5,
        num_decoder_layers=1,
        num_experts=2,
        num_sparse_encoder_layers=1,
        num_sparse_decoder_layers=1,
        expert_capacity=8,
        router_jitter_noise=0.0,  # drawn in float32, whose numbers float64 does not draw
        decoder_start_token_id=1,
    )
    return Example(model, padded() | {"labels": torch.randint(3, 11, (2, 5))})


def experts(count: int = 3) -> nn.ModuleList:
    """Small nets of one shape."""
    return nn.ModuleList(nn.Sequential(nn.Linear(4, 5), nn.GELU(), nn.Linear(5, 2)) for _ in range(count))


def regression(net: nn.Module) -> Example:
    """Mean squared error on a batch of 6."""
    return Example(net, (torch.randn(6, 4), torch.randn(6, 2)), lambda net, x, y: F.mse_loss(net(x), y))


@architecture("Mixture of experts, dense gate", "mean squared error")
def dense_gate():
    """Jacobs et al., 1991."""

    class Mixture(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.experts = nn.Linear(4, 3), experts()

        def forward(self, x):
            return torch.einsum("be,beo->bo", self.gate(x).softmax(-1), torch.stack([e(x) for e in self.experts], 1))

    return regression(Mixture())


@architecture("Mixture of experts, the two best", "mean squared error, load balancing")
def top_two():
    """Shazeer et al., 2017; the weights of the others are zero."""

    class Mixture(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.experts = nn.Linear(4, 3), experts()

        def forward(self, x):
            logits = self.gate(x)
            best = logits.topk(2, -1)
            weights = torch.zeros_like(logits).scatter(1, best.indices, best.values.softmax(-1))
            out = torch.einsum("be,beo->bo", weights, torch.stack([e(x) for e in self.experts], 1))
            return out, (logits.softmax(-1).mean(0) * (weights > 0).to(x).mean(0)).sum()

    def loss_of(net, x, y):
        out, balance = net(x)
        return F.mse_loss(out, y) + 0.1 * balance

    return regression(Mixture())._replace(loss_of=loss_of)


@architecture("Mixture of experts, tokens gathered by value", "mean squared error, index_add")
def gathered():
    """Each expert sees the tokens that are sent to it, as many as there are: the shapes hang on values."""

    class Mixture(nn.Module):
        def __init__(self):
            super().__init__()
            self.gate, self.experts = nn.Linear(4, 3), experts()

        def forward(self, x):
            p = self.gate(x).softmax(-1)
            weight, chosen = p.max(-1)
            out = torch.zeros(len(x), 2).to(x)
            for i, expert in enumerate(self.experts):
                rows = (chosen == i).nonzero()[:, 0]
                out = out.index_add(0, rows, weight[rows, None] * expert(x[rows]))
            return out

    return regression(Mixture())


@architecture("Soft MoE", "mean squared error")
def soft():
    """Puigcerver et al., 2024: slots are averages of all tokens."""

    class Mixture(nn.Module):
        def __init__(self):
            super().__init__()
            self.slots, self.experts = nn.Parameter(torch.randn(4, 3)), experts()

        def forward(self, x):
            logits = x @ self.slots
            slots = logits.softmax(0).T @ x
            return logits.softmax(1) @ torch.stack([e(slot) for e, slot in zip(self.experts, slots, strict=True)])

    return regression(Mixture())
