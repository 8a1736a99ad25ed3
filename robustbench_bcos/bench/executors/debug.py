"""submitit's executor for debugging: units one after another, in this process."""

from typing import Any, final

from robustbench_bcos.bench.executor import Assignment, Handle
from robustbench_bcos.bench.executors import EXECUTORS
from robustbench_bcos.bench.executors._submitit import SubmititJobs


@final
@EXECUTORS.registered("debug")
class Debug(SubmititJobs):
    """What jobs do, where a debugger sees it."""

    workers = 1
    most_at_once = 1

    @classmethod
    def workers_for(cls, asked: Assignment) -> int:
        """One."""
        return 1

    def engine(self) -> Any:  # noqa: ANN401
        """The executor of submitit for debugging; it is asked for no log."""
        from submitit import DebugExecutor

        return DebugExecutor(self.jobs.path)

    def handle(self, job: Any) -> Handle:  # noqa: ANN401
        """Of a job, once it has been carried out."""
        # What submitit calls a submission carries out the work when it is asked for its result.
        job.submission().result()
        return _Done()


class _Done(Handle):
    def alive(self) -> bool:
        return False

    def cancel(self) -> None:
        """Nothing is left to be done."""
