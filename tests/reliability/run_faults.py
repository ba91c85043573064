"""Faults 15 to 25: of activations, runs, checkpoints, names and secrets."""

import io
import pickle
import shutil
import zlib
from pathlib import Path
from typing import Any

import torch
from transformers import AutoModelForCausalLM

from sae_dist.apps import evaluate, harvest, report, train, verify
from sae_dist.common.files import file_crc32c, read_json, to_json, write_json
from sae_dist.store import write_store
from tests.harvest.tiny import tokenizer
from tests.reliability.bench import HARVEST, TRAIN, Bench, Desk, Outcome

CANARY = "hf_canaryInEveryFile0123456789"
CHECKPOINTS = "runs/r/checkpoints"


def other_width(bench: Bench) -> list[Outcome]:
    """The coders of a run, measured on a store of another width."""
    desk = bench.fresh("runs")
    rows_ND = torch.randn(2048, 24, generator=torch.Generator().manual_seed(0))
    write_store(desk.folder / "wide", {"in": rows_ND}, held_out=0.5, shard_mib=0.02, chunk_mib=0.01)
    return [desk.refused(evaluate.main, "run=r", "store=wide")]


def not_finite(bench: Bench) -> list[Outcome]:
    """A language model that gives NaN from one token on: refused, or on demand dropped, counted."""
    desk = bench.fresh("lm", "text")
    with open(desk.folder / "text" / "02.txt", "a") as file:
        file.write(" of")  # nowhere else in the text
    model = AutoModelForCausalLM.from_pretrained(desk.folder / "lm")
    with torch.no_grad():
        model.get_input_embeddings().weight[tokenizer().convert_tokens_to_ids("of")] = torch.nan
    model.save_pretrained(desk.folder / "lm")
    large = ("writer.shard_mib=0.3", "writer.held_out=0")
    refused = desk.run(harvest.main, *HARVEST, *large)
    assert not (desk.folder / "acts" / "MANIFEST.json").exists()
    drop = ("store=dropped", "writer.non_finite=drop")
    dropped = desk.run(harvest.main, *HARVEST, *large, *drop)
    assert dropped.status == 0 and "tokens dropped" in dropped.said, dropped.said
    assert desk.run(verify.main, "store=dropped").status == 0
    return [refused]


def small_store(bench: Bench) -> list[Outcome]:
    return [bench.fresh("store").refused(train.main, *TRAIN, "batch_tokens=4096", "tokens=8192")]


def changed(bench: Bench) -> list[Outcome]:
    """Seed, batch and manifest, one after the other."""
    desk = bench.fresh("store", "runs")
    outcomes = [
        desk.refused(train.main, *TRAIN, change) for change in ("seed=1", "batch_tokens=32")
    ]
    rows_ND = torch.randn(2048, 16, generator=torch.Generator().manual_seed(0))
    write_store(desk.folder / "other", {"in": rows_ND}, shard_mib=0.02, chunk_mib=0.01)
    return [*outcomes, desk.refused(train.main, *TRAIN, "store=other")]


def unfinished_save(bench: Bench) -> list[Outcome]:
    """A crash before CHECKPOINT.json: the run goes on from the checkpoint before."""
    desk = bench.fresh("store", "runs")
    saves = desk.folder / CHECKPOINTS
    (saves / "step-10").rename(saves / "step-10.tmp-0123")
    (saves / "step-10.tmp-0123" / "CHECKPOINT.json").unlink()
    (saves / "latest").write_text("step-5")
    return [as_undisturbed(bench, desk, "step-5")]


def wrong_latest(bench: Bench) -> list[Outcome]:
    """Empty, dangling, a name outside, a link outside: the newest complete one is taken."""
    outcomes = []
    for pointer in ("", "step-77", "../../../elsewhere"):
        desk = bench.fresh("store", "runs")
        shutil.copytree(desk.folder / CHECKPOINTS / "step-5", desk.folder / "elsewhere")
        (desk.folder / CHECKPOINTS / "latest").write_text(pointer)
        outcomes.append(as_undisturbed(bench, desk, "step-10"))
    desk = bench.fresh("store", "runs")
    latest = desk.folder / CHECKPOINTS / "latest"
    latest.unlink()
    latest.symlink_to(desk.folder / "nowhere")
    return [*outcomes, as_undisturbed(bench, desk, "step-10")]


