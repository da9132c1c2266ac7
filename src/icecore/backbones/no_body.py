"""No body: what input and output layer do alone, as a control beside every body."""

from collections.abc import Iterable, Sequence

from torch import Tensor, nn
from torch.nn import functional as F

from icecore.backbones.backbone import Backbone, BackboneInfo, BodyRequest, ReadOut, Role
from icecore.backbones.lstm import requested_width
from icecore.backbones.modules.body_pass import PLAIN_PASS, BodyPass
from icecore.core.errors import ConfigError


class NoBody(Backbone):
    """The identity. No position knows of another, so the output layer reads all positions at once."""

    takes_positions = False
    mixes_positions = False

    def run(self, x: Tensor, mask: Tensor | None) -> Tensor:
        return x

    def read_out(
        self,
        x: Tensor,
        mask: Tensor | None,
        lengths: Tensor | None,
        read_outs: Sequence[ReadOut],
        body_pass: BodyPass = PLAIN_PASS,
    ) -> list[Tensor]:
        """Features (rows, 1, length D): the inputs of all positions side by side, zero beyond a row's end."""
        real = x if mask is None else x * mask[..., None]
        parts = [F.pad(real[each.rows], (0, 0, 0, each.length - x.shape[1])) for each in read_outs]
        return [part.reshape(len(part), 1, -1) for part in parts]

    def output_sizes(self, length: int, read_positions: int, outputs: int, hidden_states: int = 1) -> tuple[int, int]:
        return length * self.info.width, read_positions * outputs

    def role_of(self, name: str, module: nn.Module, path: Iterable[nn.Module]) -> Role | None:
        """Never asked, since there are no parameters."""
        return None


def build_none(request: BodyRequest) -> Backbone:
    """No body: a linear probe of width 64 unless the option "width" says otherwise.

    It has no weights, so every kind of weights is accepted and none is used.

    Raises:
        ConfigError: for an unknown option, a width below 1, or any layers
    """
    if request.layers:
        raise ConfigError(f"{request.name} has no layers, but {request.layers} were requested. Leave --layers out.")
    width = requested_width(request, 64)
    return NoBody(BackboneInfo(request.name, "none", width, 0, None, None, True, "random", "no weights"))
