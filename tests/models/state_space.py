"""State spaces, linear attention and recurrent nets."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F
from torch.nn.utils import rnn

from tests.models import Example, of_field
from tests.models.hugging_face import LLAMA, TOKENS, padded, tiny, unpadded

architecture = of_field("State space, linear attention, recurrent")


def causal(name: str, kind: str, head: str, call: str, batch: Any, **config: Any) -> None:
    """Enter a causal language model of transformers."""
    architecture(name, call)(lambda: Example(tiny(kind, head, **TOKENS | config), batch()))


MAMBA = {"hidden_size": 8, "state_size": 4, "num_hidden_layers": 1}
causal("Mamba", "mamba", "MambaForCausalLM", "labels", unpadded, **MAMBA, time_step_rank=2)
causal(
    "Mamba 2",
    "mamba2",
    "Mamba2ForCausalLM",
    "labels",
    unpadded,
    **MAMBA,
    num_heads=4,
    head_dim=4,
    n_groups=1,
    chunk_size=4,
)
causal(
    "RWKV",
    "rwkv",
    "RwkvForCausalLM",
    "labels",
    unpadded,
    hidden_size=8,
    num_hidden_layers=2,
    attention_hidden_size=8,
    intermediate_size=12,
    context_length=16,
)


@architecture("RecurrentGemma", "attention_mask and labels, trust=[SqrtBoundDerivative]")
def recurrent_gemma():
    """Botev et al., 2024: the root's own backward clips a derivative that is not reached here."""
    from transformers.models.recurrent_gemma.modeling_recurrent_gemma import SqrtBoundDerivative

    model = tiny(
        *("recurrent_gemma", "RecurrentGemmaForCausalLM"),
        **TOKENS,
        **LLAMA | {"num_hidden_layers": 2},
        lru_width=8,
        block_types=["recurrent", "attention"],
        attention_window_size=4,
    )
    return Example(model, padded(), trust=(SqrtBoundDerivative,))


causal(
    "Jamba",
    "jamba",
    "JambaForCausalLM",
    "attention_mask and labels",
    padded,
    **LLAMA | {"num_hidden_layers": 2},
    experts="batched_mm",
    use_mamba_kernels=False,
    attn_layer_period=2,
    attn_layer_offset=1,
    expert_layer_period=2,
    expert_layer_offset=1,
    num_experts=2,
    mamba_d_state=4,
    mamba_dt_rank=2,
)


def sequence_classified(net: nn.Module, length: int = 6, width: int = 3) -> Example:
    """Cross entropy of sequences of random classes."""
    return Example(
        net, (torch.randn(2, length, width), torch.randint(3, (2,))), lambda net, x, y: F.cross_entropy(net(x), y)
    )


@architecture("S4D, complex states", "classifier")
def s4d():
    """Gu et al., 2022: the kernel of a diagonal complex state space, convolved by FFT."""

    class S4D(nn.Module):
        def __init__(self, width=4, states=3):
            super().__init__()
            self.into, self.head = nn.Linear(3, width), nn.Linear(width, 3)
            self.log_dt = nn.Parameter(torch.rand(width, 1) - 2)
            self.c = nn.Parameter(torch.randn(width, states, 2))
            self.log_real = nn.Parameter(torch.full((width, states), -0.7))
            self.imaginary = nn.Parameter(torch.pi * torch.arange(states).repeat(width, 1))

        def forward(self, x):
            u, length = self.into(x).transpose(1, 2), x.shape[1]
            a = torch.complex(-self.log_real.exp(), self.imaginary)
            da = a * self.log_dt.exp()
            powers = torch.exp(da[..., None] * torch.arange(length).to(x))
            c = torch.view_as_complex(self.c) * (da.exp() - 1) / a
            kernel = 2 * torch.einsum("hn,hnl->hl", c, powers).real
            y = torch.fft.irfft(torch.fft.rfft(u, n=2 * length) * torch.fft.rfft(kernel, n=2 * length), n=2 * length)
            return self.head(F.gelu(y[..., :length]).mean(-1))

    return sequence_classified(S4D())


class Heads(nn.Module):
    """Queries, keys and values of one head each, and a classifier behind what a function makes of them."""

    def __init__(self, mix, width=4):
        super().__init__()
        self.qkv, self.head, self.mix = nn.Linear(3, 3 * width), nn.Linear(width, 3), mix

    def forward(self, x):
        return self.head(self.mix(*self.qkv(x).chunk(3, -1)).mean(1))


@architecture("Linear attention", "classifier, causal")
def linear_attention():
    """Katharopoulos et al., 2020."""

    def mix(q, k, v):
        q, k = F.elu(q) + 1, F.elu(k) + 1
        state = torch.einsum("btd,bte->btde", k, v).cumsum(1)
        return torch.einsum("btd,btde->bte", q, state) / (q * k.cumsum(1)).sum(-1, keepdim=True)

    return sequence_classified(Heads(mix))


@architecture("Performer", "classifier, random features")
def performer():
    """Choromanski et al., 2021."""
    features = torch.randn(6, 4)

    def mix(q, k, v):
        w = features.to(q)
        q, k = (torch.exp(x @ w.T - x.square().sum(-1, keepdim=True) / 2 - 1) for x in (q, k))
        return q @ (k.transpose(1, 2) @ v) / (q @ k.sum(1)[..., None])

    return sequence_classified(Heads(mix))


@architecture("RetNet", "classifier, parallel retention")
def retnet():
    """Sun et al., 2023."""

    def mix(q, k, v):
        apart = torch.arange(q.shape[1])[:, None] - torch.arange(q.shape[1])
        decay = torch.where(apart >= 0, 0.9 ** apart.clamp(min=0).to(q), 0)
        return F.group_norm(((q @ k.transpose(1, 2)) * decay @ v).flatten(0, 1), 2).view_as(v)

    return sequence_classified(Heads(mix))


