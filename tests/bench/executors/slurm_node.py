"""A Slurm of one node on loopback, for tests and for trying things out: ``python -m tests.bench.executors.slurm_node``.

It needs root and, on Debian, ``apt-get install --no-install-recommends slurmctld slurmd slurm-client munge``; no
systemd, no accounting, no configuration of the machine. Everything lies in one folder and ends with the process.
"""

import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import ExitStack, contextmanager
from pathlib import Path

PROGRAMS = ("munged", "slurmctld", "slurmd", "sbatch", "srun", "squeue", "scontrol", "scancel", "sinfo")

SECONDS = 60.0
"""In which a daemon must have started."""

CONFIGURATION = """\
ClusterName=loopback
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={port}
SlurmdPort={node_port}
AuthType=auth/munge
AuthInfo=socket={folder}/munge/socket
CredType=cred/munge
SlurmUser=root
SlurmdUser=root
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
JobAcctGatherType=jobacct_gather/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=2,bf_interval=2,batch_sched_delay=0
SlurmdParameters=config_overrides
ReturnToService=2
JobRequeue=1
MaxArraySize={array}
MinJobAge=300
KillWait=5
SlurmdTimeout=30
SlurmctldTimeout=30
MessageTimeout=30
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} RealMemory=2000 State=UNKNOWN
PartitionName=all Nodes={host} Default=YES MaxTime=INFINITE State=UP
"""


def why_not() -> str:
    """Why there can be none here; empty where there can."""
    path = os.pathsep.join([os.environ.get("PATH", ""), "/usr/sbin", "/sbin"])
    missing = [program for program in PROGRAMS if shutil.which(program, path=path) is None]
    if missing:
        return f"{missing[0]} is not installed"
    return "" if os.geteuid() == 0 else "it needs root"


@contextmanager
def slurm_node(cpus: int = 2, array: int = 1001) -> Iterator[Mapping[str, str]]:
    """Start it; gives the environment in which Slurm's commands speak to it.

    Args:
        cpus: jobs of one CPU that it carries out at a time.
        array: ``MaxArraySize``.
    """
    host = socket.gethostname().partition(".")[0]
    with ExitStack() as stack:
        # Sockets have short names, and munge wants no folder that others may write to.
        folder = Path(stack.enter_context(tempfile.TemporaryDirectory(prefix="slurm-", dir="/run")))
        folder.chmod(0o755)
        for name in ("munge", "state", "spool"):
            (folder / name).mkdir(mode=0o700 if name == "munge" else 0o755)
        key = folder / "munge" / "key"
        key.touch(mode=0o600)
        key.write_bytes(os.urandom(1024))
        file = folder / "slurm.conf"
        text = CONFIGURATION.format(
            folder=folder, host=host, port=_free_port(), node_port=_free_port(), cpus=cpus, array=array
        )
        file.write_text(text, encoding="utf-8")
        environment = os.environ | {"SLURM_CONF": str(file), "PATH": f"{os.environ['PATH']}:/usr/sbin:/sbin"}
        munge = folder / "munge"
        options = [f"--{name}-file={munge / name}" for name in ("pid", "log", "seed")]
        _start(
            stack,
            ["munged", "--foreground", "--force", f"--key-file={key}", f"--socket={munge / 'socket'}", *options],
            environment,
        )
        _wait_until(lambda: _said(["munge", "-S", str(munge / "socket"), "-n"], environment) != "")
        _start(stack, ["slurmctld", "-D", "-f", str(file)], environment)
        _start(stack, ["slurmd", "-D", "-N", host, "-f", str(file)], environment)
        _wait_until(lambda: _said(["sinfo", "-h", "-o", "%T"], environment) == "idle")
        try:
            yield {name: environment[name] for name in ("SLURM_CONF", "PATH")}
        finally:
            _said(["scancel", "--full", "-u", "root"], environment)


def _start(stack: ExitStack, command: list[str], environment: Mapping[str, str]) -> None:
    program = shutil.which(command[0], path=environment["PATH"])
    assert program is not None
    process = subprocess.Popen(
        [program, *command[1:]], env=dict(environment), stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL
    )
    stack.callback(_end, process)


def _end(process: "subprocess.Popen[bytes]") -> None:
    process.terminate()
    try:
        process.wait(20)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()


def _said(command: list[str], environment: Mapping[str, str]) -> str:
    """What a command says; clients of a Slurm that does not answer hang for minutes."""
    try:
        done = subprocess.run(command, env=dict(environment), capture_output=True, text=True, check=True, timeout=10)
    except (OSError, subprocess.SubprocessError):
        return ""
    return done.stdout.strip()


def _wait_until(happened: Callable[[], bool]) -> None:
    until = time.monotonic() + SECONDS
    while not happened():
        if time.monotonic() > until:
            raise TimeoutError("Slurm does not start")
        time.sleep(0.1)


def _free_port() -> int:
    with socket.socket() as one:
        one.bind(("127.0.0.1", 0))
        return int(one.getsockname()[1])


if __name__ == "__main__":
    if reason := why_not():
        sys.exit(f"no Slurm can be started here: {reason}")
    with slurm_node() as variables:
        # A shell in which sbatch, squeue and `run --executor slurm` work; leaving it ends everything.
        command = sys.argv[1:] or [os.environ.get("SHELL", "/bin/sh")]
        sys.exit(subprocess.run(command, env=os.environ | variables, check=False).returncode)
