"""Weights & Biases: a run with its numbers as summary and its files as an artifact."""

import os
from typing import final

from robustbench_bcos.bench.tracker import PROJECT, AbstractTracker, Logged
from robustbench_bcos.bench.trackers import TRACKERS


@final
@TRACKERS.registered("wandb")
class Wandb(AbstractTracker):
    """``WANDB_PROJECT``, ``WANDB_MODE`` and the like are heeded."""

    library = "wandb"

    def log(self, run: Logged) -> None:
        """Begin a run, or take up the one of this request, and finish it."""
        with self.client.init(
            project=os.environ.get("WANDB_PROJECT", PROJECT),
            id=run.key,
            name=run.name,
            config=dict(run.parameters),
            resume="allow",
        ) as begun:
            begun.summary.update(dict(run.metrics))
            artifact = self.client.Artifact(f"run-{run.key}", type="run")
            for file in run.files:
                artifact.add_file(str(file), name=str(file.relative_to(run.folder)))
            begun.log_artifact(artifact)
