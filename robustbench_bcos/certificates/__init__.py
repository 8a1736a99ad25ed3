"""Proofs: perturbations so small that none of them can change a small network's prediction.

A new layer is a function in :mod:`~robustbench_bcos.certificates.layers`, registered for its class.
"""

from robustbench_bcos.certificates.certifier import CannotBound as CannotBound
from robustbench_bcos.certificates.certifier import Certifier as Certifier