@architecture("DeltaNet", "classifier, the delta rule step by step")
def deltanet():
    """Schlag et al., 2021: a fast weight corrected at every token."""

    def mix(q, k, v):
        k, state, out = F.normalize(k, dim=-1), torch.zeros(len(q), 4, 4).to(q), []
        for t in range(q.shape[1]):
            read = torch.einsum("bde,bd->be", state, k[:, t])
            state = state + 0.5 * torch.einsum("bd,be->bde", k[:, t], v[:, t] - read)
            out.append(torch.einsum("bde,bd->be", state, q[:, t]))
        return torch.stack(out, 1)

    return sequence_classified(Heads(mix))


@architecture("Hyena", "classifier, implicit long convolution")
def hyena():
    """Poli et al., 2023."""

    class Hyena(nn.Module):
        def __init__(self):
            super().__init__()
            self.into, self.head = nn.Linear(3, 12), nn.Linear(4, 3)
            self.filter = nn.Sequential(nn.Linear(3, 6), nn.SiLU(), nn.Linear(6, 4))

        def forward(self, x):
            n = x.shape[1]
            t = torch.linspace(0, 1, n).to(x)[:, None]
            kernel = self.filter(torch.cat([t, torch.sin(6 * t), torch.cos(6 * t)], 1)) * torch.exp(-2 * t)
            a, b, v = self.into(x).chunk(3, -1)
            y = torch.fft.irfft(
                torch.fft.rfft(a * v, n=2 * n, dim=1) * torch.fft.rfft(kernel, n=2 * n, dim=0), n=2 * n, dim=1
            )
            return self.head((b * y[:, :n]).mean(1))

    return sequence_classified(Hyena())


class Tagger(nn.Module):
    """A bidirectional recurrent net over sentences of different lengths."""

    def __init__(self, kind):
        super().__init__()
        self.words, self.rnn, self.head = (
            nn.Embedding(7, 3),
            kind(3, 4, batch_first=True, bidirectional=True),
            nn.Linear(8, 3),
        )


@architecture("LSTM over packed sequences", "lengths, PackedSequence")
def packed_lstm():
    """What nn.LSTM is given of sentences of different lengths."""

    class Packed(Tagger):
        def forward(self, tokens, lengths):
            packed = rnn.pack_padded_sequence(self.words(tokens), lengths, batch_first=True, enforce_sorted=False)
            return self.head(rnn.pad_packed_sequence(self.rnn(packed)[0], batch_first=True)[0])

    batch = torch.randint(7, (3, 5)), torch.tensor([5, 3, 4]), torch.randint(3, (3, 5))
    return Example(
        Packed(nn.LSTM), batch, lambda net, x, lengths, y: F.cross_entropy(net(x, lengths).transpose(1, 2), y)
    )


@architecture("Bidirectional GRU, max over time", "classifier")
def gru():
    """Lengths as a mask."""

    class Masked(Tagger):
        def forward(self, tokens, lengths):
            absent = torch.arange(tokens.shape[1]) >= lengths[:, None]
            return self.head(self.rnn(self.words(tokens))[0].masked_fill(absent[..., None], -torch.inf).amax(1))

    batch = torch.randint(7, (3, 5)), torch.tensor([5, 3, 4]), torch.randint(3, (3,))
    return Example(Masked(nn.GRU), batch, lambda net, x, lengths, y: F.cross_entropy(net(x, lengths), y))


@architecture("Seq2seq with attention", "cross entropy, teacher forcing")
def attention_seq2seq():
    """Bahdanau et al., 2015: LSTM cells and additive attention."""

    class Translator(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.encoder, self.cell = nn.Embedding(7, 3), nn.GRU(3, 4, batch_first=True), nn.LSTMCell(7, 4)
            self.query, self.key, self.score, self.head = (
                nn.Linear(4, 4),
                nn.Linear(4, 4),
                nn.Linear(4, 1),
                nn.Linear(8, 7),
            )

        def forward(self, source, target):
            memory, last = self.encoder(self.words(source))
            h, c, logits = last[0], torch.zeros_like(last[0]), []
            for word in self.words(target).unbind(1):
                weights = self.score(torch.tanh(self.key(memory) + self.query(h)[:, None])).softmax(1)
                context = (weights * memory).sum(1)
                h, c = self.cell(torch.cat([word, context], 1), (h, c))
                logits.append(self.head(torch.cat([h, context], 1)))
            return torch.stack(logits, 2)

    batch = torch.randint(7, (2, 4)), torch.randint(7, (2, 4))
    return Example(Translator(), batch, lambda net, x, y: F.cross_entropy(net(x, y[:, :-1]), y[:, 1:]))


@architecture("Language model on an LSTM, tied", "next token, dropout on")
def lstm_language_model():
    """Zaremba et al., 2014; Press & Wolf, 2017."""

    class Model(nn.Module):
        def __init__(self):
            super().__init__()
            self.words, self.rnn, self.drop, self.head = (
                nn.Embedding(7, 4),
                nn.LSTM(4, 4, 2, batch_first=True),
                nn.Dropout(0.3),
                nn.Linear(4, 7),
            )
            self.head.weight = self.words.weight

        def forward(self, tokens):
            return self.head(self.drop(self.rnn(self.drop(self.words(tokens)))[0]))

    return Example(
        Model(),
        (torch.randint(7, (2, 6)),),
        lambda net, x: F.cross_entropy(net(x[:, :-1]).flatten(0, 1), x[:, 1:].flatten()),
    )
