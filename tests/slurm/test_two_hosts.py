"""The commands across two hosts that share a disk, and what happens when the cable is pulled."""

import time
from pathlib import Path

import pytest

from tests.apps.commands import TORCHRUN, command, launch
from tests.harvest.tiny import contents
from tests.slurm.cluster import wait_for
from tests.slurm.hosts import Host, missing, two_hosts
from tests.slurm.small import harvest, lines, make_home, train, weights

pytestmark = [
    pytest.mark.slow,
    pytest.mark.skipif(missing() is not None, reason=str(missing())),
]
PORT = "29400"  # nothing else listens inside the namespaces


@pytest.fixture(scope="module")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_home(tmp_path_factory.mktemp("home"))


def on_both(hosts: tuple[Host, Host], home: Path, commands: list[list[str]]) -> list[str]:
    """Run a command on each host to its good end; what each said."""
    said = [home / f"{host.name}.said" for host in hosts]
    started = [
        host.start(path, *words, cwd=home)
        for host, path, words in zip(hosts, said, commands, strict=True)
    ]
    statuses = [process.wait(300) for process in started]
    texts = [path.read_text() for path in said]
    assert statuses == [0, 0], "\n".join(texts)
    return texts


def torchrun(hosts: tuple[Host, Host], node: int, *arguments: str) -> list[str]:
    """torchrun with c10d's rendezvous on the first host."""
    return [
        *("-m", "torch.distributed.run", "--nnodes", "2", "--nproc-per-node", "1"),
        *("--node-rank", str(node), "--local-addr", hosts[node].address),
        *("--rdzv-backend", "c10d", "--rdzv-endpoint", f"{hosts[0].address}:{PORT}"),
        *("--rdzv-conf", f"is_host={1 - node}", "--rdzv-id", "test", *arguments),
    ]


def test_a_ladder_on_two_hosts_is_the_one_of_one_host(home: Path) -> None:
    alone = command(*TORCHRUN, "2", launch("train"), *train(home, "one-host"), cwd=home)
    assert alone.returncode == 0, alone.stderr
    words = (launch("train"), *train(home, "two-hosts"))
    with two_hosts() as hosts:
        begun = time.monotonic()
        on_both(hosts, home, [torchrun(hosts, node, *words) for node in (0, 1)])
        print(f"\ntwo hosts trained a ladder: {time.monotonic() - begun:.0f} s")
    assert weights(home, "two-hosts") == weights(home, "one-host") != {}


def test_two_hosts_harvest_what_one_does(home: Path) -> None:
    def accelerate(hosts: tuple[Host, Host], node: int) -> list[str]:
        return [
            *("-m", "accelerate.commands.launch", "--multi_gpu", "--num_processes", "2"),
            *("--num_machines", "2", "--machine_rank", str(node)),
            *("--main_process_ip", hosts[0].address, "--main_process_port", PORT),
            *("--mixed_precision", "no", "--dynamo_backend", "no"),
            *(launch("harvest"), *harvest(home, "across")),
        ]

    with two_hosts() as hosts:
        begun = time.monotonic()
        on_both(hosts, home, [accelerate(hosts, node) for node in (0, 1)])
        print(f"\ntwo hosts harvested a store: {time.monotonic() - begun:.0f} s")
    assert contents(home / "across") == contents(home / "store")


def test_a_pulled_cable_ends_both_hosts_within_a_minute(home: Path) -> None:
    """Started as `train.sbatch` does, a process a host and no agent between."""
    words = (launch("train"), *train(home, "pulled"), "tokens=4M")
    with two_hosts() as hosts:
        world = {"WORLD_SIZE": "2", "MASTER_ADDR": hosts[0].address, "MASTER_PORT": PORT}
        started = [
            host.start(home / f"{host.name}.said", *words, cwd=home, RANK=str(rank), **world)
            for rank, host in enumerate(hosts)
        ]
        try:
            wait_for(lambda: lines(home, "pulled") > 0, 300)
            hosts[1].unplug()
            pulled = time.monotonic()
            statuses = [process.wait(120) for process in started]
            seconds = time.monotonic() - pulled
        finally:
            for process in started:
                process.kill()
                process.wait()
    assert 0 not in statuses
    assert seconds <= 60
    print(f"\na pulled cable ended both hosts after {seconds:.0f} s, with {statuses}")
