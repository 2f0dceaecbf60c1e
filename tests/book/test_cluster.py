"""The book on a cluster: Slurm with one controller and two nodes, all on this machine, without systemd.

Skipped where Slurm is not installed. On Debian: ``apt-get install slurm-wlm munge``.
"""

import contextlib
import os
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import psutil
import pytest

from lib.book import last_run

DAEMONS = ("munged", "slurmctld", "slurmd", "sbatch", "squeue", "srun", "setpriv")
SLURM = [
    *("--executor", "slurm", "--jobs", "2", "--slurm-no-account", "--slurm-requeue"),
    *("--slurm-status-command", "squeue"),
    *("--slurm-init-seconds-before-status-checks", "1", "--seconds-between-status-checks", "1"),
]
CONFIGURATION = """
ClusterName=book
SlurmctldHost={host}(127.0.0.1)
SlurmctldPort={ports[0]}
SlurmUser=root
SlurmdUser=root
AuthType=auth/munge
CryptoType=crypto/munge
# A job whose node died waits until its old credential has run out.
AuthInfo=socket={folder}/munge.socket,cred_expire=5
ProctrackType=proctrack/linuxproc
TaskPlugin=task/none
SelectType=select/cons_tres
SelectTypeParameters=CR_Core_Memory
JobAcctGatherType=jobacct_gather/none
AccountingStorageType=accounting_storage/none
MpiDefault=none
SwitchType=switch/none
SlurmdParameters=config_overrides
ReturnToService=2
SlurmdTimeout=5
SchedulerParameters=sched_interval=2
StateSaveLocation={folder}/state
SlurmdSpoolDir={folder}/spool-%n
SlurmctldPidFile={folder}/slurmctld.pid
SlurmdPidFile={folder}/%n.pid
SlurmctldLogFile={folder}/slurmctld.log
SlurmdLogFile={folder}/%n.log
NodeName=n1 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[1]} CPUs=1 RealMemory=4000 State=UNKNOWN
NodeName=n2 NodeHostname={host} NodeAddr=127.0.0.1 Port={ports[2]} CPUs=1 RealMemory=4000 State=UNKNOWN
PartitionName=cpu Nodes=n1,n2 Default=YES MaxTime=60 State=UP
"""

pytestmark = [
    pytest.mark.book,
    pytest.mark.skipif(not all(map(shutil.which, DAEMONS)), reason="Slurm is not installed: slurm-wlm and munge"),
    pytest.mark.skipif(os.getuid() != 0, reason="the daemons of a cluster start as root"),
]


class Cluster:
    """A controller and the nodes n1 and n2, with all they write in one folder."""

    def __init__(self, folder: Path) -> None:
        self.folder, self.daemons = folder, {}
        self.environment = os.environ | {"SLURM_CONF": str(folder / "slurm.conf")}
        self.environment["PATH"] = f"{folder / 'bin'}:{os.environ['PATH']}"
        (folder / "state").mkdir()
        (folder / "bin").mkdir()
        # Inside a job Snakemake drops SLURM_CONF, as the configuration stands in /etc on a real cluster.
        srun = f'#!/bin/sh\nSLURM_CONF="{folder}/slurm.conf" exec {shutil.which("srun")} "$@"\n'
        (folder / "bin" / "srun").write_text(srun)
        (folder / "bin" / "srun").chmod(0o755)
        (folder / "munge.key").write_bytes(os.urandom(128))
        (folder / "munge.key").chmod(0o400)
        with contextlib.ExitStack() as held:
            sockets = [held.enter_context(socket.socket()) for _ in range(3)]
            for free in sockets:
                free.bind(("127.0.0.1", 0))
            ports = [free.getsockname()[1] for free in sockets]
        text = CONFIGURATION.format(host=socket.gethostname().split(".")[0], folder=folder, ports=ports)
        (folder / "slurm.conf").write_text(text)

    def start(self) -> None:
        files = {"key-file": "key", "socket": "socket", "pid-file": "pid", "seed-file": "seed", "log-file": "log"}
        options = [f"--{option}={self.folder}/munge.{suffix}" for option, suffix in files.items()]
        self._daemon("munged", "--foreground", "--force", *options)
        wait(lambda: (self.folder / "munge.socket").exists(), 10, "munged opens its socket")
        self._daemon("slurmctld", "-D")
        for node in ("n1", "n2"):
            (self.folder / f"spool-{node}").mkdir()
            self._daemon("slurmd", "-D", "-N", node)
        wait(lambda: self.ask("sinfo", "-h", "-N", "-o", "%t") == "idle\nidle", 30, "both nodes are idle")

    def ask(self, *command: str) -> str:
        said = subprocess.run(command, env=self.environment, capture_output=True, text=True, timeout=30)
        return said.stdout.strip()

    def kill(self, node: str) -> None:
        """The node's daemon and all that it runs, at once, as when a machine loses its power."""
        processes = _with_children(self._processes_of(node))
        for act in (psutil.Process.suspend, psutil.Process.kill):  # stopped first: nobody reports another's end
            for process in processes:
                with contextlib.suppress(psutil.NoSuchProcess):
                    act(process)

    def stop(self) -> None:
        processes = [process for node in ("n1", "n2") for process in self._processes_of(node)]
        processes += [psutil.Process(daemon.pid) for daemon in self.daemons.values() if daemon.poll() is None]
        for process in _with_children(processes):
            with contextlib.suppress(psutil.NoSuchProcess):
                process.kill()
        for daemon in self.daemons.values():
            daemon.wait(10)

    def _daemon(self, *command: str) -> None:
        with (self.folder / f"{command[0]}-{command[-1].lstrip('-')[:8]}.out").open("w") as out:
            mortal = ["setpriv", "--pdeathsig", "KILL", *command]  # ends with the tests, even where they are killed
            daemon = subprocess.Popen(mortal, env=self.environment, stdout=out, stderr=out, start_new_session=True)
        self.daemons[command[-1]] = daemon

    def _processes_of(self, node: str) -> list[psutil.Process]:
        """The node's daemon, and the keepers of its jobs, which are no children of it."""
        mine = []
        for process in psutil.process_iter():
            with contextlib.suppress(psutil.Error):
                here = process.environ().get("SLURM_CONF") == str(self.folder / "slurm.conf")
                if here and process.environ().get("SLURMD_NODENAME") == node:
                    mine += [process, *(above for above in process.parents() if above.name().startswith("slurmstepd"))]
        daemon = self.daemons.get(node)
        return [psutil.Process(daemon.pid)] * (daemon is not None and daemon.poll() is None) + list(set(mine))


