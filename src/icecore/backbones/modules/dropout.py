"""The dropout that icecore puts in the place of every dropout of a body."""

from torch import Tensor, nn

from icecore.backbones.modules.body_pass import running_pass
from icecore.backbones.modules.dropout_draws import hashed_uniform

#: more than the dropouts of any body; the second use of one module counts as a place of its own
PLACES = 8191


class RunDropout(nn.Module):
    """Dropout as the running pass prescribes it; inactive where the pass has none.

    Parameters:
        salt: tells the dropouts of one body apart
    """

    def __init__(self, salt: int) -> None:
        super().__init__()
        self.salt = salt

    def forward(self, x: Tensor) -> Tensor:
        """x (N, ...) -> (N, ...), scaled by 1 / (1 - p) where it is kept."""
        running = running_pass()
        draws = running.value.dropout
        if draws is None or draws.rate == 0.0:
            return x
        p = draws.rate
        salt = self.salt + PLACES * running.dropout_uses[self.salt]
        running.dropout_uses[self.salt] += 1
        uniform = hashed_uniform(draws.row_keys, salt, draws.counters(tuple(x.shape[1:]), x.device))
        return x * (uniform.view(x.shape) >= p).to(x.dtype).mul_(1.0 / (1.0 - p))
