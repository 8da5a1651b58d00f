"""A Slurm of one node for tests: munged, slurmctld and slurmd as this user, on free ports, in a folder of their own.

The programs come from the PATH or from .venv/tools/debian (tests/deploy/tools.sh), where Debian's packages are unpacked and not
installed: every path is told in slurm.conf.
"""

from __future__ import annotations

import getpass
import os
import shutil
import socket
import subprocess
import time
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

UNPACKED = Path(__file__).resolve().parents[2] / ".venv/tools/debian"
LIBRARIES = UNPACKED / "usr/lib/x86_64-linux-gnu"
PLUGINS = "slurm-wlm"
CONFIGURATION = """\
ClusterName=test
SlurmctldHost={host}(127.0.0.1)
SlurmUser={user}
SlurmdUser={user}
AuthType=auth/munge
AuthInfo=socket={folder}/munge.socket
CredType=cred/munge
PluginDir={plugins}
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/slurmd.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/slurmd.log
SlurmctldPort={controller_port}
SlurmdPort={daemon_port}
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
MpiDefault=none
SelectType=select/cons_tres
SelectTypeParameters=CR_CPU
SchedulerParameters=sched_interval=1,batch_sched_delay=0,sched_min_interval=0
SchedulerType=sched/builtin
JobRequeue=1
KillWait=5
MinJobAge=300
ReturnToService=2
NodeName={host} NodeAddr=127.0.0.1 CPUs={cpus} State=UNKNOWN
PartitionName=debug Nodes=ALL Default=YES MaxTime=INFINITE State=UP
"""


def tool(name: str) -> Path | None:
    """A program of Debian's, unpacked or installed."""
    for folder in ("usr/sbin", "usr/bin"):
        if (UNPACKED / folder / name).exists():
            return UNPACKED / folder / name
    found = shutil.which(name, path=f"{os.environ['PATH']}:/usr/sbin:/sbin")
    return Path(found) if found else None


def environment() -> dict[str, str]:
    """With the unpacked libraries, if there are any."""
    paths = [str(LIBRARIES), str(LIBRARIES / PLUGINS), os.environ.get("LD_LIBRARY_PATH", "")]
    return {**os.environ, "LD_LIBRARY_PATH": ":".join(filter(None, paths))} if UNPACKED.exists() else dict(os.environ)


@dataclass(frozen=True)
class Slurm:
    """A running cluster."""

    folder: Path
    environment: dict[str, str]

    def call(self, name: str, *arguments: str, cwd: Path | None = None) -> str:
        program = tool(name)
        assert program is not None
        found = subprocess.run(
            [str(program), *arguments], env=self.environment, cwd=cwd, capture_output=True, text=True, timeout=60
        )
        assert found.returncode == 0, f"{name} {arguments}: {found.stderr}{self.logs()}"
        return found.stdout

    def start_now(self, job: str) -> None:
        """Slurm holds a requeued job for two minutes, so that what its first start left is gone; here that takes a moment."""
        time.sleep(4)
        arguments = ["update", f"JobId={job}", "StartTime=now"]
        subprocess.run([str(tool("scontrol")), *arguments], env=self.environment, capture_output=True, timeout=60)

    def state(self, job: str) -> str:
        """PENDING, RUNNING, COMPLETED, …"""
        fields = dict(part.split("=", 1) for part in self.call("scontrol", "show", "job", job).split() if "=" in part)
        return fields["JobState"]

    def wait(self, job: str, *states: str, timeout_s: float = 120) -> str:
        deadline = time.monotonic() + timeout_s
        while (state := self.state(job)) not in states:
            assert time.monotonic() < deadline, f"the job is {state}, not {states}\n{self.logs()}"
            time.sleep(0.5)
        return state

    def logs(self) -> str:
        return "".join(path.read_text(errors="replace")[-4000:] for path in sorted(self.folder.glob("*.log")))


@contextmanager
def slurm(folder: Path, *, cpus: int) -> Iterator[Slurm]:
    """A cluster for as long as the block runs. `folder` must be short: it holds a socket."""
    host = socket.gethostname().partition(".")[0]
    for name in ("state", "spool"):
        (folder / name).mkdir()
    settings = {
        "host": host,
        "user": getpass.getuser(),
        "folder": folder,
        "plugins": LIBRARIES / PLUGINS if UNPACKED.exists() else "/usr/lib/x86_64-linux-gnu/slurm-wlm",
        "controller_port": _free_port(),
        "daemon_port": _free_port(),
        "cpus": cpus,
    }
    (folder / "slurm.conf").write_text(CONFIGURATION.format(**settings), encoding="utf-8")
    (folder / "munge.key").write_bytes(os.urandom(128))
    (folder / "munge.key").chmod(0o400)
    cluster = Slurm(folder, {**environment(), "SLURM_CONF": str(folder / "slurm.conf")} | _paths())
    daemons: list[subprocess.Popen[bytes]] = []
    try:
        daemons.append(_start(cluster, "munged", *_munge_options(folder)))
        _wait_for(folder / "munge.socket")
        daemons.append(_start(cluster, "slurmctld-wlm", "-D", "-c"))
        daemons.append(_start(cluster, "slurmd-wlm", "-D", "-N", host, "-d", str(tool("slurmstepd-wlm"))))
        _wait_until_idle(cluster)
        yield cluster
        _cancel_all(cluster)
    finally:
        for daemon in reversed(daemons):
            daemon.terminate()
            try:
                daemon.wait(15)
            except subprocess.TimeoutExpired:
                daemon.kill()
                daemon.wait()


def _cancel_all(cluster: Slurm) -> None:
    """Jobs that a failed test has left: their processes would outlive the daemons."""
    cluster.call("scancel", "--state=RUNNING")
    cluster.call("scancel", "--state=PENDING")
    deadline = time.monotonic() + 30
    while cluster.call("squeue", "-h").strip() and time.monotonic() < deadline:
        time.sleep(0.3)


def _paths() -> dict[str, str]:
    """The scripts of jobs call srun, scontrol and scancel by name."""
    return {"PATH": f"{UNPACKED}/usr/bin:{os.environ['PATH']}"} if UNPACKED.exists() else {}


def _munge_options(folder: Path) -> tuple[str, ...]:
    named = (("key-file", "munge.key"), ("socket", "munge.socket"), ("pid-file", "munge.pid"), ("log-file", "munge.log"), ("seed-file", "munge.seed"))  # fmt: skip
    return ("--foreground", "--force", *(f"--{option}={folder / name}" for option, name in named))


def _start(cluster: Slurm, name: str, *arguments: str) -> subprocess.Popen[bytes]:
    program = tool(name) or tool(name.removesuffix("-wlm"))
    assert program is not None, name
    log = (cluster.folder / f"{name}.out.log").open("wb")
    return subprocess.Popen([str(program), *arguments], env=cluster.environment, stdout=log, stderr=log)


def _wait_for(path: Path) -> None:
    deadline = time.monotonic() + 20
    while not path.exists():
        assert time.monotonic() < deadline, f"{path} does not appear"
        time.sleep(0.1)


def _wait_until_idle(cluster: Slurm) -> None:
    deadline = time.monotonic() + 40
    program = str(tool("sinfo"))
    while True:
        found = subprocess.run([program, "-h", "-o", "%t"], env=cluster.environment, capture_output=True, text=True)
        if found.stdout.strip() == "idle":
            return
        assert time.monotonic() < deadline, f"{found.stdout}{found.stderr}{cluster.logs()}"
        time.sleep(0.3)


def _free_port() -> int:
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]
