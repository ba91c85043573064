"""Two hosts on one machine: network namespaces, each with an address of its own, and a cable."""

import os
import shutil
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path

from tests.apps.commands import ROOT


@dataclass(frozen=True, slots=True)
class Host:
    """A network namespace whose only way out is one end of the cable."""

    name: str
    link: str
    address: str

    def start(
        self, said: Path, *arguments: str, cwd: Path, **variables: str
    ) -> subprocess.Popen[bytes]:
        """`python arguments…` on this host, with all it says in a file."""
        environment = {
            **{key: value for key, value in os.environ.items() if not key.startswith("WANDB_")},
            "PYTHONPATH": str(ROOT),
            "OMP_NUM_THREADS": "1",
            "HF_HUB_OFFLINE": "1",
            "WANDB_MODE": "disabled",
            "GLOO_SOCKET_IFNAME": self.link,
        }
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK", "MASTER_ADDR", "MASTER_PORT"):
            environment.pop(name, None)
        environment.update(variables)
        with open(said, "wb") as output:
            return subprocess.Popen(
                [*self._enter(), sys.executable, *arguments],
                cwd=cwd,
                env=environment,
                stdout=output,
                stderr=output,
            )

    def _enter(self) -> list[str]:
        """Into the namespace, with a host's name of its own: processes go by it."""
        named = ("unshare", "--uts", "sh", "-c", 'hostname "$0" && exec "$@"', self.name)
        return ["ip", "netns", "exec", self.name, *named]

    def unplug(self) -> None:
        """Take the link down: packets vanish, and nobody is told."""
        _ip("-n", self.name, "link", "set", self.link, "down")


@contextmanager
def two_hosts() -> Iterator[tuple[Host, Host]]:
    """Two hosts and the cable between them; gone afterwards, with all that runs on them."""
    suffix = os.getpid()  # several may test at once
    hosts = tuple(
        Host(f"sae{end}-{suffix}", f"sae{end}{suffix}", f"10.99.0.{end}") for end in (1, 2)
    )
    try:
        for host in hosts:
            _ip("netns", "add", host.name)
            _ip("-n", host.name, "link", "set", "lo", "up")
        one, two = hosts
        ends = ("type", "veth", "peer", "name", two.link, "netns", two.name)
        _ip("link", "add", one.link, "netns", one.name, *ends)
        for host in hosts:
            _ip("-n", host.name, "address", "add", f"{host.address}/24", "dev", host.link)
            _ip("-n", host.name, "link", "set", host.link, "up")
        yield one, two
    finally:
        for host in hosts:
            pids = subprocess.run(["ip", "netns", "pids", host.name], capture_output=True).stdout
            for pid in pids.split():
                subprocess.run(["kill", "-KILL", pid], capture_output=True)
            subprocess.run(["ip", "netns", "del", host.name], capture_output=True)


def missing() -> str | None:
    """Why there can be no namespaces here; None if there can."""
    if shutil.which("ip") is None or shutil.which("unshare") is None:
        return "ip and unshare are not installed: apt-get install iproute2 util-linux"
    probe = subprocess.run(["unshare", "--net", "true"], capture_output=True)
    allowed = os.geteuid() == 0 and probe.returncode == 0
    return None if allowed else "network namespaces need root and the right to make them"


def _ip(*arguments: str) -> None:
    subprocess.run(["ip", *arguments], check=True)
