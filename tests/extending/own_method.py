"""An explanation method of one's own: the size of the gradient, without a sign (Simonyan et al., 2014)."""

import torch
from torch import nn

from robustbench_bcos.core.rng import PerImageRng
from robustbench_bcos.core.types import Images
from robustbench_bcos.explanations import METHODS
from robustbench_bcos.explanations.explanation import Explanation, Targets
from robustbench_bcos.explanations.method import AbstractMethod, largest


@METHODS.registered("saliency")
class Saliency(AbstractMethod):
    """The largest absolute gradient over the channels."""

    def _attribute(self, network: nn.Module, encoded: Images, targets: Targets | None, rng: PerImageRng) -> Explanation:
        leaf = encoded.detach().clone().requires_grad_()
        with torch.enable_grad():
            logits = network(leaf)
            chosen = largest(logits.detach()) if targets is None else targets
            explained = logits.gather(1, chosen).unbind(dim=1)
            rows = [torch.autograd.grad(logit.sum(), leaf, retain_graph=True)[0] for logit in explained]
        sizes = torch.stack(rows, dim=1).abs().amax(dim=2)
        return Explanation(weights=None, contributions=sizes, logits=logits.detach(), targets=chosen)
