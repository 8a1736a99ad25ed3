"""Architectures by name. ``bcos_NAME`` has the backbone of ``NAME``, built of B-cos layers.

Each module here is one backbone, which registers the members of its family when it is imported. Architectures of your
own need one file, which registers them in the same way::

    from torch import Tensor, nn

    from robustbench_bcos.model_zoo.architectures import KeyLayers, LayerFactory, register_architecture

    class TinyNet(nn.Module):
        def __init__(self, make: LayerFactory, *, in_channels: int, classes: int) -> None:
            super().__init__()
            self.stem = make.convolution(in_channels, 16, 3, 2)
            self.norm = make.norm(16)
            self.act = make.activation()
            self.head = make.head(16, classes)

        def forward(self, encoded: Tensor) -> Tensor:
            return self.head(self.act(self.norm(self.stem(encoded))))

    register_architecture("tinynet", TinyNet, KeyLayers(first="stem", last="head", norm="norm", filters=16))

Name the file with ``--plugin FILE``, or let an installed package name it, once for each architecture::

    [project.entry-points."robustbench_bcos.architectures"]
    tinynet = "my_package.tinynet"
    bcos_tinynet = "my_package.tinynet"

Cards, recipes and ``--weights FILE --architecture NAME`` can then use ``tinynet`` and ``bcos_tinynet``. A network with
arguments of its own is registered with ``ARCHITECTURES.register(NAME, Architecture(...))``.
"""

from importlib import import_module
from pkgutil import iter_modules

from robustbench_bcos.model_zoo.architectures.initialisation import initialise as initialise
from robustbench_bcos.model_zoo.architectures.layers import LayerFactory as LayerFactory
from robustbench_bcos.model_zoo.architectures.registry import ARCHITECTURES as ARCHITECTURES
from robustbench_bcos.model_zoo.architectures.registry import BCOS_PREFIX as BCOS_PREFIX
from robustbench_bcos.model_zoo.architectures.registry import Architecture as Architecture
from robustbench_bcos.model_zoo.architectures.registry import KeyLayers as KeyLayers
from robustbench_bcos.model_zoo.architectures.registry import build_architecture as build_architecture
from robustbench_bcos.model_zoo.architectures.registry import register_architecture as register_architecture

for _module in iter_modules(__path__):
    import_module(f"{__name__}.{_module.name}")
