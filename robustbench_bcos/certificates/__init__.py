"""What holds for every image near one: of small networks proved, of smoothed ones with a stated probability.

:mod:`~robustbench_bcos.certificates.certifier` proves; a new layer is a function in
:mod:`~robustbench_bcos.certificates.layers`, registered for its class. What is certified of smoothed networks is a
module of :mod:`~robustbench_bcos.certificates.smoothed` each. The registry knows names without importing torch.
"""

from typing import TYPE_CHECKING

from robustbench_bcos.core.registry import Registry

if TYPE_CHECKING:
    from robustbench_bcos.certificates.certificate import AbstractCertificate

CERTIFICATES: "Registry[AbstractCertificate]" = Registry(
    "certificate", package=f"{__name__}.smoothed", group="robustbench_bcos.certificates", instances=True
)
