"""Batch norms."""

from typing import cast, final

import torch
from torch import Tensor, nn

from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.model_zoo.bcos.norms import BatchNormUncentred1d, BatchNormUncentred2d
from robustbench_bcos.model_zoo.bcosify import CONVERTERS
from robustbench_bcos.model_zoo.bcosify.converter import AbstractConverter

EPSILON = 1e-5


@final
@CONVERTERS.registered("batch_norm")
class BatchNorm(AbstractConverter):
    """Uncentred ones; what the running mean took away becomes part of the bias, and is dropped with it."""

    kinds = (
        "torch.nn.modules.batchnorm._BatchNorm",
        "torch.nn.modules.batchnorm.SyncBatchNorm",
        "torchvision.ops.misc.FrozenBatchNorm2d",
        "timm.layers.norm_act.BatchNormAct2d",
        "timm.layers.norm_act.SyncBatchNormAct",
        "timm.layers.norm_act.FrozenBatchNormAct2d",
    )

    def convert(self, layer: nn.Module, path: str, b: float) -> nn.Module:
        """The norm, and the activation behind it where the layer has one."""
        uncentred = _uncentred(layer, path)
        # timm's have these two behind the norm.
        behind = {name: child for name, child in layer.named_children() if name in ("drop", "act")}
        return nn.Sequential(uncentred, *behind.values()) if behind else uncentred

    def biases(self, converted: nn.Module) -> list[tuple[nn.Module, str]]:
        """The norm's."""
        return [(converted[0] if isinstance(converted, nn.Sequential) else converted, "bias")]


def _uncentred(layer: nn.Module, path: str) -> nn.Module:
    mean, variance = (cast(Tensor | None, getattr(layer, f"running_{name}", None)) for name in ("mean", "var"))
    if mean is None or variance is None:
        raise RequestError(
            f"{path}: a batch norm without running statistics takes those of each batch, which belong to no image: "
            "train the network with track_running_stats, or with another norm"
        )
    weight, bias = (cast(Tensor | None, getattr(layer, name, None)) for name in ("weight", "bias"))
    kind = BatchNormUncentred1d if isinstance(layer, nn.BatchNorm1d) else BatchNormUncentred2d
    made = kind(len(mean), eps=getattr(layer, "eps", EPSILON), momentum=getattr(layer, "momentum", 0.1))
    with torch.no_grad():
        scale = (variance.double() + made.eps).rsqrt() * (1 if weight is None else weight.double())
        shift = (0 if bias is None else bias.double()) - mean.double() * scale
        made.bias.copy_(shift)
        made.weight.copy_(torch.ones_like(mean) if weight is None else weight)
        assert made.running_mean is not None
        assert made.running_var is not None
        made.running_mean.copy_(mean)
        made.running_var.copy_(variance)
    return made.to(mean.device)
