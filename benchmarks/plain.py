"""The plain loop: a frozen pretrained transformer, fine-tuned as a user would write it without icecore.

It uses the model library's own forward pass in fp32 with its choice of attention, Adam on the trained parameters, and
clipping. It does no avoidable work: frozen weights have no gradients, and keys are not cached.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

#: parts of the names of GPT-2's and BERT's norms and of their position tables
NORMS = ("ln_", "LayerNorm")
POSITIONS = ("wpe", "position_embeddings")


class PlainFPT(nn.Module):
    """Input layer, frozen body with trained norms and positions, output layer at the last `read` positions.

    Parameters:
        body: a GPT2Model or BertModel, without dropout
        size: P, numbers a token
        outputs: C
        read: n, positions read
        body_trained: norms and positions are trained; False: only the output layer is
    """

    def __init__(self, body: Any, size: int, outputs: int, read: int = 1, body_trained: bool = True) -> None:
        super().__init__()
        self.input = nn.Linear(size, body.config.hidden_size).requires_grad_(body_trained)
        self.body = body.eval()
        self.output = nn.Linear(body.config.hidden_size, outputs)
        self.read = read
        for name, parameter in body.named_parameters():
            parameter.requires_grad_(body_trained and any(part in name for part in (*NORMS, *POSITIONS)))

    def features(self, tokens: Tensor) -> Tensor:
        """tokens (N, T, P) -> the body's hidden states at the read-out (N, n, D)."""
        return self.body(inputs_embeds=self.input(tokens)).last_hidden_state[:, -self.read :]

    def forward(self, tokens: Tensor) -> Tensor:
        """tokens (N, T, P) -> logits (N, n, C)."""
        return self.output(self.features(tokens))

    @torch.no_grad()
    def start_from(self, program: Mapping[str, Tensor]) -> "PlainFPT":
        """Copy input and output layer from `FPT.programs()`; the rest starts from the body on both sides."""
        for part, layer in {"input": self.input, "output": self.output}.items():
            layer.weight.copy_(program[f"{part}.layers.0.weight"].t())
            layer.bias.copy_(program[f"{part}.layers.0.bias"])
        return self

    def clone(self) -> "PlainFPT":
        """A copy of the model that shares the frozen tensors, to save memory."""
        return copy.deepcopy(self, {id(p): p for p in self.parameters() if not p.requires_grad})


class PlainLoop:
    """A model of tokens to logits (B, n, C) in training: forward, backward, clip to norm 1, Adam.

    `factors` are learning rates of "position" and "output" relative to `lr`, as Adam's parameter groups.
    """

    def __init__(self, model: nn.Module, lr: float, factors: Mapping[str, float] | None = None) -> None:
        self.model = model
        groups: dict[str, list[nn.Parameter]] = {}
        for name, parameter in model.named_parameters():
            if parameter.requires_grad:
                role = "position" if any(part in name for part in POSITIONS) else name.partition(".")[0]
                groups.setdefault(role, []).append(parameter)
        self.trained = [parameter for group in groups.values() for parameter in group]
        rates = factors or {}
        self.optimizer = torch.optim.Adam(
            [{"params": group, "lr": lr * rates.get(role, 1.0)} for role, group in groups.items()], lr=lr
        )

    def train_step(self, tokens: Tensor, targets: Tensor) -> Tensor:
        """One update on tokens (B, T, P) and targets (B,) or (B, n). Returns the mean loss before it."""
        loss = F.cross_entropy(self.model(tokens).flatten(0, 1), targets.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        return loss.detach()
