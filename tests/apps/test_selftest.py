"""The self-test: on a machine that keeps its promises, and on one that does not."""

import json
import os
import re
import shutil
import signal
import socket
import sys
from pathlib import Path

import psutil
import pytest
import torch.distributed as dist

import sae_dist
from sae_dist.apps import selftest
from sae_dist.common.errors import UserError
from sae_dist.common.log import log_info, progress, warn
from sae_dist.config import SelftestConfig
from sae_dist.parallel import MachineConfig, World
from sae_dist.selftest import (
    CHECKS,
    Check,
    Found,
    Place,
    Result,
    filesystem,
    perform,
    perform_alone,
    speed,
    table,
)
from tests.apps.commands import command, installed
from tests.processes import alone, run_on

FILESYSTEM = [check for check in CHECKS if check.run.__module__ == filesystem.__name__]


def made_on(world: World, folder: Path, checks: list[Check]) -> list[Result]:
    return perform(checks, Place(folder, world))


def fails_on_rank_1(place: Place) -> Found:
    place.together(lambda: 1 / (1 - place.world.rank))
    return Found("unreached", True)


def differs(place: Place) -> Found:
    return Found(f"rank {place.world.rank}", place.world.rank == 0)


def test_filesystem_checks_hold_here_and_all_ranks_agree(tmp_path: Path) -> None:
    first, second = run_on(2, made_on, tmp_path, FILESYSTEM)
    assert first == second and len(first) == 6
    assert [result.check for result in first if not result.ok] == []


def test_a_failure_on_one_rank_is_a_result_on_all(tmp_path: Path) -> None:
    checks = [Check("fails", "", fails_on_rank_1), Check("differs", "", differs), *FILESYSTEM[:1]]
    for results in run_on(2, made_on, tmp_path, checks):
        assert [result.ok for result in results] == [False, False, True]
        assert results[0].found == "rank 1: ZeroDivisionError: division by zero"
        assert results[1].found == "rank 0"


def says_much(place: Place) -> Found:
    log_info("said")
    warn("warned of")
    for _ in progress(range(3), desc="inner"):
        pass
    return Found("quiet", True)


MESSAGES = {"latency_us", "devices", "devices_per_node"}
HOSTS = {  # of four ranks: what is measured besides
    "aaaa": {"in_node_gbps"},
    "abab": {"in_node_gbps", "between_nodes_gbps"},
    "abcd": {"between_nodes_gbps"},
}


def networks(world: World) -> list[dict[str, float]]:
    """What the check of sums measures where the ranks are on such hosts."""
    found = []
    for hosts in HOSTS:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(socket, "gethostname", lambda named=hosts: named[world.rank])
            patch.setattr(speed, "_SUM_BYTES", 1 << 16)
            (result,) = perform([Check("sums", "", speed.sums)], Place(Path(), world))
        assert result.ok, result.found
        found.append(result.measured)
    return found


def test_messages_are_measured_in_a_node_and_between_nodes() -> None:
    first, *others = run_on(4, networks)
    assert others == [first] * 3  # which all ranks know
    for measured, besides in zip(first, HOSTS.values(), strict=True):
        assert measured.keys() == MESSAGES | besides and min(measured.values()) > 0
    assert [measured["devices_per_node"] for measured in first] == [4, 2, 1]


