"""Layers with raw weights: against the definition written out, the official layers and their own folded copies."""

import pytest
import torch
import torch.nn.functional as F
from bcos.modules import BcosConv2d as OfficialConv2d
from bcos.modules import BcosLinear as OfficialLinear
from torch import Tensor, nn

from robustbench_bcos.model_zoo.bcos.explanation_mode import explanation_mode
from robustbench_bcos.model_zoo.bcos.folding import fold
from robustbench_bcos.model_zoo.bcos.layers import BcosConv2d, BcosLinear
from robustbench_bcos.model_zoo.bcos.norms import BatchNormUncentred1d, BatchNormUncentred2d
from robustbench_bcos.model_zoo.bcos.raw import RawBcosConv2d, RawBcosLinear, RawBcosWithin, weights_of

GEOMETRIES = [
    {"kernel_size": 3, "padding": 1},
    {"kernel_size": (3, 2), "stride": (2, 1), "padding": (0, 1), "groups": 2},
    {"kernel_size": 3, "dilation": 2, "groups": 4, "padding": "same"},
    {"kernel_size": 3, "padding": 1, "padding_mode": "reflect"},
    {"kernel_size": 1, "stride": 2, "bias": True},
]


def _convolution(**geometry: object) -> nn.Conv2d:
    return nn.Conv2d(4, 8, **{"bias": False, **geometry}).double()  # type: ignore[arg-type]


def _features(*shape: int) -> Tensor:
    return torch.randn(shape or (2, 4, 7, 6), generator=torch.Generator().manual_seed(1), dtype=torch.float64)


def _norms(features: Tensor, convolution: nn.Conv2d) -> Tensor:
    """Of every patch, by convolving the squares with ones, filter by filter."""
    ones = nn.Conv2d(
        4,
        8,
        convolution.kernel_size,
        convolution.stride,
        convolution.padding,
        convolution.dilation,
        convolution.groups,
        False,
        convolution.padding_mode,
    ).double()
    nn.init.ones_(ones.weight)
    return (ones(features.square()) + 1e-6).sqrt()


@pytest.mark.parametrize("geometry", GEOMETRIES)
@pytest.mark.parametrize("b", [1.0, 1.5, 2.0])
def test_the_response_is_scaled_by_its_share_of_the_patch(geometry: dict[str, object], b: float) -> None:
    convolution, features = _convolution(**geometry), _features()
    responses = convolution(features)
    scale = (responses / _norms(features, convolution)).abs() + (1e-6 if b == 1.5 else 0)
    expected = responses * scale ** (b - 1)
    torch.testing.assert_close(RawBcosConv2d(convolution, b=b)(features), expected)
    if not isinstance(convolution.padding, str):
        torch.testing.assert_close(RawBcosWithin(convolution, b=b)(features), expected)


def test_with_unit_filters_it_is_the_official_layer() -> None:
    official = OfficialConv2d(4, 8, 3, 2, 1, groups=2, b=2.0).double()
    unit = F.normalize(official.linear.weight.detach().flatten(1), dim=1).view_as(official.linear.weight)
    convolution = _convolution(kernel_size=3, stride=2, padding=1, groups=2)
    convolution.weight.data = unit
    torch.testing.assert_close(RawBcosConv2d(convolution, b=2.0)(_features()), official(_features()))
    row = OfficialLinear(6, 5, b=2.0).double()
    linear = nn.Linear(6, 5, bias=False).double()
    linear.weight.data = F.normalize(row.linear.weight.detach(), dim=1)
    torch.testing.assert_close(RawBcosLinear(linear, b=2.0)(_features(3, 6)), row(_features(3, 6)))


def test_the_kind_of_weights_is_known() -> None:
    raw = RawBcosLinear(nn.Linear(2, 2), b=2.0)
    assert weights_of(raw) == weights_of(RawBcosWithin(nn.Linear(2, 2), b=2.0)) == "raw"
    assert weights_of(BcosLinear(2, 2)) == "unit"
    assert weights_of(nn.Sequential(raw, BcosConv2d(2, 2))) == "raw+unit"
    assert weights_of(nn.Linear(2, 2)) == ""
    filters = {"linear.weight": torch.ones(2, 2)}
    raw.load_state_dict(filters | {"linear.bias": torch.zeros(2)})
    unit = BcosLinear(2, 2)
    unit.load_state_dict(filters)
    assert not torch.allclose(raw(torch.ones(1, 2)), unit(torch.ones(1, 2)))


class _Normed(nn.Sequential):
    def normed(self) -> list[tuple[nn.Module, nn.Module]]:
        return [(self[0], self[1])]


@pytest.mark.parametrize("b", [1.0, 1.5, 2.0])
@pytest.mark.parametrize("bias", [False, True])
def test_a_folded_copy_keeps_raw_filters(b: float, bias: bool) -> None:
    norm = BatchNormUncentred2d(8).double()
    norm.register_parameter("bias", None)
    nn.init.uniform_(norm.weight, -1, 1)
    nn.init.uniform_(norm.running_var, 0.5, 1.5)  # type: ignore[arg-type]
    network = _Normed(RawBcosConv2d(_convolution(kernel_size=3, padding=1, bias=bias), b=b), norm).eval()
    folded = fold(network)
    assert isinstance(folded[1], nn.Identity) == (b != 1.5 and not bias)
    results = []
    for one in (network, folded):
        for explained in (False, True):
            features = _features().requires_grad_()
            if explained:
                with explanation_mode(one):
                    outputs = one(features)
            else:
                outputs = one(features)
            row = _features(*outputs.shape)
            results.append((outputs.detach(), torch.autograd.grad((row * outputs).sum(), features)[0]))
    for expected, found in zip(results[:2], results[2:], strict=True):
        torch.testing.assert_close(found, expected)


def test_a_norm_of_rows_is_that_of_maps() -> None:
    rows, maps = BatchNormUncentred1d(4).double(), BatchNormUncentred2d(4).double()
    features = _features(5, 4)
    for norm in (rows, maps):
        norm.train()
    torch.testing.assert_close(rows(features), maps(features[:, :, None, None])[:, :, 0, 0])
    torch.testing.assert_close(rows(features[:, :, None]), maps(features[:, :, None, None])[:, :, 0])
    torch.testing.assert_close(rows.running_var, maps.running_var)
