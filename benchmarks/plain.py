"""The plain loop: a frozen pretrained transformer, fine-tuned as a user would write it without icecore.

It uses the model library's own forward pass in fp32 with its choice of attention, Adam on the trained parameters at one
constant rate, and clipping. It does no avoidable work: frozen weights have no gradients, and keys are not cached.
"""

import copy
from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from icecore.tasks.task import TaskSpec

#: parts of the names of GPT-2's and BERT's norms and of their position tables
NORMS = ("ln_", "LayerNorm")
POSITIONS = ("wpe", "position_embeddings")


class PlainFPT(nn.Module):
    """Input layer, frozen body with trained norms and positions, output layer at the task's read-out.

    The input layer starts as in the paper, orthogonal with gain 1.41 and without bias.

    Parameters:
        body: a GPT2Model or BertModel, without dropout, with a position for each token
        spec: the task's sizes
        body_trained: norms and positions are trained; False: only the output layer is
    """

    def __init__(self, body: Any, spec: TaskSpec, body_trained: bool = True) -> None:
        super().__init__()
        width = body.config.hidden_size
        self.input = nn.Embedding(spec.size, width) if spec.kind == "discrete" else nn.Linear(spec.size, width)
        nn.init.orthogonal_(self.input.weight, gain=1.41)
        if isinstance(self.input, nn.Linear):
            nn.init.zeros_(self.input.bias)
        self.input.requires_grad_(body_trained)
        self.body = body.eval()
        self.output = nn.Linear(width, spec.outputs)
        self.spec = spec
        for name, parameter in body.named_parameters():
            parameter.requires_grad_(body_trained and any(part in name for part in (*NORMS, *POSITIONS)))

    def features(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """The body's hidden states at the read-out (N, n, D), of tokens (N, T, P) or (N, T).

        lengths  (N,) real positions of each row, on any device; None if no row is padded
        """
        x, n = self.input(tokens), self.spec.read_positions
        if lengths is None:
            hidden = self.body(inputs_embeds=x).last_hidden_state
            return hidden[:, -n:] if self.spec.read_out == "last" else hidden.mean(1, keepdim=True)
        lengths = lengths.to(x.device)[:, None]
        mask = torch.arange(x.shape[1], device=x.device) < lengths  # (N, T)
        hidden = self.body(inputs_embeds=x, attention_mask=mask.long()).last_hidden_state
        if self.spec.read_out == "mean":
            return (hidden * mask[..., None]).sum(1, keepdim=True) / lengths[..., None]
        positions = lengths - n + torch.arange(n, device=x.device)  # (N, n)
        return hidden.gather(1, positions[..., None].expand(-1, -1, hidden.shape[-1]))

    def forward(self, tokens: Tensor, lengths: Tensor | None = None) -> Tensor:
        """Logits (N, n, C) of tokens (N, T, P) or (N, T); arguments as for `features`."""
        return self.output(self.features(tokens, lengths))

    @torch.no_grad()
    def start_from(self, program: Mapping[str, Tensor]) -> "PlainFPT":
        """Copy input and output layer from `FPT.programs()`; the rest starts from the body on both sides."""
        for part, layer in {"input": self.input, "output": self.output}.items():
            weight = program[f"{part}.layers.0.weight"]
            layer.weight.copy_(weight if isinstance(layer, nn.Embedding) else weight.t())
            if isinstance(layer, nn.Linear):
                layer.bias.copy_(program[f"{part}.layers.0.bias"])
        return self

    def clone(self) -> "PlainFPT":
        """A copy of the model that shares the frozen tensors, to save memory."""
        return copy.deepcopy(self, {id(p): p for p in self.parameters() if not p.requires_grad})


class PlainLoop:
    """A model of tokens to logits (B, n, C) in training: forward, backward, clip to norm 1, Adam at the rate `lr`."""

    def __init__(self, model: nn.Module, lr: float) -> None:
        self.model = model
        self.trained = [parameter for parameter in model.parameters() if parameter.requires_grad]
        self.optimizer = torch.optim.Adam(self.trained, lr=lr)

    def train_step(self, tokens: Tensor, targets: Tensor, lengths: Tensor | None = None) -> Tensor:
        """One update on tokens (B, T, P) or (B, T) and targets (B, ...). Returns the mean loss before it.

        lengths  (B,) real positions of each row; None if no row is padded
        """
        logits = self.model(tokens) if lengths is None else self.model(tokens, lengths)
        loss = F.cross_entropy(classes(logits, targets).flatten(0, -2), targets.flatten())
        self.optimizer.zero_grad()
        loss.backward()
        nn.utils.clip_grad_norm_(self.trained, 1.0)
        self.optimizer.step()
        return loss.detach()


def classes(logits: Tensor, targets: Tensor) -> Tensor:
    """Logits (N, n, C) as the scores of the classes of each target: (*targets.shape, classes)."""
    return logits.reshape(*targets.shape, -1)
