"""MLflow: a run with parameters, metrics and files."""

import os
import re
from typing import final

from robustbench_bcos.bench.tracker import PROJECT, AbstractTracker, Logged
from robustbench_bcos.bench.trackers import TRACKERS

REFUSED = re.compile(r"[^\w. /-]+")
"""Characters that names of parameters and metrics must not have."""

LONGEST = 500
"""Characters of a parameter's value that every version takes."""


@final
@TRACKERS.registered("mlflow")
class MLflow(AbstractTracker):
    """``MLFLOW_TRACKING_URI`` and ``MLFLOW_EXPERIMENT_NAME`` are heeded."""

    library = "mlflow"

    def log(self, run: Logged) -> None:
        """Begin a run and end it."""
        client = self.client
        client.set_experiment(os.environ.get("MLFLOW_EXPERIMENT_NAME", PROJECT))
        with client.start_run(run_name=run.name):
            client.set_tag("robustbench_bcos.key", run.key)
            client.log_params({REFUSED.sub("-", name): text[:LONGEST] for name, text in run.parameters.items()})
            client.log_metrics({REFUSED.sub("-", name): value for name, value in run.metrics.items()})
            for file in run.files:
                folder = file.parent.relative_to(run.folder)
                client.log_artifact(str(file), artifact_path=None if str(folder) == "." else str(folder))
