"""Speech and sound."""

from typing import Any

import torch
from torch import nn
from torch.nn import functional as F

from tests.models import Example, of_field
from tests.models.hugging_face import BART, BERT, TOKENS, tiny

architecture = of_field("Speech")
WAV = {
    **BERT,
    **TOKENS,
    "conv_dim": (4, 4),
    "conv_stride": (4, 2),
    "conv_kernel": (8, 3),
    "num_feat_extract_layers": 2,
    "num_conv_pos_embeddings": 4,
    "num_conv_pos_embedding_groups": 2,
    "mask_time_prob": 0.0,
    "classifier_proj_size": 6,
    "do_stable_layer_norm": False,
    "hidden_dropout": 0.0,
    "layerdrop": 0.0,
}


def waves() -> torch.Tensor:
    """Two sounds of 160 samples."""
    return torch.randn(2, 160)


def sound_classifier(name: str, kind: str, head: str, frozen: bool = True, **config: Any) -> None:
    """Enter a classifier of sounds; ``frozen``: its convolutions are, as fine-tuning has them."""

    @architecture(name, "labels, feature encoder frozen" if frozen else "labels")
    def make():
        model = tiny(kind, head, num_labels=3, **WAV, **config)
        if frozen:
            model.freeze_feature_encoder()
        return Example(model, {"input_values": waves(), "labels": torch.tensor([0, 2])})


sound_classifier("Wav2Vec2", "wav2vec2", "Wav2Vec2ForSequenceClassification")
sound_classifier("Wav2Vec2, all of it trained", "wav2vec2", "Wav2Vec2ForSequenceClassification", frozen=False)
sound_classifier("HuBERT", "hubert", "HubertForSequenceClassification")
sound_classifier("WavLM", "wavlm", "WavLMForSequenceClassification", num_buckets=8, max_bucket_distance=16)
sound_classifier("SEW", "sew", "SEWForSequenceClassification", squeeze_factor=2)


@architecture("Whisper", "labels")
def whisper():
    """Radford et al., 2023."""
    sizes = {**BART, **TOKENS, "num_mel_bins": 6, "max_source_positions": 8, "max_target_positions": 16}
    model = tiny(
        "whisper",
        "WhisperForConditionalGeneration",
        **sizes,
        decoder_start_token_id=1,
        suppress_tokens=None,
        begin_suppress_tokens=None,
    )
    return Example(model, {"input_features": torch.randn(2, 6, 16), "labels": torch.randint(3, 11, (2, 5))})


@architecture("Speech2Text", "attention_mask and labels")
def speech_to_text():
    """Wang et al., 2020."""
    sizes = {
        **BART,
        **TOKENS,
        "input_feat_per_channel": 4,
        "conv_channels": 8,
        "num_conv_layers": 2,
        "conv_kernel_sizes": (3, 3),
        "max_source_positions": 16,
        "max_target_positions": 16,
    }
    model = tiny("speech_to_text", "Speech2TextForConditionalGeneration", **sizes, decoder_start_token_id=1)
    mask = torch.ones(2, 16, dtype=torch.long)
    mask[1, 12:] = 0
    return Example(
        model, {"input_features": torch.randn(2, 16, 4), "attention_mask": mask, "labels": torch.randint(3, 11, (2, 5))}
    )


@architecture("Audio spectrogram transformer", "labels")
def spectrogram_transformer():
    """Gong et al., 2021."""
    model = tiny(
        "audio-spectrogram-transformer",
        "ASTForAudioClassification",
        **BERT,
        patch_size=4,
        num_mel_bins=8,
        max_length=8,
        frequency_stride=4,
        time_stride=4,
        num_labels=3,
    )
    return Example(model, {"input_values": torch.randn(2, 8, 8), "labels": torch.tensor([0, 2])})


@architecture("Wav2Vec2, CTC", "labels, F.ctc_loss")
def wav2vec2_ctc():
    """Baevski et al., 2020. PyTorch has no second derivative of its CTC loss."""
    model = tiny("wav2vec2", "Wav2Vec2ForCTC", **WAV)
    return Example(model, {"input_values": waves(), "labels": torch.randint(3, 11, (2, 4))})


def ctc(log_probs: torch.Tensor, labels: torch.Tensor) -> torch.Tensor:
    """The mean of −log p(labels) over all alignments by the forward recursion; log_probs are (T, N, C), blank 0."""
    n, length = labels.shape
    states = torch.zeros(n, 2 * length + 1, dtype=torch.long)
    states[:, 1::2] = labels
    low = -1e30
    skips = torch.zeros(states.shape, dtype=torch.bool)
    skips[:, 2:] = (states[:, 2:] != 0) & (states[:, 2:] != states[:, :-2])
    emitted = log_probs.gather(2, states.expand(len(log_probs), -1, -1))
    alpha = torch.cat([emitted[0, :, :2], torch.full((n, 2 * length - 1), low).to(log_probs)], 1)
    for now in emitted[1:]:
        one, two = F.pad(alpha, (1, 0), value=low)[:, :-1], F.pad(alpha, (2, 0), value=low)[:, :-2]
        alpha = torch.stack([alpha, one, torch.where(skips, two, low)]).logsumexp(0) + now
    return -(alpha[:, -2:].logsumexp(1) / length).mean()


