"""Pictures of attention maps: for each layer the mean over heads and the most informative head."""

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from icecore.core.errors import ConfigError
from icecore.core.pictures import picture_format, require_drawing
from icecore.core.storage import write_atomic
from icecore.core.text import percent
from icecore.inference.attention_maps import AttentionMaps, attention_maps, normalize_rows, pool
from icecore.model.fpt import FPT
from icecore.paper.attention_analysis import XorAttention, xor_attention
from icecore.tasks.bits import BitXor
from icecore.tasks.task import Task

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure

MAX_LAYERS, LAYERS_PER_BAND = 12, 6
#: largest side of a panel in dots
MAX_DOTS = 128
#: longest strings of bit XOR whose needed cells are outlined one by one
MAX_OUTLINED = 12
GUIDE_COLOUR = "#4cc9f0"


def measure_and_draw(model: FPT, task: Task, folder: Path, run_id: str) -> dict[str, Any]:
    """Measure a model of bit XOR and draw its maps; an `Analysis` of a study.

    Returns the numbers, and the path of the picture in the results `folder`. Raises ConfigError for other tasks.
    """
    if not isinstance(task, BitXor):
        raise ConfigError(f"{task.name}: Attention on the needed bits can only be measured on bit-xor.")
    maps, body = attention_maps(model, task), model.backbone.info
    picture = Path("attention") / f"{run_id}.png"
    draw_attention(maps, folder / picture, f"{task.name} on {body.name} ({body.weights})", task)
    return {"attention": xor_attention(maps, task).summary(), "picture": str(picture)}


