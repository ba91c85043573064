"""Bad stores given to the commands: each ends in one line that says what, where and what to do."""

import contextlib
import json
import os
import re
import shutil
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch.distributed as dist
from numcodecs import Zstd

from sae_dist.apps import evaluate, train, verify
from sae_dist.common.errors import UserError
from sae_dist.common.memory import peak_bytes
from sae_dist.store import StoreConfig, StoreWriter, write_store
from sae_dist.store import verify as verify_store
from tests.harvest.tiny import contents
from tests.processes import start
from tests.store.damage import flip, forge, swap
from tests.train.ladders import make_store

SETTINGS = ("site=in", "coder=topk", "coder.num_latents=32", "coder.k=4")
STREAM = ("tokens=1280", "batch_tokens=64", "stream.bucket_tokens=640")
TRAIN = ("store=store", "run=r", *SETTINGS, *STREAM, "log.wandb=disabled")
SHARD, METADATA = "rows/activations/in/c.2.0", "rows/activations/in/zarr.json"
Command = Callable[..., list[str]]


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return make_store(tmp_path_factory.mktemp("whole") / "store", num_tokens=2048)


@pytest.fixture
def store(whole: Path, tmp_path: Path) -> Path:
    shutil.copytree(whole, tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> Command:
    """Run a command that must fail; the lines it says, the last of which is the error."""
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "LOCAL_RANK", "WORLD_SIZE"):
        monkeypatch.delenv(name, raising=False)

    def run(main: Callable[[], None], *arguments: str) -> list[str]:
        if dist.is_initialized():
            dist.destroy_process_group()
        monkeypatch.setattr("sys.argv", ["command", *arguments])
        with pytest.raises(SystemExit, match="2"):
            main()
        lines = capsys.readouterr().err.splitlines()
        assert [line.startswith("error: ") for line in lines if "error" in line] == [True]
        return lines

    return run


def edit(path: Path, **changes: Any) -> None:
    path.write_text(json.dumps({**json.loads(path.read_text()), **changes}))


def grid(*shape: int) -> dict[str, Any]:
    return {"name": "regular", "configuration": {"chunk_shape": list(shape)}}


Harm = Callable[[Path], Any]
OF_THE_SEAL: dict[str, tuple[Harm, str, str]] = {
    "manifest": (lambda s: flip(s / "MANIFEST.json", 999), "MANIFEST.json", "altered"),
    "forged": (
        lambda s: forge(s / "MANIFEST.json", lambda m: m.update(num_sequences=2**40)),
        "MANIFEST.json",
        r"with rows of \d+ units; expected \d+",
    ),
    "sums": (lambda s: flip(s / "SUMS.bin", 99), "SUMS.bin", "with other checksums"),
    "no sums": (lambda s: (s / "SUMS.bin").unlink(), "SUMS.bin", "missing"),
}


@pytest.mark.parametrize("case", OF_THE_SEAL.values(), ids=OF_THE_SEAL.keys())
def test_a_store_with_a_bad_seal_is_neither_trained_on_nor_verified(
    store: Path, run: Command, case: tuple[Harm, str, str]
) -> None:
    harm, file, said = case
    harm(store)
    (line,) = run(train.main, *TRAIN)
    assert re.search(rf"^error: found store/{file} .*{said}", line), line
    assert "; expected " in line and "; restore it" in line
    assert f"error: {verify_store('store')[0]}" == line
    assert not (store.parent / "runs").exists()


def every(harm: Harm) -> Harm:
    return lambda store: [harm(file) for file in (store / "rows/activations/in").glob("c.*")]


def exchange(store: Path) -> None:
    files = sorted((store / "rows/activations/in").glob("c.*"))[:-1]  # the last is shorter
    for first, second in zip(files[::2], files[1::2], strict=False):
        swap(first, second)


AT_READING: dict[str, tuple[Harm, str, str]] = {
    "1 deleted": (every(Path.unlink), r"\(\[Errno 2\] No such file", "missing"),
    "2 truncated": (every(lambda f: os.truncate(f, 99)), r"\(file too short", "with 99 bytes"),
    "3 empty": (every(lambda f: os.truncate(f, 0)), r"\(file too short", "with 0 bytes"),
    "4 one bit flipped": (every(lambda file: flip(file, 99)), r"\(crc32c ", "altered"),
    "5 two swapped": (exchange, r"\(crc32c ", "altered"),
}


@pytest.mark.parametrize("case", AT_READING.values(), ids=AT_READING.keys())
def test_bad_files_end_training_when_they_are_read(
    store: Path, run: Command, case: tuple[Harm, str, str]
) -> None:
    harm, at_reading, at_verify = case
    harm(store)
    (*_, line) = run(train.main, *TRAIN)
    name = r"store/rows/activations/in/c\.\d+\.0"
    assert re.match(rf"error: found {name} with chunk \d+ damaged {at_reading}", line), line
    assert "; expected the bytes that were committed; run sae-dist verify" in line
    assert at_verify in "".join(run(verify.main, "store=store"))


