"""Architectures by name. A B-cos architecture has its conventional twin's name with the prefix ``bcos_``.

Each family is one skeleton in a module of its own, which is filled with conventional or with B-cos parts and
registers its members when it is imported.
"""

from robustbench_bcos.model_zoo.architectures import convnext as convnext
from robustbench_bcos.model_zoo.architectures import densenet as densenet
from robustbench_bcos.model_zoo.architectures import resnet as resnet
from robustbench_bcos.model_zoo.architectures import vgg as vgg
from robustbench_bcos.model_zoo.architectures import vit as vit
from robustbench_bcos.model_zoo.architectures.initialisation import initialise as initialise
from robustbench_bcos.model_zoo.architectures.registry import ARCHITECTURES as ARCHITECTURES
from robustbench_bcos.model_zoo.architectures.registry import BCOS_PREFIX as BCOS_PREFIX
from robustbench_bcos.model_zoo.architectures.registry import build_architecture as build_architecture