def _with_children(processes: list[psutil.Process]) -> list[psutil.Process]:
    found = list(processes)
    for process in processes:
        with contextlib.suppress(psutil.NoSuchProcess):
            found += process.children(recursive=True)
    return found


@pytest.fixture
def cluster(tmp_path) -> Iterator[Cluster]:
    folder = Path(tempfile.mkdtemp(prefix="slurm-"))  # short: the path of a socket has at most 107 bytes
    folder.chmod(0o755)  # munged refuses a folder that others can write, and clients must reach its socket
    made = Cluster(folder)
    try:
        made.start()
        yield made
    finally:
        made.stop()
        for log in [*folder.glob("*.log"), *folder.glob("*.out")]:  # what a failure is understood from
            shutil.copy(log, tmp_path)
        shutil.rmtree(folder)


def wait(happens: Callable[[], bool], seconds: float, what: str) -> None:
    end = time.monotonic() + seconds
    while not happens():
        assert time.monotonic() < end, f"{what}: not within {seconds:g} s"
        time.sleep(0.2)


# The first run of the chapter waits for its node's death, which its second does not meet.
WAITS = """
import os
import time
from pathlib import Path

from lib import evidence

seen = Path("../_build/{name}.nodes")
first = not seen.exists()
with seen.open("a") as file:
    print(os.environ["SLURMD_NODENAME"], file=file)
if first and {dies}:
    time.sleep(300)
evidence.record("{name}.runs.count", [len(seen.read_text().split())], unit="", digits=0)
"""


def test_a_chapter_whose_node_dies_runs_again_on_another(cluster, small_book, add_chapter):
    for name, dies in (("lives", False), ("dies", True)):
        add_chapter(name, WAITS.format(name=name, dies=dies))
    seen = {name: small_book / "_build" / f"{name}.nodes" for name in ("lives", "dies")}
    targets = [f"_build/executed/quick/{name}.ipynb" for name in seen]
    log = small_book / "snakemake.log"
    command = [sys.executable, "-m", "snakemake", *SLURM, *targets]
    with log.open("w") as out:
        build = subprocess.Popen(command, cwd=small_book, env=cluster.environment, stdout=out, stderr=out)
    try:
        wait(lambda: all(path.exists() and path.read_text() for path in seen.values()), 120, "both chapters begin")
        began = {name: path.read_text().split() for name, path in seen.items()}
        assert sorted(began["lives"] + began["dies"]) == ["n1", "n2"]

        cluster.kill(began["dies"][0])
        assert build.wait(180) == 0, log.read_text()
    finally:
        build.kill()
        build.wait(10)

    assert seen["lives"].read_text().split() == began["lives"]  # what was finished stays
    assert seen["dies"].read_text().split() == began["dies"] + began["lives"]
    assert all(last_run.executed(small_book, name, "quick") is not None for name in seen)
    assert cluster.ask("sinfo", "-h", "-N", "-n", began["dies"][0], "-o", "%t").startswith("down")
