"""Neural ODEs: which solver, exact contributions under each, folding, and images that do not mix."""

from typing import Any

import pytest
import torch
from torch import Tensor, nn

from robustbench_bcos.bench.evidence.answers import batch_independence
from robustbench_bcos.core.errors import RequestError
from robustbench_bcos.dynamics import SOLVERS
from robustbench_bcos.explanations.completeness import additive_constants, missing_share
from robustbench_bcos.explanations.explanation import explain
from robustbench_bcos.model_zoo.architectures import ARCHITECTURES, build_architecture
from robustbench_bcos.model_zoo.architectures.odenet import SIZES, flows_of
from robustbench_bcos.model_zoo.bcos.folding import fold
from robustbench_bcos.model_zoo.checkpoints.match import matching_architectures

SETTINGS: dict[str, dict[str, Any]] = {
    name: {"rtol": 1e-2, "atol": 1e-2} if SOLVERS[name].adaptive else {"steps": 2} for name in SOLVERS
}


@pytest.fixture(autouse=True)
def _libraries(request: pytest.FixtureRequest) -> None:
    for name in ("torchode", "torchdiffeq"):
        if name in request.node.name:
            pytest.importorskip(name)


NEAR = ["bcos_odenet", "bcos_odenet3", "odenet3", "bcos_resnet8"]


def encoded(count: int = 3) -> Tensor:
    images = torch.rand((count, 3, 8, 8), generator=torch.Generator().manual_seed(0), dtype=torch.float64)
    return torch.cat([images, 1 - images], dim=1)


def make(architecture: str = "bcos_odenet", **arguments: Any) -> nn.Module:
    network = build_architecture(architecture, in_channels=6, classes=4, arguments=arguments).double()
    bcos = architecture.startswith("bcos")
    for seed, (name, tensor) in enumerate(network.state_dict().items()):
        values = torch.randn(tensor.shape, generator=torch.Generator().manual_seed(seed), dtype=torch.float64)
        if tensor.dim() > 1:
            tensor.copy_(values / tensor[0].numel() ** 0.5)
        elif name.endswith("running_var"):
            # Fields that are neither still nor stiff: |cos| of random filters is small.
            tensor.copy_((values.abs() + 0.5) * (0.02 if bcos else 1.0))
    return network.eval().requires_grad_(False)


def solved_by(name: str, architecture: str = "bcos_odenet", **more: Any) -> nn.Module:
    return make(architecture, solver=name, **SETTINGS[name], **more)


def test_each_size_is_there_conventional_and_of_bcos_layers() -> None:
    assert {name for size in SIZES for name in (size, f"bcos_{size}")} <= set(ARCHITECTURES)
    for size, widths in SIZES.items():
        assert len(flows_of(make(size))) == len(widths)


@pytest.mark.parametrize("name", SOLVERS)
def test_contributions_sum_to_the_logit_under_every_solver(name: str) -> None:
    network = solved_by(name)
    assert additive_constants(network) == []
    assert missing_share(network, explain(network, encoded())) < 1e-9


@pytest.mark.parametrize("b", [1.25, 2.0, 2.5])
def test_contributions_sum_for_any_b(b: float) -> None:
    network = solved_by("rk4", b=b, learn_b="layer")
    assert missing_share(network, explain(network, encoded())) < 1e-9


@pytest.mark.parametrize("name", SOLVERS)
@pytest.mark.parametrize("architecture", ["odenet", "bcos_odenet"])
def test_a_folded_copy_answers_as_the_network(architecture: str, name: str) -> None:
    network = solved_by(name, architecture)
    torch.testing.assert_close(fold(network)(encoded()), network(encoded()), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", SOLVERS)
def test_images_mix_where_the_solver_says_so_and_nowhere_else(name: str) -> None:
    network = solved_by(name)
    mixes = flows_of(network)[0].solver.mixes_images
    assert mixes == (name == "torchdiffeq")
    found = batch_independence(network, encoded(4))
    assert bool((found.values > 1e-6).any()) == mixes
    if mixes:
        alone = batch_independence(solved_by(name, per_image=True), encoded(4))
        assert bool((alone.values < 1e-9).all())


def test_solvers_agree_once_they_are_accurate() -> None:
    fixed, finer = make(steps=32), make(steps=64, solver="rk4")
    torch.testing.assert_close(fixed(encoded()), finer(encoded()), rtol=1e-4, atol=1e-4)
    assert not torch.allclose(make(solver="euler", steps=1)(encoded()), finer(encoded()), rtol=1e-2)


def test_what_solvers_do_not_take_is_refused() -> None:
    with pytest.raises(RequestError, match=r"solver must be one of .*rk4.*got 'rk45'"):
        make(solver="rk45")
    with pytest.raises(RequestError, match="solver torchode takes no steps"):
        make(solver="torchode", steps=3)
    with pytest.raises(RequestError, match="rtol must be a positive number, got 0"):
        make(solver="torchode", rtol=0.0)
    with pytest.raises(RequestError, match="architecture 'bcos_odenet' takes no argument 'depth'"):
        make(depth=3)


def test_tensors_tell_the_architecture() -> None:
    found = [match.architecture for match in matching_architectures(make("bcos_odenet3").state_dict(), NEAR)]
    assert found == ["bcos_odenet3"]
