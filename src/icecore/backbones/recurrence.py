"""The layer-normalised LSTM recurrence, with its gradient written by hand.

With fixed input projections and norms little is computed at each position, and recording it all with autograd would
cost several times the time and memory of the recurrence itself.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable
from torch.nn import functional as F

EPS = 1e-5


def _layer_norm_backward(grad: Tensor, x: Tensor, mean: Tensor, rstd: Tensor) -> Tensor:
    """Gradient of the gain-free layer norm with respect to its input; all (N, D), statistics (N, 1)."""
    shape, mask = x.shape[-1:], [True, False, False]
    return torch.ops.aten.native_layer_norm_backward(grad, x.to(grad.dtype), shape, mean, rstd, None, None, mask)[0]


class Recurrence(torch.autograd.Function):
    """A layer-normalised LSTM cell run over all T positions from zero states; (N, T, 4D) -> (N, T, D).

    With gates in the order i, f, o, g and drive_t the whole input side of the preactivation:

        i, f, o, g = act(drive_t + gain * norm(W h + b))
        c = cell_gain * norm(f * c + i * g) + cell_bias
        h = o * tanh(c)

    Autograd would record some fifteen nodes per position. This keeps the inputs of the two norms and the gates, and
    computes everything outside of the backward loop that can be computed for all positions at once.
    Gains are per row, (N, .) or (1, .). The matrix product runs in W's dtype, states and norms in
    the gains' dtype.
    """

    @staticmethod
    def forward(  # pyright: ignore[reportIncompatibleMethodOverride]
        ctx: Any, drive: Tensor, weight: Tensor, bias: Tensor, gain: Tensor, cell_gain: Tensor, cell_bias: Tensor
    ) -> Tensor:
        N, T, _ = drive.shape
        D = weight.shape[1]
        # positions first: each step then works on contiguous rows
        raw = weight.new_empty(T, N, 4 * D)
        gates = gain.new_empty(T, N, 4, D)
        cells = gain.new_empty(T, N, D)
        hidden = weight.new_empty(N, T, D)
        h, c = weight.new_zeros(N, D), gain.new_zeros(N, D)
        recurrent = weight.t().contiguous()  # twice as fast as the view in products of few rows
        steps = zip(drive.unbind(1), raw, gates, cells, hidden.unbind(1), strict=True)
        for drive_t, raw_t, gates_t, cell, h_t in steps:
            torch.addmm(bias, h, recurrent, out=raw_t)
            unit = F.layer_norm(raw_t.to(gain.dtype), (4 * D,), eps=EPS)
            torch.addcmul(drive_t, unit, gain, out=gates_t.view(N, 4 * D))
            gates_t[:, :3].sigmoid_()
            gates_t[:, 3].tanh_()
            i, f, o, g = gates_t.unbind(1)
            torch.mul(i, g, out=cell).addcmul_(f, c)
            c = torch.addcmul(cell_bias, F.layer_norm(cell, (D,), eps=EPS), cell_gain)
            h = h_t.copy_(o * c.tanh())
        learned = any(ctx.needs_input_grad[1:3])
        ctx.save_for_backward(raw, gates, cells, hidden if learned else None, weight, gain, cell_gain, cell_bias)
        return hidden

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_hidden: Tensor) -> tuple[Tensor | None, ...]:  # pyright: ignore[reportIncompatibleMethodOverride]
        raw, gates, cells, hidden, weight, gain, cell_gain, cell_bias = ctx.saved_tensors
        T, N, _, D = gates.shape
        unit, mean, rstd = torch.native_layer_norm(raw.to(gain.dtype), (4 * D,), None, None, EPS)
        cell_unit, cell_mean, cell_rstd = torch.native_layer_norm(cells, (D,), None, None, EPS)
        grad, output_slope = _gate_slopes(gates, torch.addcmul(cell_bias, cell_unit, cell_gain))
        grad_cell = torch.empty_like(cells)
        needs = ctx.needs_input_grad
        grad_raw = torch.empty_like(raw) if any(needs[1:3]) else None
        dh, dc = gain.new_zeros(N, D), gain.new_zeros(N, D)
        for t in reversed(range(T)):
            dh = dh + grad_hidden[:, t]
            torch.addcmul(dc, dh, output_slope[t], out=grad_cell[t])
            du = _layer_norm_backward(grad_cell[t] * cell_gain, cells[t], cell_mean[t], cell_rstd[t])
            # the slopes of this position become the gradient of its preactivation
            grad[t].mul_(torch.stack((du, du, dh, du), 1))
            draw = _layer_norm_backward(grad[t].view(N, 4 * D) * gain, raw[t], mean[t], rstd[t]).to(weight.dtype)
            if grad_raw is not None:
                grad_raw[t] = draw
            dh, dc = draw @ weight, du * gates[t, :, 1]
        grad = grad.view(T, N, 4 * D)
        recurrent_grads: tuple[Tensor | None, Tensor | None] = (None, None)
        if grad_raw is not None:
            recurrent_grads = torch.einsum("tnk,ntd->kd", grad_raw[1:], hidden[:, :-1]), grad_raw.sum((0, 1))
        return (
            grad.transpose(0, 1) if needs[0] else None,
            *recurrent_grads,
            unit.mul_(grad).sum(0).sum_to_size(gain.shape) if needs[3] else None,
            cell_unit.mul_(grad_cell).sum(0).sum_to_size(cell_gain.shape) if needs[4] else None,
            grad_cell.sum(0).sum_to_size(cell_bias.shape) if needs[5] else None,
        )


def _gate_slopes(gates: Tensor, c: Tensor) -> tuple[Tensor, Tensor]:
    """Local derivatives at every position, from gates (T, N, 4, D) and cells c (T, N, D).

    Returns (T, N, 4, D), the derivative by each gate's preactivation: of the raw cell for i, f and g,
    of h for o; and (T, N, D), the derivative of h by c.
    """
    i, f, o, g = gates.unbind(2)
    tanh_c = c.tanh()
    previous = torch.cat((torch.zeros_like(c[:1]), c[:-1]))
    slopes = torch.empty_like(gates)
    parts = ((i, g), (f, previous), (o, tanh_c))
    for slot, (gate, factor) in enumerate(parts):
        torch.mul(gate - gate * gate, factor, out=slopes[:, :, slot])
    torch.mul(1 - g * g, i, out=slopes[:, :, 3])
    return slopes, o * (1 - tanh_c * tanh_c)
