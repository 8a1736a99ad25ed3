"""A search that is interrupted at any of its halts and begun again from there ends with the same bits."""

from collections.abc import Generator
from dataclasses import dataclass, field

import pytest
import torch
from torch import Tensor

from robustbench_bcos.attacks import halts
from robustbench_bcos.attacks.attack import AbstractAttack, AttackResult, Problem
from robustbench_bcos.attacks.criteria.misclassified import Misclassified
from robustbench_bcos.attacks.halts import Frames, Halt, finished, split, within
from robustbench_bcos.attacks.searches.noise import Noise
from robustbench_bcos.attacks.threat import Threat
from robustbench_bcos.core.rng import PerImageRng
from tests.attacks.conftest import TanhNet, Witness, every_attack, radius_of


@pytest.fixture(autouse=True)
def at_every_turn(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(halts, "SECONDS", 0.0)


def problem_of(witness: Witness, images: Tensor, labels: Tensor, norm: str, batch_size: int = 4) -> Problem:
    return Problem(
        classifier=witness,
        images=images,
        goals=labels,
        threat=Threat.of(norm, radius_of(norm)),
        criterion=Misclassified(),
        rng=PerImageRng.of(3, range(40, 40 + len(images))),
        batch_size=batch_size,
    )


def copied(frames: Frames) -> Frames:
    """As a disk would hold them: what goes on with the search changes nothing in it."""
    return tuple({name: tensor.clone() for name, tensor in frame.items()} for frame in frames)


@dataclass
class Sessions:
    """A search that dies after a number of halts, again and again."""

    every: int
    count: int = 0
    seen: list[Halt] = field(default_factory=list)

    def carry_out(self, attack: AbstractAttack, problem: Problem) -> AttackResult:
        left: Frames = ()
        while True:
            self.count += 1
            steps = attack.walk(problem, left)
            try:
                for _ in range(self.every + 1):
                    halt = next(steps)
                    self.seen.append(halt)
                    left = copied(halt.frames)
            except StopIteration as end:
                return end.value  # type: ignore[no-any-return]
            steps.close()


@every_attack
def test_any_number_of_interruptions_leaves_the_same_bits(
    attack: AbstractAttack, norm: str, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    whole, again = Witness(net), Witness(net)
    expected = finished(attack.walk(problem_of(whole, images, labels, norm)))
    sessions = Sessions(every=3)
    found = sessions.carry_out(attack, problem_of(again, images, labels, norm))
    assert torch.equal(found.adversarials, expected.adversarials)
    for name in expected.trace._fields:
        assert torch.equal(getattr(found.trace, name), getattr(expected.trace, name)), name
    if isinstance(attack, Noise):
        return
    assert sessions.count > 1
    # Little is done twice: what came between the last halt and the end of a session.
    assert len(again.seen) <= len(whole.seen) + (1 + len(expected.adversarials)) * 4 * sessions.count


@every_attack
def test_halts_say_how_far_a_search_is(
    attack: AbstractAttack, norm: str, net: TanhNet, images: Tensor, labels: Tensor
) -> None:
    sessions = Sessions(every=10**6)
    sessions.carry_out(attack, problem_of(Witness(net), images, labels, norm))
    for halt in sessions.seen:
        assert 0 <= halt.done <= len(images)
        assert 0 <= halt.share <= 1 + 1e-9
    whole = [halt.done + (len(images) - halt.done) * halt.share for halt in sessions.seen]
    if len(whole) > 2:
        assert whole[-1] > whole[0]


def test_parts_of_parts_are_told_as_one() -> None:
    def inner() -> Generator[Halt, None, int]:
        yield Halt(frames=({"a": torch.tensor(1)},), stage="target 2 of 9", done=1, share=0.5)
        return 7

    steps = within({"b": torch.tensor(2)}, inner(), stage="fab", done=3, before=0.25, part=0.5)
    halt = next(steps)
    assert (halt.stage, halt.done, halt.share) == ("fab, target 2 of 9", 4, 0.5)
    mine, (below,) = split(halt.frames)
    assert (int(mine["b"]), int(below["a"])) == (2, 1)
    assert finished(steps) == 7
    assert split(()) == ({}, ())
