"""Attention maps of a trained program: averaged over examples, per layer and head, measured and drawn.

For bit XOR each output needs two bits; the share of attention on them, against uniform, is the
paper's Section 3.5 as a number.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor
from torch.nn import functional as F

from icecore.core.errors import ConfigError, UserError
from icecore.core.storage import write_atomic
from icecore.model.fpt import FPT
from icecore.tasks.bits import BitXor
from icecore.tasks.task import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

#: cells a side of the maps of longer tasks: what a screen shows, and ListOps' maps in 75 MB instead of 1.2 GB
CELLS = 512
#: scores of one head in one pass; with 12 heads in fp32, 50 MB a layer
PASS_SCORES = 2**20
#: in a picture: layers, layers side by side, cells a side of a panel, and strings whose needed cells are outlined
LAYERS, COLUMNS, PANEL, OUTLINED = 12, 6, 128, 12
GUIDE = "#4cc9f0"
PICTURES = ("png", "svg", "pdf")


@dataclass(frozen=True)
class AttentionMaps:
    """Mean attention of one program over examples.

    maps      (L, H, C, C): weight that a query (row) gives to a key (column), or, where positions are
              pooled, that the mean query of a cell gives to all keys of a cell; rows sum to 1, or are 0
              where no example is that long
    examples  how many it is the mean of
    causal    a query sees no later key
    stride    positions a cell: 1, or more where T is beyond the cells asked for
    """

    maps: Tensor
    examples: int
    causal: bool = False
    stride: int = 1

    def relevant_mass(self, task: BitXor) -> Tensor:
        """Share of attention (L, H) that the outputs give to the two bits they need."""
        return xor_attention(self, task).mass


@dataclass(frozen=True)
class XorAttention:
    """Attention of bit XOR's outputs on the two bits they need, mean over the n outputs.

    first    (L, H) share on the bit of the first string, which an output can only know by attention
    own      (L, H) share on the bit of the second string, at the position where the output is read
    uniform  share on both if all positions that a query sees had equal weight
    """

    n: int
    first: Tensor
    own: Tensor
    uniform: float

    @property
    def mass(self) -> Tensor:
        """Share (L, H) on both bits."""
        return self.first + self.own

    def summary(self) -> dict[str, Any]:
        """The numbers for a record; `best` is of one head, layers and heads count from 1, ratios are to uniform.

        Most bodies look at their own position untrained, so `first_bit_ratio` is what training has to bring.
        """
        L, H = self.mass.shape
        layer, head = divmod(int(self.mass.argmax()), H)
        best = float(self.mass.max())
        return {
            "n": self.n,
            "layers": L,
            "heads": H,
            "mean": float(self.mass.mean()),
            "best": best,
            "best_layer": layer + 1,
            "best_head": head + 1,
            "first_bit_best": float(self.first.max()),
            "own_bit_best": float(self.own.max()),
            "uniform": self.uniform,
            "ratio": best / self.uniform,
            "first_bit_ratio": float(self.first.max()) / (self.uniform / 2),
        }


def xor_attention(found: AttentionMaps, task: BitXor) -> XorAttention:
    """Measure the maps of bit XOR. Raises ConfigError for pooled maps and those of another length."""
    T, held = task.spec.length, found.maps.shape[-1]
    if found.stride > 1 or held != T:
        raise ConfigError(f"bit-xor: n = {task.n} needs maps of {T} x {T} positions, found {held} x {held} cells")
    first, own = torch.tensor([task.relevant(i) for i in range(task.n)]).T
    # outputs are read at their own bit; a causal query sees the positions up to itself
    visible = own + 1 if found.causal else torch.full_like(own, T)
    on_first, on_own = (found.maps[:, :, own, key].mean(-1) for key in (first, own))
    return XorAttention(task.n, on_first, on_own, float((2 / visible.double()).mean()))


@torch.inference_mode()
def attention_maps(
    model: FPT, task: Task, split: str = "val", examples: int = 64, cells: int | None = None
) -> AttentionMaps:
    """Maps of a model with one run, averaged over the first `examples` of a split, without their padding.

    cells  at most this many a side; longer tasks are pooled. None: 512, and all positions for bit XOR

    Memory: twice the maps (4 L H C**2 bytes: 75 MB for MiniLM at C = 512) and one layer's weights, at least
    4 H T**2 bytes. Raises ConfigError for several runs, no examples, and bodies whose attention cannot be
    recorded (no attention, or the family's own kernel).
    """
    if model.runs != 1:
        raise ConfigError(f"attention maps are of one run; this model has {model.runs}")
    if examples < 1:
        raise ConfigError(f"examples: expected at least 1, found {examples}")
    T, body = task.spec.length, model.backbone
    limit = cells or (T if isinstance(task, BitXor) else CELLS)
    stride = -(-T // limit)
    sums, seen = _Sums(-(-T // stride), stride), 0
    body.axis.record = sums
    try:
        for batch in map(task.prepare_batch, task.batches(split, max(1, PASS_SCORES // T**2), examples)):
            lengths = [batch.tokens.shape[1]] * len(batch) if batch.lengths is None else batch.lengths.tolist()
            sums.begin(lengths)
            model(batch)
            seen += len(batch)
    finally:
        body.axis.record = None
    if not sums:
        raise ConfigError(f"{body.info.name}: this body has no attention maps to record")
    return AttentionMaps(_mean_query(torch.stack(sums).cpu()), seen, body.info.causal, stride)


class _Sums(list[Tensor]):
    """Sums of the weights over examples, one (H, C, C) a layer.

    Taking the place of the list of a body's records, it adds each layer's weights up as they come, so
    that no more than one layer's are ever held.
    """

    def __init__(self, cells: int, stride: int) -> None:
        super().__init__()
        self.cells, self.stride = cells, stride

    def begin(self, lengths: Sequence[int]) -> None:
        """A pass over rows of these lengths follows."""
        self.lengths, self.layer = lengths, 0

    def append(self, weights: Tensor) -> None:
        """Add the weights (N, H, T, T) of the next layer, without those of padding."""
        if self.layer == len(self):
            super().append(weights.new_zeros(weights.shape[1], self.cells, self.cells))
        for row, length in zip(weights, self.lengths, strict=True):
            cells = _pool(row[:, :length, :length], self.stride)
            self[self.layer][:, : cells.shape[-1], : cells.shape[-1]] += cells
        self.layer += 1


def _pool(maps: Tensor, stride: int) -> Tensor:
    """Sums (H, C, C) over squares of `stride` x `stride` positions of (H, T, T); those at the end may be cut."""
    return F.avg_pool2d(maps, stride, ceil_mode=True, divisor_override=1) if stride > 1 else maps


def _mean_query(sums: Tensor) -> Tensor:
    """Divides sums (..., C, C) over queries, in place; as the weights of each sum to one, rows hold their number."""
    return sums.div_(sums.sum(-1, keepdim=True).clamp_(min=1e-9))


def draw(found: AttentionMaps, path: Path, title: str, task: Task | None = None) -> None:
    """A picture of each layer: the mean over heads above, the most telling head below. PNG or SVG, by `path`.

    For bit XOR the telling head is the one with the most attention on the needed bits, which are marked;
    elsewhere the most focused one (least entropy). Of deep bodies the 12 most telling layers are shown, of
    long tasks squares of positions. Raises UserError without the extra `plot`.
    """
    try:
        from matplotlib.figure import Figure
    except ImportError as error:
        raise UserError("drawing needs matplotlib: pip install 'icecore[plot]'") from error
    L = len(found.maps)
    xor = xor_attention(found, task) if isinstance(task, BitXor) else None
    score = _focus(found.maps) if xor is None else xor.mass
    layers = sorted(score.amax(1).topk(min(L, LAYERS)).indices.tolist())
    heads = {layer: int(score[layer].argmax()) for layer in layers}
    columns = min(len(layers), COLUMNS)
    bands = -(-len(layers) // columns)
    figure = Figure(figsize=(max(6.5, 1.95 * columns + 1.1), 1.0 + 4.5 * bands), layout="constrained")
    axes = figure.subplots(2 * bands, columns, squeeze=False)
    means = {layer: found.maps[layer].mean(0) for layer in layers}
    single = {layer: found.maps[layer, head] for layer, head in heads.items()}
    for row, (panels, label) in enumerate(((means, "mean of heads"), (single, "most telling head"))):
        names = {layer: _caption(layer, heads[layer] if row else None, xor) for layer in layers}
        _draw_row(figure, axes[row::2].tolist(), panels, names, found, xor)
        for band in axes[row::2]:
            band[0].set_ylabel(f"{label}\nquery position", fontsize=8)
    figure.supxlabel("key position", fontsize=8)
    figure.suptitle("\n".join([title, *_remarks(found, len(layers), xor)]), fontsize=10)
    kind = picture_kind(path)
    write_atomic(path, lambda temporary: figure.savefig(temporary, format=kind, dpi=150))


def picture_kind(path: Path) -> str:
    """The format of a picture by its name, PNG where that has no ending. Raises ConfigError for none of PICTURES."""
    kind = path.suffix.lstrip(".").lower() or "png"
    if kind not in PICTURES:
        raise ConfigError(f"{path}: a picture's name ends in {', '.join(f'.{each}' for each in PICTURES)}")
    return kind


def _focus(maps: Tensor) -> Tensor:
    """Negative entropy (L, H) of the mean query, in nats."""
    return torch.stack([torch.xlogy(layer, layer).sum(-1).mean(-1) for layer in maps])


def _caption(layer: int, head: int | None, xor: XorAttention | None) -> str:
    """What is written above a panel: the mean over heads, or one head."""
    name = f"layer {layer + 1}" + ("" if head is None else f", head {head + 1}")
    if xor is None:
        return name
    first, own = (float(part[layer].mean() if head is None else part[layer, head]) for part in (xor.first, xor.own))
    return f"{name}\n{_percent(first)} first + {_percent(own)} own"


def _remarks(found: AttentionMaps, shown: int, xor: XorAttention | None) -> list[str]:
    """What the reader of a picture must know, a line each."""
    lines = []
    if xor is not None:
        where = "outlined" if xor.n <= OUTLINED else "below the lines"
        lines.append(
            f"{where}: the bit of the first string that an output needs, and the one at its own position; "
            f"uniform attention gives each {_percent(xor.uniform / 2)}"
        )
    if shown < len(found.maps):
        lines.append(f"the {shown} most telling of {len(found.maps)} layers")
    side = _stride(found)
    if side > 1:
        lines.append(f"a dot is {side} x {side} positions: what the mean query there gives to all its keys")
    return lines


def _percent(share: float) -> str:
    return f"{share:.0%}" if share >= 0.0995 else f"{share:.1%}"


def _stride(found: AttentionMaps) -> int:
    """Positions a side of what a panel shows as one dot."""
    return found.stride * -(-found.maps.shape[-1] // PANEL)


def _draw_row(
    figure: "Figure",
    bands: Sequence[Sequence["Axes"]],
    panels: Mapping[int, Tensor],
    names: Mapping[int, str],
    found: AttentionMaps,
    xor: XorAttention | None,
) -> None:
    """One panel a layer, on one scale, so that layers can be compared; bands are the rows it wraps over."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import PowerNorm

    pool = _stride(found) // found.stride
    shown = {layer: _mean_query(_pool(panel[None], pool)[0].clone()) for layer, panel in panels.items()}
    # up to between a query's two largest weights: many heads park theirs on the first position, which would
    # darken the rest. Roots make thin diagonals visible; few colours keep an SVG small
    top = max(float(panel[panel.sum(-1) > 0].topk(2).values.prod(-1).sqrt().mean()) for panel in shown.values())
    scale = ScalarMappable(PowerNorm(0.5, 0.0, max(top, 1e-6)), colormaps["magma"].resampled(32))
    extent = found.maps.shape[-1] * found.stride
    places = [ax for band in bands for ax in band]
    for ax, (layer, panel) in zip(places, shown.items(), strict=False):
        end = len(panel) * _stride(found) - 0.5
        colours = scale.to_rgba(panel.numpy(), bytes=True)
        ax.imshow(colours, interpolation="none", extent=(-0.5, end, end, -0.5))
        ax.set_title(names[layer], fontsize=8)
        ax.tick_params(labelsize=7, length=2)
        ax.set_xticks([0, extent - 1] if xor is None else [0, xor.n, 2 * xor.n - 1])
        ax.set_yticks(ax.get_xticks())
        if xor is not None:
            _mark(ax, xor.n)
    for ax in places[len(shown) :]:
        ax.set_axis_off()
    for band in bands:
        bar = figure.colorbar(scale, ax=list(band), shrink=0.8, pad=0.01, extend="max")
        bar.set_label("attention weight", fontsize=8)
        bar.ax.tick_params(labelsize=7)


def _mark(ax: "Axes", n: int) -> None:
    """Outline the needed cells of short strings; for long ones lines beside the two diagonals, not over them."""
    from matplotlib.collections import LineCollection, PatchCollection
    from matplotlib.patches import Rectangle

    if n <= OUTLINED:
        cells = [Rectangle((key - 0.5, n + i - 0.5), 1, 1) for i in range(n) for key in (i, n + i)]
        ax.add_collection(PatchCollection(cells, facecolor="none", edgecolor=GUIDE, linewidth=0.8), autolim=False)
        return
    gap = n / 12
    lines = [[(key + gap, n), (key + n, 2 * n - gap)] for key in (0, n)]
    ax.add_collection(LineCollection(lines, colors=GUIDE, linewidths=0.6), autolim=False)