def draw_attention(maps: AttentionMaps, path: Path, title: str, task: Task | None = None) -> None:
    """Draw each layer: the mean over heads above, its most informative head below. PNG, SVG or PDF, by `path`.

    For bit XOR this is the head with the most attention on the needed bits, which are marked. For other tasks it is
    the most focused head, the one of least entropy. Of deep bodies the 12 most informative layers are shown, and of
    long tasks squares of positions. Raises UserError without the extra `plot`.
    """
    require_drawing()
    from matplotlib.figure import Figure

    L = len(maps.maps)
    xor = xor_attention(maps, task) if isinstance(task, BitXor) else None
    score = _negative_entropy(maps.maps) if xor is None else xor.mass
    layers = sorted(score.amax(1).topk(min(L, MAX_LAYERS)).indices.tolist())
    heads = {layer: int(score[layer].argmax()) for layer in layers}
    columns = min(len(layers), LAYERS_PER_BAND)
    bands = -(-len(layers) // columns)
    figure = Figure(figsize=(max(6.5, 1.95 * columns + 1.1), 1.0 + 4.5 * bands), layout="constrained")
    axes = figure.subplots(2 * bands, columns, squeeze=False)
    means = {layer: maps.maps[layer].mean(0) for layer in layers}
    single = {layer: maps.maps[layer, head] for layer, head in heads.items()}
    for row, (panels, label) in enumerate(((means, "mean of heads"), (single, "most informative head"))):
        captions = {layer: _caption(layer, heads[layer] if row else None, xor) for layer in layers}
        _draw_panels(figure, axes[row::2].tolist(), panels, captions, maps, xor)
        for band in axes[row::2]:
            band[0].set_ylabel(f"{label}\nquery position", fontsize=8)
    figure.supxlabel("key position", fontsize=8)
    figure.suptitle("\n".join([title, *_explanations(maps, len(layers), xor)]), fontsize=10)
    file_format = picture_format(path)
    write_atomic(path, lambda temporary: figure.savefig(temporary, format=file_format, dpi=150))


def _negative_entropy(maps: Tensor) -> Tensor:
    """Negative entropy (L, H) of the mean query, in nats."""
    return torch.stack([torch.xlogy(layer, layer).sum(-1).mean(-1) for layer in maps])


def _caption(layer: int, head: int | None, xor: XorAttention | None) -> str:
    """The text above a panel: of the mean over heads if `head` is None, else of this head."""
    name = f"layer {layer + 1}" + ("" if head is None else f", head {head + 1}")
    if xor is None:
        return name
    first, own = (float(part[layer].mean() if head is None else part[layer, head]) for part in (xor.first, xor.own))
    return f"{name}\n{_percent(first)} first + {_percent(own)} own"


def _explanations(maps: AttentionMaps, shown_layers: int, xor: XorAttention | None) -> list[str]:
    """What the reader of a picture must know, in lines."""
    lines = []
    if xor is not None:
        mark = "outlined" if xor.n <= MAX_OUTLINED else "below the lines"
        lines.append(
            f"{mark}: the bit of the first string that an output needs, and the bit at its own position; "
            f"uniform attention gives each {_percent(xor.uniform / 2)}"
        )
    if shown_layers < len(maps.maps):
        lines.append(f"the {shown_layers} most informative of {len(maps.maps)} layers")
    side = _positions_per_dot(maps)
    if side > 1:
        lines.append(f"a dot is {side} x {side} positions: the attention of their mean query to all of their keys")
    return lines


def _percent(share: float) -> str:
    return percent(share, digits=0 if share >= 0.0995 else 1)


def _positions_per_dot(maps: AttentionMaps) -> int:
    """Positions along a side of a dot."""
    return maps.stride * -(-maps.maps.shape[-1] // MAX_DOTS)


def _draw_panels(
    figure: "Figure",
    bands: Sequence[Sequence["Axes"]],
    panels: Mapping[int, Tensor],
    captions: Mapping[int, str],
    maps: AttentionMaps,
    xor: XorAttention | None,
) -> None:
    """Draw one panel for each layer over several bands of axes, on one scale so that layers can be compared."""
    from matplotlib import colormaps
    from matplotlib.cm import ScalarMappable
    from matplotlib.colors import PowerNorm

    stride = _positions_per_dot(maps) // maps.stride
    pooled = {layer: normalize_rows(pool(panel[None], stride)[0].clone()) for layer, panel in panels.items()}
    # The scale ends between the two largest weights of a query, because many heads put a large weight on the first
    # position, which would darken the rest. Square roots make thin diagonals visible; few colours keep an SVG small.
    top = max(float(panel[panel.sum(-1) > 0].topk(2).values.prod(-1).sqrt().mean()) for panel in pooled.values())
    scale = ScalarMappable(PowerNorm(0.5, 0.0, max(top, 1e-6)), colormaps["magma"].resampled(32))
    extent = maps.maps.shape[-1] * maps.stride
    axes = [ax for band in bands for ax in band]
    for ax, (layer, panel) in zip(axes, pooled.items(), strict=False):
        end = len(panel) * _positions_per_dot(maps) - 0.5
        colours = scale.to_rgba(panel.numpy(), bytes=True)
        ax.imshow(colours, interpolation="none", extent=(-0.5, end, end, -0.5))
        ax.set_title(captions[layer], fontsize=8)
        ax.tick_params(labelsize=7, length=2)
        ax.set_xticks([0, extent - 1] if xor is None else [0, xor.n, 2 * xor.n - 1])
        ax.set_yticks(ax.get_xticks())
        if xor is not None:
            _mark_needed_bits(ax, xor.n)
    for ax in axes[len(pooled) :]:
        ax.set_axis_off()
    for band in bands:
        bar = figure.colorbar(scale, ax=list(band), shrink=0.8, pad=0.01, extend="max")
        bar.set_label("attention weight", fontsize=8)
        bar.ax.tick_params(labelsize=7)


def _mark_needed_bits(ax: "Axes", n: int) -> None:
    """Outline the needed cells of short strings; for long ones draw lines beside the two diagonals, not over them."""
    from matplotlib.collections import LineCollection, PatchCollection
    from matplotlib.patches import Rectangle

    if n <= MAX_OUTLINED:
        cells = [Rectangle((key - 0.5, n + i - 0.5), 1, 1) for i in range(n) for key in (i, n + i)]
        patches = PatchCollection(cells, facecolor="none", edgecolor=GUIDE_COLOUR, linewidth=0.8)
        ax.add_collection(patches, autolim=False)
        return
    gap = n / 12
    lines = [[(key + gap, n), (key + n, 2 * n - gap)] for key in (0, n)]
    ax.add_collection(LineCollection(lines, colors=GUIDE_COLOUR, linewidths=0.6), autolim=False)
