"""`sae-dist verify repair=true`: what is bad is made again, byte for byte."""

import os
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import torch.distributed as dist

from sae_dist.apps import harvest, verify
from sae_dist.apps import repair as repair_module
from sae_dist.store import verify as verify_store
from sae_dist.store import write_store
from sae_dist.store.verify import Repair
from tests.harvest.tiny import TEXTS, contents, tokenizer
from tests.lm.tiny import tiny_model
from tests.store.damage import flip, swap

Command = Callable[..., None]
HARVEST = ("sites=[resid_post.1,mlp_in.1]", "tokens=320", "harvest.batch_sequences=4")
STORED = ("writer.chunk_mib=0.002", "writer.shard_mib=0.012", "writer.held_out=0.25")
SITE, HELD_OUT = "rows/activations/mlp_in.1", "sequences/activations/mlp_in.1"


@pytest.fixture(scope="module")
def harvested(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a language model, a text, and a store of four units made from them."""
    folder = tmp_path_factory.mktemp("harvested")
    tiny_model("llama").save_pretrained(folder / "lm")
    tokenizer().save_pretrained(folder / "lm")
    (folder / "text").mkdir()
    for number, text in enumerate(TEXTS):
        (folder / "text" / f"{number:02}.txt").write_text(text)
    given = (f"lm.name={folder}/lm", f"text.path={folder}/text", "text.sequence_length=8")
    with pytest.MonkeyPatch.context() as patch:
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            patch.delenv(name, raising=False)
        run_main(patch, harvest.main, f"store={folder}/store", *given, *HARVEST, *STORED)
    return folder


def run_main(patch: pytest.MonkeyPatch, main: Callable[[], None], *arguments: str) -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
    patch.setattr("sys.argv", ["command", *arguments])
    main()


@pytest.fixture
def store(harvested: Path, tmp_path: Path) -> Path:
    shutil.copytree(harvested / "store", tmp_path / "store")
    return tmp_path / "store"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch) -> Command:
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return lambda *arguments: run_main(monkeypatch, verify.main, *arguments)


def bad_activations(store: Path) -> None:
    flip(store / HELD_OUT / "c.1.0.0", 99)
    swap(store / SITE / "c.2.0", store / SITE / "c.3.0")


def bad_tokens(store: Path) -> None:
    (store / "sequences/input_ids/c.1.0").unlink()
    flip(store / "sequences/marks/c.0.0", 7)


def bad_index(store: Path) -> None:
    os.truncate(store / "rows/index/c.3", 9)


def bad_metadata(store: Path) -> None:
    (store / SITE / "zarr.json").unlink()
    (store / "sequences/input_ids/zarr.json").write_text("{}")


def no_manifest(store: Path) -> None:
    (store / "MANIFEST.json").unlink()


def bad_manifest(store: Path) -> None:
    os.truncate(store / "MANIFEST.json", 99)


def bad_sums(store: Path) -> None:
    flip(store / "SUMS.bin", 99)
    (store / "copy/MANIFEST.json").unlink()


def all_at_once(store: Path) -> None:
    for harm in (bad_activations, bad_tokens, bad_index, bad_metadata, bad_sums):
        harm(store)


HARMS = (
    *(bad_activations, bad_tokens, bad_index, bad_metadata, no_manifest, bad_manifest, bad_sums),
    all_at_once,
)


@pytest.mark.parametrize("harm", HARMS, ids=lambda harm: harm.__name__)
def test_what_is_bad_is_made_again_byte_for_byte(
    store: Path, run: Command, capsys: pytest.CaptureFixture, harm: Callable[[Path], None]
) -> None:
    before = contents(store)
    harm(store)
    assert verify_store(store, full=True)
    run(f"store={store}", "repair=true")
    assert contents(store) == before
    assert "is whole" in capsys.readouterr().err


def test_only_bad_units_are_harvested(
    store: Path, run: Command, monkeypatch: pytest.MonkeyPatch
) -> None:
    bad_activations(store)
    passes = []

    class Counted(repair_module.Capture):
        def __call__(self, ids_NS):  # type: ignore[no-untyped-def]
            passes.append(len(ids_NS))
            return super().__call__(ids_NS)

    monkeypatch.setattr(repair_module, "Capture", Counted)
    times = {path: path.stat().st_mtime_ns for path in store.rglob("c.*")}
    run(f"store={store}", "repair=true")
    changed = {path.name for path in times if path.stat().st_mtime_ns != times[path]}
    assert {int(name.split(".")[1]) for name in changed} == {1, 2, 3}
    assert passes == 3 * [4, 4, 2]  # units of ten sequences


class KilledError(BaseException):
    """Stands for SIGKILL: nothing of the project may catch it."""


STEPS = ("mend_records", "rewrite", "finish")


@pytest.mark.parametrize("step", STEPS)
def test_a_repair_killed_before_or_after_any_step_is_started_again(
    store: Path, run: Command, monkeypatch: pytest.MonkeyPatch, step: str
) -> None:
    before = contents(store)
    all_at_once(store)
    real = getattr(Repair, step)

    def dies_before(*arguments: object) -> None:
        raise KilledError

    def dies_after(*arguments: object) -> None:
        real(*arguments)
        raise KilledError

    for dies in (dies_before, dies_after):
        with monkeypatch.context() as patch:
            patch.setattr(Repair, step, dies)
            with pytest.raises(KilledError):
                run(f"store={store}", "repair=true")
                raise KilledError  # nothing was left to do after the first time
    run(f"store={store}", "repair=true")
    assert contents(store) == before


def test_a_text_that_changed_is_refused(
    store: Path, harvested: Path, run: Command, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    bad_tokens(store)
    before = contents(store)
    shutil.copytree(harvested / "text", tmp_path / "text")
    (tmp_path / "text" / "00.txt").write_text("another beginning")
    with pytest.raises(SystemExit, match="2"):
        run(f"store={store}", "repair=true", f"text_path={tmp_path}/text")
    assert "error: found another text" in capsys.readouterr().err
    assert contents(store) == before
    run(f"store={store}", "repair=true")


def test_lm_and_text_may_be_elsewhere_and_must_be_the_same(
    store: Path, harvested: Path, run: Command, capsys: pytest.CaptureFixture, tmp_path: Path
) -> None:
    before = contents(store)
    bad_activations(store)
    broken = contents(store)
    tiny_model("mistral").save_pretrained(tmp_path / "other")
    tokenizer().save_pretrained(tmp_path / "other")
    with pytest.raises(SystemExit, match="2"):
        run(f"store={store}", "repair=true", f"lm_name={tmp_path}/other")
    assert "the store was harvested at" in capsys.readouterr().err
    assert contents(store) == broken
    shutil.copytree(harvested / "lm", tmp_path / "moved")
    run(f"store={store}", "repair=true", f"lm_name={tmp_path}/moved")
    assert contents(store) == before


def test_what_cannot_be_repaired_is_said_in_one_line(
    tmp_path: Path, run: Command, capsys: pytest.CaptureFixture
) -> None:
    import numpy as np

    store = tmp_path / "store"
    blocks = np.random.default_rng(0).normal(size=(64, 4)).astype(np.float32)
    write_store(store, {"in": blocks}, chunk_mib=0.0001, shard_mib=0.0001)
    (store / "MANIFEST.json").unlink()
    run(f"store={store}", "repair=true")  # its copy is whole
    flip(store / "rows/activations/in/c.0.0", 9)
    before = contents(store)
    with pytest.raises(SystemExit, match="2"):
        run(f"store={store}", "repair=true")
    said = capsys.readouterr().err.splitlines()[-1]
    assert said.startswith("error: found no 'lm' in the provenance") and "restore the files" in said
    assert contents(store) == before
    for name in ("MANIFEST.json", "copy/MANIFEST.json"):
        (store / name).write_text("{")
    with pytest.raises(SystemExit, match="2"):
        run(f"store={store}", "repair=true")
    assert "restore one from a copy" in capsys.readouterr().err