def as_undisturbed(bench: Bench, desk: Desk, start: str) -> Outcome:
    """Go on from a checkpoint, to the same coders."""
    outcome = desk.run(train.main, *TRAIN)
    assert f"{CHECKPOINTS}/{start}" in outcome.said, outcome.said
    for coder in (bench.runs / "r" / "coders").rglob("*.safetensors"):
        found = desk.folder / "runs" / coder.relative_to(bench.runs)
        assert found.read_bytes() == coder.read_bytes()
    return outcome


class Canary:
    """An object whose unpickling leaves a file."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> Any:
        return Path.touch, (self.path,)


def malicious(bench: Bench) -> list[Outcome]:
    """A pickle as `.metadata`, with its checksums made to fit, and as the weights of a coder."""
    desk = bench.fresh("store", "runs")
    canary = desk.folder / "canary"
    save = desk.folder / CHECKPOINTS / "step-10"
    (save / ".metadata").write_bytes(pickle.dumps(Canary(canary)))
    unsealed = desk.refused(train.main, *TRAIN)
    reseal(save, ".metadata")
    outcomes = [unsealed, desk.refused(train.main, *TRAIN)]
    weights = io.BytesIO()
    torch.save({"W_enc": Canary(canary)}, weights)
    (coder,) = (desk.folder / "runs" / "r" / "coders").rglob("coder.safetensors")
    coder.with_suffix(".pt").write_bytes(weights.getvalue())
    coder.write_bytes(weights.getvalue())
    outcomes.append(desk.refused(evaluate.main, "run=r"))
    assert not canary.exists()
    return outcomes


def reseal(save: Path, name: str) -> None:
    """Make the record of a checkpoint agree with one of its files."""
    record = read_json(save / "CHECKPOINT.json")
    del record["crc32"]
    path = save / name
    record["files"][name] = {"bytes": path.stat().st_size, "crc32c": file_crc32c(path)}
    write_json(save / "CHECKPOINT.json", {**record, "crc32": zlib.crc32(to_json(record))})


def names_that_lead_out(bench: Bench) -> list[Outcome]:
    desk = bench.fresh("store")
    outside = desk.folder / "outside"
    outside.mkdir()
    (desk.folder / "runs").mkdir()
    (desk.folder / "runs" / "link").symlink_to(outside)
    names = ("../../x", str(outside / "x"), "a\0b", "link")
    outcomes = [desk.refused(train.main, *TRAIN, f"run={name}") for name in names]
    assert not list(outside.iterdir()) and not (desk.folder.parent / "x").exists()
    return outcomes


def unknown_keys(bench: Bench) -> list[Outcome]:
    desk = bench.fresh("store")
    keys = ("_target_=torch.hub.load", "+coder._target_=torch.hub.load", "num_latents=3")
    return [desk.refused(train.main, *TRAIN, key) for key in keys]


def secrets(bench: Bench) -> list[Outcome]:
    """A token in the environment and in a URL: in no file, and in nothing that is said."""
    desk = bench.fresh("lm", "text")
    url = f"text.path=https://user:{CANARY}@localhost/text"
    keys = dict.fromkeys(("HF_TOKEN", "WANDB_API_KEY"), CANARY)
    site = ("store=acts", "site=resid_post.1", "log.wandb=offline")
    outcomes = [
        desk.run(harvest.main, *HARVEST, **keys),
        desk.run(train.main, *TRAIN, *site, WANDB_DIR=str(desk.folder), **keys),
        desk.run(evaluate.main, "run=r", "lm_sequences=2", **keys),
        desk.run(report.main, "run=r", **keys),
    ]
    assert [outcome.status for outcome in outcomes] == [0] * 4, outcomes[-1].said
    refused = desk.refused(harvest.main, *HARVEST, "store=other", url, **keys)
    assert not any(CANARY in outcome.said for outcome in [*outcomes, refused])
    assert not [name for name, data in desk.files().items() if CANARY.encode() in data]
    return [refused]
