"""Attention maps of a trained program: averaged over examples, per layer and head, and drawn.

For bit XOR each output needs two bits; the share of attention on them, against uniform, is the
paper's Section 3.5 as a number.
"""

from dataclasses import dataclass
from pathlib import Path

import torch
from torch import Tensor

from icecore.errors import ConfigError, UserError
from icecore.model import FPT
from icecore.storage import write_atomic
from icecore.tasks.bits import BitXor
from icecore.tasks.task import Task


@dataclass(frozen=True)
class AttentionMaps:
    """maps (L, H, T, T): weight that query position (row) gives key position (column), mean over examples."""

    maps: Tensor
    examples: int

    def relevant_mass(self, task: BitXor) -> Tensor:
        """Share of attention (L, H) that the outputs give to the two bits they need; uniform is 2 / T."""
        pairs = [task.relevant(i) for i in range(task.n)]
        mass = [self.maps[:, :, second, [first, second]].sum(-1) for first, second in pairs]
        return torch.stack(mass).mean(0)


@torch.inference_mode()
def attention_maps(model: FPT, task: Task, split: str = "val", examples: int = 64) -> AttentionMaps:
    """Maps of a model with one run, averaged over the first `examples` of a split.

    Padding rows of short examples are left out of the average. Raises ConfigError for bodies whose
    attention cannot be recorded (no attention, or the family's own kernel).
    """
    axis = model.backbone.axis
    total, count = torch.zeros(()), torch.zeros(())
    T = task.spec.length
    try:
        for batch in task.batches(split, max(1, 2**22 // T**2), examples):
            axis.record = []
            model(batch)
            if not axis.record:
                raise ConfigError(f"{model.backbone.info.name}: this body has no attention maps to record")
            width = batch.tokens.shape[1]
            real = torch.ones(len(batch), width) if batch.lengths is None else _mask(batch.lengths.cpu(), width)
            layers = torch.stack([(w.cpu() * real[:, None, :, None]).sum(0) for w in axis.record])
            pad = T - width
            total = total + torch.nn.functional.pad(layers, (0, pad, 0, pad))
            count = count + torch.nn.functional.pad(real.sum(0), (0, pad))
    finally:
        axis.record = None
    return AttentionMaps(total / count.clamp(min=1)[:, None], examples)


def _mask(lengths: Tensor, width: int) -> Tensor:
    return (torch.arange(width) < lengths[:, None]).float()


def draw(found: AttentionMaps, path: Path, title: str, task: Task | None = None) -> None:
    """A picture of every layer: the mean over heads above, the most telling head below.

    For bit XOR the telling head is the one with the most attention on the needed bits, which are
    outlined; elsewhere it is the most focused one (least entropy). Needs the extra `plot`.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import Rectangle
    except ImportError as error:
        raise UserError("drawing needs matplotlib: pip install 'icecore[plot]'") from error
    L, _, T, _ = found.maps.shape
    xor = task if isinstance(task, BitXor) else None
    mass = None if xor is None else found.relevant_mass(xor)
    score = mass if mass is not None else (found.maps * found.maps.clamp(min=1e-9).log()).sum(-1).mean(-1)
    heads = [int(layer.argmax()) for layer in score]
    rows = (found.maps.mean(1), found.maps[torch.arange(L), heads])
    figure = Figure(figsize=(max(5.0, 1.8 * L + 1.2), 5.4), layout="constrained")
    axes = figure.subplots(2, L, squeeze=False)
    for row, panels in enumerate(rows):
        # one scale a row, so that layers can be compared
        scale = {"cmap": "magma", "vmin": 0.0, "vmax": float(panels.max()), "interpolation": "nearest"}
        images = [ax.imshow(panel.numpy(), **scale) for ax, panel in zip(axes[row], panels, strict=True)]
        for layer, ax in enumerate(axes[row]):
            name = f"layer {layer + 1}" if row == 0 else f"head {heads[layer] + 1}"
            if mass is not None:
                share = mass[layer].mean() if row == 0 else mass[layer, heads[layer]]
                name += f"\n{float(share):.0%} on needed"
            ax.set_title(name, fontsize=9)
            ax.tick_params(labelsize=7, length=2)
            ax.set_xticks([0, T - 1])
            ax.set_yticks([0, T - 1] if layer == 0 else [])
            if xor is not None:
                for query, key in ((xor.n + i, key) for i in range(xor.n) for key in xor.relevant(i)):
                    ax.add_patch(Rectangle((key - 0.5, query - 0.5), 1, 1, fill=False, edgecolor="#4cc9f0", lw=0.8))
        bar = figure.colorbar(images[0], ax=list(axes[row]), shrink=0.85, pad=0.01)
        bar.set_label("attention weight", fontsize=8)
        bar.ax.tick_params(labelsize=7)
    axes[0, 0].set_ylabel("mean of heads\nquery position", fontsize=8)
    axes[1, 0].set_ylabel("most telling head\nquery position", fontsize=8)
    figure.supxlabel("key position", fontsize=8)
    uniform = "" if xor is None else f" (outlined: the bits an output needs; uniform attention gives them {2 / T:.0%})"
    figure.suptitle(f"{title}{uniform}", fontsize=10)
    figure.get_layout_engine().set(h_pad=0.1)  # type: ignore[union-attr, call-arg]
    write_atomic(path, lambda temporary: figure.savefig(temporary, format=path.suffix.lstrip(".") or "png", dpi=150))
