"""TensorBoard: event files in the folder ``tensorboard`` of the run."""

from typing import final

from robustbench_bcos.bench.tracker import AbstractTracker, Logged
from robustbench_bcos.bench.trackers import TRACKERS
from robustbench_bcos.core.disk import made_below


@final
@TRACKERS.registered("tensorboard")
class TensorBoard(AbstractTracker):
    """A scalar for each metric and a text for each parameter, written by tensorboardX, which needs no TensorFlow."""

    library = "tensorboardX"

    def log(self, run: Logged) -> None:
        """Write one file of events; ``tensorboard --logdir`` takes the run's folder or one above it."""
        with self.client.SummaryWriter(str(made_below(run.folder, "tensorboard"))) as writer:
            for name, text in run.parameters.items():
                writer.add_text(name, text)
            for name, value in run.metrics.items():
                writer.add_scalar(name, value)
