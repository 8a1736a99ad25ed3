"""Trajectories: made with SciPy from a system, scaled to [0, 1] on the training part, or read from a file."""

import json
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from hashlib import sha256
from io import BytesIO
from pathlib import Path

import numpy as np
import numpy.typing as npt

from robustbench_bcos.core.archives import read_arrays
from robustbench_bcos.core.disk import write_bytes, write_text
from robustbench_bcos.core.errors import RequestError, reason_of
from robustbench_bcos.dynamics import SYSTEMS
from robustbench_bcos.dynamics.times import check_times

Array = npt.NDArray[np.float64]

SEED = 0
"""Of the initial states and parameters: all models of a system see the same."""


@dataclass(frozen=True, kw_only=True)
class Trajectories:
    """Solutions of one system.

    Raises:
        RequestError: times that do not increase, numbers that are not finite, or shapes that do not fit.
    """

    system: str
    times: Array
    """(time,)"""
    states: Array
    """(trajectory, time, state), in the system's units."""
    parameters: Array
    """(trajectory, parameter)."""

    def __post_init__(self) -> None:
        check_times(self.times.tolist())
        system = SYSTEMS[self.system]
        count = len(self.states)
        expected = {
            "states": (count, len(self.times), len(system.states)),
            "parameters": (count, len(system.parameters)),
        }
        for name, shape in expected.items():
            values = getattr(self, name)
            if values.shape != shape:
                raise RequestError(
                    f"{name} of {self.system} must be of shape {shape}, got {values.shape}: check the file"
                )
            wrong = int((~np.isfinite(values)).reshape(count, -1).any(axis=1).sum())
            if wrong:
                raise RequestError(
                    f"{name} of {self.system} are NaN or infinite in {wrong} of {count} trajectories: repair or leave "
                    "out those"
                )

    @property
    def digest(self) -> str:
        """SHA-256 of times, states and parameters."""
        found = sha256(self.system.encode())
        for values in (self.times, self.states, self.parameters):
            found.update(np.ascontiguousarray(values).tobytes())
        return found.hexdigest()

    def select(self, positions: Sequence[int]) -> "Trajectories":
        """Some of them."""
        return Trajectories(
            system=self.system,
            times=self.times,
            states=self.states[list(positions)],
            parameters=self.parameters[list(positions)],
        )

    def __len__(self) -> int:
        return len(self.states)


def make_trajectories(system: str, count: int, *, points: int, spread: float) -> Trajectories:
    """Solve a system from initial states and with parameters around the nominal ones.

    Trajectory i is the same however many there are.

    A chaotic system begins where it comes to from there: on its attractor.

    Args:
        system: its name.
        count: how many.
        points: in time, beside the initial one, evenly spaced to the system's end.
        spread: part of the nominal values by which they vary uniformly to either side.
    """
    one = SYSTEMS[system]
    times = np.linspace(0.0, one.end, points + 1)
    states, parameters = [], []
    for index in range(count):
        random = np.random.default_rng([SEED, index])
        values = np.array(list(one.parameters.values())) * (1 + spread * random.uniform(-1, 1, len(one.parameters)))
        initial = np.array(one.initial) * (1 + spread * random.uniform(-1, 1, len(one.initial)))
        if one.lyapunov is not None:
            initial = one.solve(initial.tolist(), [0.0, 5.0 + 5.0 * random.uniform()], values.tolist())[-1]
        states.append(one.solve(initial.tolist(), times.tolist(), values.tolist()))
        parameters.append(values)
    return Trajectories(system=system, times=times, states=np.stack(states), parameters=np.stack(parameters))


def write_trajectories(data: Trajectories, folder: Path) -> None:
    """As ``SYSTEM.npz``, with the settings that made them in ``SYSTEM.json``."""
    content = BytesIO()
    np.savez(content, times=data.times, states=data.states, parameters=data.parameters)
    write_bytes(folder / f"{data.system}.npz", content.getvalue())
    one = SYSTEMS[data.system]
    settings = {
        "system": data.system,
        "states": one.states,
        "parameters": dict(one.parameters),
        "initial": one.initial,
        "solver": asdict(one.settings),
        "seed": SEED,
        "source": one.source,
    }
    write_text(folder / f"{data.system}.json", json.dumps(settings, indent=2) + "\n")


def read_trajectories(file: Path, system: str) -> Trajectories:
    """Trajectories of one's own, from an NPZ file with ``times``, ``states`` and ``parameters``.

    Raises:
        RequestError: it cannot be read, lacks one of these, or holds none of this system.
    """
    try:
        found = read_arrays(file)
        arrays = {name: found[name].astype(np.float64) for name in ("times", "states", "parameters")}
    except KeyError as error:
        raise RequestError(f"{file} has no array {error}: it must hold times, states and parameters") from None
    except (OSError, ValueError) as error:
        raise RequestError(
            f"{file} cannot be read as an NPZ file ({reason_of(error)}): save one with numpy.savez"
        ) from None
    return Trajectories(system=system, **arrays)


@dataclass(frozen=True, kw_only=True)
class Scale:
    """Ranges of states and parameters in the training data, to which they are scaled."""

    low: Array
    high: Array

    @classmethod
    def of(cls, values: Array) -> "Scale":
        """Of (..., quantity)."""
        flat = values.reshape(-1, values.shape[-1])
        low, high = flat.min(axis=0), flat.max(axis=0)
        return cls(low=low, high=np.where(high > low, high, low + 1.0))

    def scaled(self, values: Array) -> Array:
        """In [0, 1] on the training data."""
        found: Array = (values - self.low) / (self.high - self.low)
        return found

    def original(self, scaled: Array) -> Array:
        """In the system's units."""
        found: Array = self.low + scaled * (self.high - self.low)
        return found
