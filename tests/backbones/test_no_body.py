"""No body: the identity, which the output layer reads at all positions side by side."""

import pytest
import torch

from icecore.backbones.backbone import BodyRequest, ReadOut
from icecore.backbones.no_body import build_none
from icecore.core.errors import ConfigError


def test_the_body_is_the_identity() -> None:
    body = build_none(BodyRequest("none"))
    x = torch.randn(2, 3, 64)
    assert torch.equal(body(x), x)
    assert torch.equal(body(x, positions=torch.tensor([[2], [0]])), torch.stack([x[:1, 2], x[1:, 0]]))
    assert (body.info.width, body.info.layers) == (64, 0)
    assert body.roles() == {}
    assert not body.takes_positions
    assert not body.mixes_positions
    assert build_none(BodyRequest("none", options={"width": "7"})).info.width == 7


def test_all_positions_are_read_side_by_side_with_zeros_beyond_the_end() -> None:
    body = build_none(BodyRequest("none", options={"width": "2"}))
    x, lengths = torch.randn(3, 4, 2), torch.tensor([4, 1, 3])
    mask = torch.arange(4) < lengths[:, None]
    read_outs = [ReadOut(slice(0, 1), ("last",), 1, 4), ReadOut(slice(1, 3), ("mean",), 1, 6)]
    first, second = body.read_out(x, mask, lengths, read_outs)
    assert torch.equal(first, x[:1].reshape(1, 1, 8))
    assert second.shape == (2, 1, 12)
    assert torch.equal(second[0, 0], torch.cat([x[1, 0], torch.zeros(10)]))
    assert torch.equal(second[1, 0], torch.cat([x[2, :3].flatten(), torch.zeros(6)]))
    assert body.output_sizes(6, 2, 5) == (12, 10)


def test_wrong_requests() -> None:
    with pytest.raises(ConfigError, match="Option width of none must be a positive whole number, but is '0'"):
        build_none(BodyRequest("none", options={"width": "0"}))
    with pytest.raises(ConfigError, match=r"none has no layers, but 2 were requested\. Leave --layers out\."):
        build_none(BodyRequest("none", layers=2))
