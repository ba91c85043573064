"""A real Slurm on this machine: two nodes, with daemons, key and configuration of their own."""

import os
import shutil
import socket
import subprocess
import sys
import time
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path

import psutil

from tests.apps.commands import ROOT

_DAEMONS = ("munged", "slurmctld", "slurmd")
_SBIN = "/usr/sbin"  # not on every user's PATH
_NODES = ("n1", "n2")
_CONFIG = """
ClusterName=test
SlurmctldHost=localhost(127.0.0.1)
SlurmctldPort={port}
SlurmUser=root
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket,cred_expire=5
CredType=cred/munge
SlurmctldPidFile={folder}/slurmctld.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdPidFile={folder}/%n.pid
SlurmdLogFile={folder}/%n.log
SlurmdSpoolDir={folder}/%n
StateSaveLocation={folder}/state
SlurmdParameters=config_overrides
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU_Memory
SwitchType=switch/none
MpiDefault=none
ReturnToService=2
SchedulerParameters=sched_interval=1,bf_interval=1,batch_sched_delay=0
AccountingStorageType=accounting_storage/none
JobAcctGatherType=jobacct_gather/none
PreemptType=preempt/partition_prio
PreemptMode=REQUEUE
MailProg=/bin/true
NodeName=n1 NodeHostname=localhost NodeAddr=127.0.0.1 Port={port1} CPUs=4 RealMemory=8000
NodeName=n2 NodeHostname=localhost NodeAddr=127.0.0.1 Port={port2} CPUs=4 RealMemory=8000
PartitionName=main Nodes=n1,n2 Default=YES PriorityTier=1 GraceTime=30
PartitionName=urgent Nodes=n1,n2 PriorityTier=9 PreemptMode=OFF
"""


def missing() -> str | None:
    """Why there can be no cluster here; None if there can."""
    for name in (*_DAEMONS, "sbatch"):
        if shutil.which(name, path=_path()) is None:
            return f"{name} is not installed: apt-get install slurm-wlm munge"
    return None if os.geteuid() == 0 else "Slurm's daemons need root here"


class Cluster:
    """Slurm's daemons, from `start` to `stop`, and what a user asks of them."""

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self._daemons: list[subprocess.Popen[bytes]] = []
        self.environment = {
            **{
                k: v for k, v in os.environ.items() if not k.startswith(("SLURM", "SBATCH", "SRUN"))
            },
            "SLURM_CONF": str(folder / "slurm.conf"),
            "PATH": _path(),
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "WANDB_MODE": "disabled",
            "MASTER_ADDR": "127.0.0.1",  # n1 and n2 are no names that anything resolves
        }
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_PORT"):
            self.environment.pop(name, None)

    def start(self) -> None:
        """Start all daemons and wait until both nodes are idle."""
        folder = self.folder
        (folder / "state").mkdir(mode=0o700)
        key = folder / "munge.key"
        key.touch(mode=0o400)
        key.write_bytes(os.urandom(128))
        port, port1, port2 = _free_ports(3)
        text = _CONFIG.format(folder=folder, port=port, port1=port1, port2=port2)
        (folder / "slurm.conf").write_text(text)
        names = ("socket", "key-file", "pid-file", "log-file", "seed-file")
        paths = [f"--{name}={folder}/munge.{name.removesuffix('-file')}" for name in names]
        # By force: a folder that none but its owner may enter is enough for a cluster of one user.
        self._start("munged", "--foreground", "--force", *paths)
        wait_for((folder / "munge.socket").exists, 30)
        self._start("slurmctld", "-D", "-i")
        for node in _NODES:
            self._start("slurmd", "-D", "-N", node)
        wait_for(lambda: self.ask("sinfo", "-h", "-N", "-o", "%T").split() == ["idle"] * 4, 60)

    def stop(self) -> None:
        """End every job, every daemon and whatever else was started under them."""
        with suppress(subprocess.TimeoutExpired):  # whatever happens, the daemons end below
            self.ask("scancel", "--user=root")
        deadline = time.monotonic() + 10
        ours = {daemon.pid for daemon in self._daemons}
        while any(p.pid not in ours for p in self.processes()) and time.monotonic() < deadline:
            time.sleep(0.2)
        for daemon in reversed(self._daemons):
            daemon.terminate()
        for daemon in self._daemons:
            try:
                daemon.wait(10)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()
        for process in self.processes():
            process.kill()

    def processes(self, **variables: str) -> list[psutil.Process]:
        """The processes of this cluster whose environment has all `variables`."""
        expected = {"SLURM_CONF": self.environment["SLURM_CONF"], **variables}
        found = []
        for process in psutil.process_iter():
            try:
                if expected.items() <= process.environ().items():
                    found.append(process)
            except psutil.Error:  # it has ended meanwhile
                continue
        return found

    def ask(self, *command: str) -> str:
        """A Slurm command's answer; what it says of an error, if it has none."""
        done = subprocess.run(
            command, env=self.environment, cwd=ROOT, capture_output=True, text=True, timeout=60
        )
        return done.stdout.strip() or done.stderr.strip()

    def submit(self, *arguments: str) -> str:
        """`sbatch` from the root of the checkout; the job's number."""
        output = f"--output={self.folder}/%x-%j.out"
        # A machine without GPUs, and with little of all the rest.
        options = ("--gpus-per-node=0", "--cpus-per-task=1", "--mem=1500")
        job = self.ask("sbatch", "--parsable", output, *options, *arguments)
        assert job.isdigit(), job
        return job

    def job(self, job: str) -> dict[str, str]:
        """What Slurm knows of a job: JobState, ExitCode, Restarts and much more."""
        words = self.ask("scontrol", "--oneliner", "show", "job", job).split()
        return dict(word.split("=", 1) for word in words if "=" in word)

    def ended(self, job: str, seconds: float = 600) -> dict[str, str]:
        """Wait until a job has ended for good; what Slurm then knows of it."""
        going_on = ("PENDING", "CONFIGURING", "RUNNING", "COMPLETING", "REQUEUED")
        wait_for(lambda: self.job(job)["JobState"] not in going_on, seconds)
        return self.job(job)

    def output(self, job: str = "*") -> str:
        """What a job has printed, all its starts together; without a number, what all have."""
        return "".join(p.read_text() for p in sorted(self.folder.glob(f"*-{job}.out")))

    def _start(self, name: str, *arguments: str) -> None:
        with open(self.folder / f"{name}-{len(self._daemons)}.said", "wb") as said:
            self._daemons.append(
                subprocess.Popen(
                    [name, *arguments],
                    env=self.environment,
                    stdin=subprocess.DEVNULL,
                    stdout=said,
                    stderr=said,
                )
            )


def wait_for(condition: Callable[[], bool], seconds: float) -> None:
    """Look five times a second until `condition` holds; fail after `seconds`."""
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline, f"waited {seconds:g} s in vain"
        time.sleep(0.2)


def _path() -> str:
    return os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"], _SBIN])


def _free_ports(number: int) -> list[int]:
    sockets = [socket.socket() for _ in range(number)]
    for each in sockets:
        each.bind(("127.0.0.1", 0))
    ports = [each.getsockname()[1] for each in sockets]
    for each in sockets:
        each.close()
    return ports