def test_what_was_measured_is_a_machine_that_training_takes(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    measured = {
        "devices": 16,
        "devices_per_node": 8,
        "latency_us": 12.345678,
        "in_node_gbps": 310.0,
    }
    found = [Result("a", "b", "c", 1.0, True), Result("sums", "b", "c", 1.0, True, measured)]
    monkeypatch.setattr(selftest, "perform_alone", lambda folder, num: found)
    sae_dist.selftest(SelftestConfig(folder=str(tmp_path)))
    (written,) = tmp_path.rglob("measured.yaml")
    assert written.read_text() in capsys.readouterr().out
    folder = f"hydra.searchpath=[{written.parents[1]}]"
    for given in (["store=a", "run=b"], ["store=a", "run=b", "machine.between_nodes_gbps=40"]):
        config = sae_dist.compose("train", [folder, "machine=measured", *given])
        between = 40 if len(given) > 2 else MachineConfig().between_nodes_gbps
        expected = measured | {"latency_us": 12.35, "between_nodes_gbps": between}
        assert config.machine == MachineConfig(**expected)


def test_a_log_file_has_a_line_for_each_check_and_nothing_from_within(
    tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    checks = [Check("first", "", says_much), Check("second", "", says_much)]
    perform(checks, Place(tmp_path, alone()))
    log_info("said again")
    lines = ["check 1 of 2: first", "check 2 of 2: second", "said again"]
    assert capsys.readouterr().err.splitlines() == lines


def test_a_terminal_has_one_bar_that_goes_in_the_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    perform([Check("first", "", says_much)], Place(tmp_path, alone()))
    shown = capsys.readouterr().err.split("\r")
    assert any(re.fullmatch(r"selftest 0/1 \|.*\| \d\d:\d\d, first *", line) for line in shown)
    assert not any("said" in line or "warned" in line or "inner" in line for line in shown)
    assert shown[-1].strip() == "" and not any("\n" in line for line in shown)


def copies(source: Path, target: Path) -> None:
    """A filesystem's link that lets everyone in."""
    shutil.copyfile(source, target)


def test_a_filesystem_that_breaks_a_promise_is_found(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("os.link", copies)
    monkeypatch.setattr(filesystem, "write_atomic", lambda path, data: path.write_bytes(data[:9]))
    results = perform(FILESYSTEM, Place(tmp_path, alone()))
    assert [r.check for r in results if not r.ok] == ["claims", "atomic renames"]
    assert "80 owners" in results[1].found


def test_the_table_has_100_columns_and_every_word(tmp_path: Path) -> None:
    results = [Result(check.name, check.promise, "found " * 20, 1.25, True) for check in CHECKS]
    results.append(Result("last", "a promise", "nothing", 100.0, False))
    lines = table(results).splitlines()
    assert max(map(len, lines)) <= 100 and lines[-1].endswith("100.0    NO")
    assert sum(line.count("found") for line in lines) == 1 + 20 * len(CHECKS)


def test_a_failed_check_ends_in_one_line_and_leaves_the_record(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
    launched = {"RANK": "0", "WORLD_SIZE": "1", "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": "0"}
    for name, value in launched.items():
        monkeypatch.setenv(name, value)
    monkeypatch.setattr(selftest, "CHECKS", (Check("odd", "even", lambda _: Found("3", False)),))
    monkeypatch.setattr("sys.argv", ["selftest", f"folder={tmp_path}"])
    with pytest.raises(SystemExit, match="2"):
        selftest.main()
    printed = capsys.readouterr()
    assert re.search(r"odd +even +3 +0\.0 +NO", printed.out)
    (line,) = (line for line in printed.err.splitlines() if line.startswith("error"))
    assert line.startswith(f"error: 1 of 1 checks failed in {tmp_path}/selftest-") and "odd" in line
    (record,) = (path for path in tmp_path.rglob("*") if path.is_file())
    (result,) = json.loads(record.read_text())["results"]
    assert (result["check"], result["found"], result["ok"]) == ("odd", "3", False)
    with pytest.raises(UserError, match="1 of 1 checks failed in .*: odd; see selftest.json there"):
        sae_dist.selftest(SelftestConfig(folder=str(tmp_path)))


def test_it_is_called_from_python_as_other_commands_are(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    monkeypatch.delenv("RANK", raising=False)
    monkeypatch.setattr(
        selftest, "perform_alone", lambda folder, num: [Result("a", "b", "c", num, True)]
    )
    before = signal.getsignal(signal.SIGTERM)
    config = SelftestConfig(folder=str(tmp_path), processes=3)
    assert sae_dist.selftest(config) == [Result("a", "b", "c", 3, True)]
    assert re.search(r"a +b +c +3\.0 +yes", capsys.readouterr().out)
    (record,) = (path for path in tmp_path.rglob("*") if path.is_file())
    assert json.loads(record.read_text())["ranks"] == 3
    assert signal.getsignal(signal.SIGTERM) is before
    with pytest.raises(UserError, match="^no folder nowhere; expected one to test in"):
        sae_dist.selftest(SelftestConfig(folder="nowhere"))


def test_processes_that_end_early_are_told(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(sys, "executable", "/bin/false")
    with pytest.raises(UserError, match=r"found processes .* ended with \[1, 1\]; expected 0"):
        perform_alone(tmp_path, 2)


@pytest.mark.slow
def test_the_whole_command_leaves_its_record_and_no_process(tmp_path: Path) -> None:
    done = command(*installed("selftest"), f"folder={tmp_path}", cwd=tmp_path)
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    machine, record = sorted(path for path in tmp_path.rglob("*") if path.is_file())
    results = json.loads(record.read_text())["results"]
    assert "in_node_gbps: " in machine.read_text()
    assert [result["check"] for result in results] == [check.name for check in CHECKS]
    assert all(result["ok"] for result in results)
    mine = {process.pid: process.cmdline() for process in psutil.process_iter() if owned(process)}
    assert not [words for words in mine.values() if any(str(tmp_path) in w for w in words)]


def owned(process: psutil.Process) -> bool:
    """Whether a process is this user's and still there to be asked."""
    try:
        return process.uids().real == os.getuid() and bool(process.cmdline())
    except psutil.Error:
        return False