def bomb(store: Path) -> None:
    """A shard of a few KB that unfolds to 256 MiB, in a store whose metadata says so."""
    (store / SHARD).write_bytes(Zstd(level=1).encode(np.zeros(1 << 28, np.uint8)))
    configuration = {"name": "zstd", "configuration": {"level": 0, "checksum": False}}
    edit(store / METADATA, codecs=[{"name": "bytes"}, configuration])


OF_METADATA: dict[str, Harm] = {
    "11 shape": lambda s: edit(s / METADATA, shape=[2**62]),
    "12 chunk 0": lambda s: edit(s / METADATA, chunk_grid=grid(0, 16)),
    "14 nested": lambda s: (s / METADATA).write_text("[" * 9**6),
    "14 no JSON": lambda s: (s / METADATA).write_bytes(b"\xff\0"),
    "16 dtype": lambda s: edit(s / METADATA, data_type="float64"),
}


@pytest.mark.parametrize("harm", OF_METADATA.values(), ids=OF_METADATA.keys())
def test_what_metadata_says_misleads_nobody_and_is_told(
    store: Path, run: Command, harm: Harm, monkeypatch: pytest.MonkeyPatch
) -> None:
    harm(store)
    said = "".join(run(verify.main, "store=store"))
    assert f"found store/{METADATA} altered; expected the array's metadata; restore it" in said
    monkeypatch.setattr("sys.argv", ["command", *TRAIN])
    train.main()


def test_6_leftovers_are_told_and_passed_over(
    store: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture
) -> None:
    for name in ("c.0.0.abc.partial", ".c.0.0.abc.tmp"):
        (store / "rows/activations/in" / name).write_bytes(b"half")
    monkeypatch.setattr("sys.argv", ["command", f"store={store}"])
    verify.main()
    said = capsys.readouterr().err
    assert said.count("warning: found") == 2 and "which a killed writer left" in said
    assert "store is whole" in said


def test_10_an_unsealed_store_is_not_trained_on(store: Path, run: Command) -> None:
    shutil.rmtree(store)
    StoreWriter.create(store, {"in": 16}, 1, StoreConfig(), {}, 2048)
    (line,) = run(train.main, *TRAIN)
    assert "found an unsealed store at store; expected MANIFEST.json; finish the harvest" in line


def train_on_a_bomb(folder: Path) -> None:
    """Train as the command does; what it said and how much more the process held, in files."""
    os.chdir(folder)
    sys.argv = ["command", *TRAIN]
    before = peak_bytes()
    with open("said", "w") as said, contextlib.redirect_stderr(said):
        try:
            train.main()
        finally:
            Path("grown").write_text(str(peak_bytes() - before))


def test_13_a_bomb_does_not_go_off(store: Path) -> None:
    bomb(store)
    process = start(train_on_a_bomb, store.parent)
    process.join(300)
    assert process.exitcode == 2
    said = (store.parent / "said").read_text()
    assert re.search(r"error: found store/rows/activations/in/c\.2\.0 with chunk", said)
    grown = int((store.parent / "grown").read_text())
    print(f"the process grew by {grown / 1e6:.1f} MB")
    assert grown < 100e6


def test_15_a_coder_meets_a_store_of_another_width(
    store: Path, run: Command, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr("sys.argv", ["command", *TRAIN])
    train.main()
    x = np.random.default_rng(0).normal(size=(256, 24)).astype(np.float32)
    write_store(tmp_path / "wide", {"in": x}, chunk_mib=0.001, shard_mib=0.004, held_out=0.1)
    (*_, line) = run(evaluate.main, "run=r", "store=wide")
    assert re.search("16.*24|24.*16", line), line


@pytest.mark.parametrize(
    ("dtype", "values", "said"),
    [
        ("int4", np.zeros((4, 3), np.float32), "found dtype 'int4'; expected one of bfloat16"),
        ("float32", np.zeros((4, 3), np.int64), "found a block of torch.int64"),
    ],
)
def test_16_a_store_of_another_dtype_is_not_written(
    tmp_path: Path, dtype: str, values: np.ndarray, said: str
) -> None:
    with pytest.raises(UserError, match=said):
        write_store(tmp_path / "store", {"in": values}, dtype=dtype)
    assert contents(tmp_path) == {}


def test_larger_shards_are_taken_when_they_are_meant(store: Path, run: Command) -> None:
    for main, given in ((train.main, TRAIN), (verify.main, ("store=store",))):
        assert "raise max_shard_gib" in "".join(run(main, *given, "max_shard_gib=0.000001"))