@architecture("CTC written as its recursion, on an LSTM", "labels")
def ctc_by_recursion():
    """Graves et al., 2006: what stands for F.ctc_loss, which PyTorch differentiates once."""

    class Recogniser(nn.Module):
        def __init__(self):
            super().__init__()
            self.rnn, self.head = nn.LSTM(3, 4, bidirectional=True), nn.Linear(8, 5)

        def forward(self, x):
            return self.head(self.rnn(x)[0]).log_softmax(-1)

    return Example(
        Recogniser(), (torch.randn(7, 2, 3), torch.tensor([[1, 2], [3, 3]])), lambda net, x, y: ctc(net(x), y)
    )


@architecture("RNN transducer", "labels, the lattice in primitives")
def transducer():
    """Graves, 2012."""

    class Transducer(nn.Module):
        def __init__(self):
            super().__init__()
            self.heard, self.spoken, self.words = (
                nn.GRU(3, 4, batch_first=True),
                nn.GRU(4, 4, batch_first=True),
                nn.Embedding(5, 4),
            )
            self.joint = nn.Linear(4, 5)

        def forward(self, x, y):
            spoken = self.spoken(F.pad(self.words(y), (0, 0, 1, 0)))[0]
            return self.joint(torch.tanh(self.heard(x)[0][:, :, None] + spoken[:, None])).log_softmax(-1)

    def loss_of(net, x, y):
        logits = net(x, y)
        blank, label = (
            logits[..., 0],
            logits[:, :, :-1].gather(3, y[:, None, :, None].expand(-1, x.shape[1], -1, 1))[..., 0],
        )
        row = [torch.zeros(len(x)).to(logits)]
        for u in range(y.shape[1]):
            row.append(row[-1] + label[:, 0, u])
        for t in range(1, x.shape[1]):
            new = [row[0] + blank[:, t - 1, 0]]
            for u in range(y.shape[1]):
                new.append(torch.logaddexp(row[u + 1] + blank[:, t - 1, u + 1], new[-1] + label[:, t, u]))
            row = new
        return -(row[-1] + blank[:, -1, -1]).mean()

    return Example(Transducer(), (torch.randn(2, 4, 3), torch.randint(1, 5, (2, 2))), loss_of)


@architecture("WaveNet", "next-sample cross entropy")
def wavenet():
    """van den Oord et al., 2016: dilated causal convolutions, gates."""

    class WaveNet(nn.Module):
        def __init__(self):
            super().__init__()
            self.levels, self.out = nn.Embedding(8, 4), nn.Conv1d(4, 8, 1)
            self.gates = nn.ModuleList(nn.Conv1d(4, 8, 2, dilation=2**i) for i in range(3))
            self.skips = nn.ModuleList(nn.Conv1d(4, 4, 1) for _ in range(3))

        def forward(self, levels):
            x, total = self.levels(levels).transpose(1, 2), 0
            for gate, skip in zip(self.gates, self.skips, strict=True):
                a, b = gate(F.pad(x, (gate.dilation[0], 0))).chunk(2, 1)
                z = torch.tanh(a) * torch.sigmoid(b)
                x, total = x + z, total + skip(z)
            return self.out(F.relu(total))

    return Example(WaveNet(), (torch.randint(8, (2, 10)),), lambda net, x: F.cross_entropy(net(x[:, :-1]), x[:, 1:]))


@architecture("Conv-TasNet", "signal-to-noise ratio, the better of two orders")
def conv_tasnet():
    """Luo & Mesgarani, 2019, with permutation-invariant training."""

    class Separator(nn.Module):
        def __init__(self):
            super().__init__()
            self.encode, self.decode = nn.Conv1d(1, 6, 4, 2), nn.ConvTranspose1d(6, 1, 4, 2)
            self.mask = nn.Sequential(
                nn.GroupNorm(1, 6),
                nn.Conv1d(6, 8, 1),
                nn.PReLU(),
                nn.Conv1d(8, 8, 3, padding=1, groups=8),
                nn.Conv1d(8, 12, 1),
            )

        def forward(self, x):
            w = self.encode(x[:, None])
            masks = torch.sigmoid(self.mask(w)).unflatten(1, (2, 6))
            return torch.stack([self.decode(masks[:, i] * w)[:, 0] for i in range(2)], 1)

    def loss_of(net, mixed, sources):
        got = net(mixed)

        def ratio(a, b):
            a, b = a - a.mean(-1, keepdim=True), b - b.mean(-1, keepdim=True)
            target = (a * b).sum(-1, keepdim=True) / b.square().sum(-1, keepdim=True) * b
            return 10 * torch.log10(target.square().sum(-1) / (a - target).square().sum(-1)).mean(-1)

        return -torch.maximum(ratio(got, sources), ratio(got, sources.flip(1))).mean()

    sources = torch.randn(2, 2, 20)
    return Example(Separator(), (sources.sum(1), sources), loss_of)


@architecture("Spectrogram net", "L1 of log spectrograms by torch.stft")
def spectrogram():
    """A vocoder's multi-resolution spectral loss (Yamamoto et al., 2020)."""

    def loss_of(net, x, y):
        got = net(x[:, None])[:, 0]

        def spectrum(wave, size):
            s = torch.stft(wave, size, size // 2, window=torch.hann_window(size).to(wave), return_complex=True)
            return (s.abs().square() + 1e-5).log()

        return sum(F.l1_loss(spectrum(got, size), spectrum(y, size)) for size in (8, 16))

    net = nn.Sequential(nn.Conv1d(1, 4, 5, padding=2), nn.Tanh(), nn.Conv1d(4, 1, 5, padding=2))
    return Example(net, (torch.randn(2, 32), torch.randn(2, 32)), loss_of)
