"""Input and output layers with a run axis: linear layers, embeddings and MLPs, as functions and as modules.

The modules hold parameters for training; serving calls the functions on the tensors of the programs in a pass.
"""

from collections.abc import Sequence
from typing import NamedTuple

import torch
from torch import Tensor, nn
from torch.nn import functional as F


class LayerWeights(NamedTuple):
    """One layer of R programs: weight (R, in, out) and bias (R, out), or an embedding (R, V, D) without bias."""

    weight: Tensor
    bias: Tensor | None


def linear(x: Tensor, weight: Tensor, bias: Tensor, run_of_row: Tensor | None) -> Tensor:
    """x (N, k, in) -> (N, k, out). Rows are run-major (N = R * B) unless `run_of_row` (N,) names their programs."""
    N, k, _ = x.shape
    R, _, width = weight.shape
    if run_of_row is not None:
        return torch.baddbmm(bias[run_of_row][:, None], x, weight[run_of_row])
    if R == 1:
        return F.linear(x, weight[0].t(), bias[0])
    return torch.baddbmm(bias[:, None], x.reshape(R, N // R * k, -1), weight).view(N, k, width)


def embed(tokens: Tensor, weight: Tensor, run_of_row: Tensor | None) -> Tensor:
    """tokens (N, T) int64 -> (N, T, D)."""
    R, V, D = weight.shape
    N = tokens.shape[0]
    if run_of_row is None:
        run_of_row = torch.arange(R, device=tokens.device).repeat_interleave(N // R)
    return F.embedding(tokens + run_of_row[:, None] * V, weight.reshape(R * V, D))


def run_layers(x: Tensor, layers: Sequence[LayerWeights], run_of_row: Tensor | None) -> Tensor:
    """Layers in turn with GELU between them: x (N, k, in), or tokens (N, T) for an embedding, -> (N, k, out)."""
    for number, (weight, bias) in enumerate(layers):
        x = x if number == 0 else F.gelu(x)
        x = embed(x, weight, run_of_row) if bias is None else linear(x, weight, bias, run_of_row)
    return x


class RunLinear(nn.Module):
    """The parameters of a linear layer for each run: weight (R, in, out), bias (R, out)."""

    def __init__(self, weights: Sequence[Tensor], biases: Sequence[Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack(list(weights)))
        self.bias = nn.Parameter(torch.stack(list(biases)))


class RunEmbedding(nn.Module):
    """The parameters of a token embedding for each run: weight (R, V, D)."""

    bias = None

    def __init__(self, weights: Sequence[Tensor]) -> None:
        super().__init__()
        self.weight = nn.Parameter(torch.stack(list(weights)))


class RunMLP(nn.Module):
    """The parameters of layers that follow each other; a single layer is the paper's linear one."""

    def __init__(self, layers: Sequence[RunLinear | RunEmbedding]) -> None:
        super().__init__()
        self.layers = nn.ModuleList(layers)

    def weights(self) -> list[LayerWeights]:
        """The layers as `run_layers` takes them."""
        return [LayerWeights(layer.weight, layer.bias) for layer in self.layers]  # type: ignore[arg-type]


class RunNormGains(nn.Module):
    """A norm's gains (R, D) and biases (R, D) for each run, starting from the body's."""

    def __init__(self, weight: Tensor, bias: Tensor | None, runs: int) -> None:
        super().__init__()
        self.weight = nn.Parameter(weight.detach().expand(runs, -1).clone())
        self.bias = None if bias is None else nn.Parameter(bias.detach().expand(runs, -1).clone())
