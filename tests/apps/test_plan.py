"""sae-dist plan as a user runs it."""

import json
import re
from pathlib import Path

import pytest

from sae_dist.apps import plan
from tests.harvest.tiny import tokenizer
from tests.lm.tiny import tiny_model

TINY = (
    *("harvest.lm.name=lm", "harvest.lm=custom", "harvest.text=stdlib", "harvest.tokens=64K"),
    *("harvest.sites=[resid_post.1]", "harvest.store=store", "harvest.writer.chunk_mib=0.05"),
    *("harvest.writer.shard_mib=0.2", "train.store=store", "train.run=a", "train.tokens=64K"),
    *("train.coder=topk", "train.coder.num_latents=256", "train.batch_tokens=1024"),
)


@pytest.fixture
def home(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    tiny_model("llama").save_pretrained(tmp_path / "lm")
    tokenizer().save_pretrained(tmp_path / "lm")
    monkeypatch.chdir(tmp_path)
    return tmp_path


def run(*arguments: str, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("sys.argv", ["sae-dist plan", *arguments])
    plan.main()


def test_a_plan_of_a_local_model(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    given = ("machine.devices=1", "machine.disk_free_gb=1")
    run(*TINY, *given, monkeypatch=monkeypatch)
    printed = capsys.readouterr().out
    assert "lm (" in printed and "2 layers run" in printed and "all rates as given" in printed
    assert "topk-256-k32-resid_post.1" in printed and printed.endswith("all of it fits\n")
    run(*TINY, *given, "json=true", "to=plan.json", monkeypatch=monkeypatch)
    plain = json.loads(capsys.readouterr().out)
    assert plain == json.loads((home / "plan.json").read_text())
    assert plain["training"]["num_steps"] == 62 and plain["warnings"] == []
    assert plain["harvest"]["store_bytes"] == sum(plain["harvest"]["bytes_by_array"].values())
    assert not (home / "store").exists() and not (home / "runs").exists()


def test_a_plan_for_this_machine(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run(*TINY, "measure=true", "json=true", monkeypatch=monkeypatch)
    plain = json.loads(capsys.readouterr().out)
    machine = plain["machine"]
    assert {"flops", "memory_gbps", "disk_gbps", "disk_free_gb"} <= set(plain["measured"])
    assert min(machine[name] for name in ("flops", "memory_gbps", "disk_gbps")) > 0
    assert machine["efficiency"] == 1.0
    assert sorted(path.name for path in home.iterdir()) == ["lm"]  # what was written is gone


def test_a_disk_that_holds_one_but_not_both_is_told(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    run(*TINY, "json=true", monkeypatch=monkeypatch)
    plain = json.loads(capsys.readouterr().out)
    training = plain["training"]["checkpoint_bytes"] + plain["training"]["coder_bytes"]
    free = max(plain["harvest"]["store_bytes"], training) / 1e9
    given = ("machine.devices=1", f"machine.disk_free_gb={free}")
    run(*TINY, *given, monkeypatch=monkeypatch)
    assert capsys.readouterr().out.count("warning: disk: store, checkpoints and coders") == 1


def test_without_a_number_training_takes_what_is_harvested_once(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for given in (TINY, LIVE):
        asked = (*given, "train.tokens=null", "harvest.writer.held_out=0.1", "json=true")
        run(*asked, monkeypatch=monkeypatch)
        harvested = 64_000 // 1024 * 1024
        steps = json.loads(capsys.readouterr().out)["training"]["num_steps"]
        assert steps == round(0.9 * harvested / 1024)


LIVE = (*(one for one in TINY if not one.startswith("harvest.store")), "train.store=live")


def test_a_plan_without_a_store_counts_the_lm_beside_training(
    home: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    plans = []
    for given in ((*TINY, "harvest.tokens=128K"), (*LIVE, "harvest.tokens=128K")):
        run(*given, "machine.devices=1", "json=true", monkeypatch=monkeypatch)
        plans.append(json.loads(capsys.readouterr().out))
    stored, live = plans
    assert live["harvest"]["store_bytes"] == live["training"]["read_bytes"] == 0
    assert live["warnings"] == []
    training, steps = live["training"], stored["training"]["compute_hours"]
    trained_share = training["num_tokens"] / 128_000
    passes = stored["harvest"]["compute_hours"] * trained_share
    assert training["lm_hours"] == pytest.approx(passes, rel=0.01)
    assert training["hours"] == pytest.approx(steps + training["lm_hours"])
    assert training["device_bytes"]["lm"] == sum(stored["harvest"]["device_bytes"].values())
    run(*LIVE, "harvest.tokens=32K", "machine.devices=1", monkeypatch=monkeypatch)
    printed = capsys.readouterr().out
    assert "none stored" in printed and "h on the same devices" in printed
    assert "warning: tokens: training takes 63,488, 2.08 times" in printed  # 5 % are held out
    assert not (home / "live").exists()


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ("harvest.lm.tensor=2", "harvest.lm.tensor=2; expected 1 with store=live"),
        ("harvest.writer.non_finite=drop", "harvest to a store"),
        ("harvest.tokens=100", "one pass of the language model; raise it"),
    ],
)
def test_what_cannot_be_live_is_refused_by_the_plan(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    given: str,
    said: str,
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(*LIVE, given, monkeypatch=monkeypatch)
    (line,) = capsys.readouterr().err.splitlines()
    assert said in line


@pytest.mark.parametrize(
    ("given", "said"),
    [
        ((), "harvest.sites=…, harvest.lm.name=… must be given; see --help"),
        (("harvest.tokenz=1M",), "found key harvest.tokenz; .*did you mean harvest.tokens"),
    ],
)
def test_what_is_wrong_says_of_which_command_it_is(
    home: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture,
    given: tuple[str, ...],
    said: str,
) -> None:
    with pytest.raises(SystemExit, match="2"):
        run(*given, monkeypatch=monkeypatch)
    (line,) = capsys.readouterr().err.splitlines()
    assert re.search(said, line), line
