"""The commands on a store at s3://: harvest, verify, train, evaluate, repair."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch.distributed as dist

from sae_dist.apps import evaluate, harvest, train, verify
from sae_dist.store import open_store
from sae_dist.store.files import files_at
from tests.harvest.tiny import TEXTS, contents, tokenizer
from tests.lm.tiny import tiny_model
from tests.s3 import credentials, endpoint, needs_server  # noqa: F401

pytest.importorskip("obstore")
pytestmark = [pytest.mark.slow, needs_server, pytest.mark.usefixtures("credentials")]
URL = "s3://bucket/acts"


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    monkeypatch.chdir(tmp_path)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)

    def run(main: Callable[[], None], *arguments: str) -> None:
        if dist.is_initialized():
            dist.destroy_process_group()
        monkeypatch.setattr("sys.argv", ["command", *arguments])
        main()

    return run


def test_a_store_at_a_url_serves_every_command(
    run: Callable[..., None], tmp_path: Path, capsys: pytest.CaptureFixture
) -> None:
    tiny_model("llama").save_pretrained(tmp_path / "lm")
    tokenizer().save_pretrained(tmp_path / "lm")
    (tmp_path / "text").mkdir()
    for number, text in enumerate(TEXTS):
        (tmp_path / "text" / f"{number:02}.txt").write_text(text)
    given = ("lm.name=./lm", "text.path=./text", "text.sequence_length=8", "tokens=320")
    sizes = ("sites=[resid_post.1]", "writer.chunk_mib=0.002", "writer.shard_mib=0.006")
    for store in ("local", URL):
        run(harvest.main, f"store={store}", *given, *sizes, "writer.held_out=0.25")
    assert open_store(URL).hash == open_store("local").hash
    capsys.readouterr()
    run(verify.main, f"store={URL}")
    assert f"{URL} is whole" in capsys.readouterr().err
    coder = ("coder=topk", "coder.num_latents=32", "coder.k=4", "log.wandb=disabled")
    for store, name in (("local", "a"), (URL, "b")):
        steps = ("tokens=256", "batch_tokens=32", "site=resid_post.1")
        run(train.main, f"store={store}", f"run={name}", "cache.folder=near", *coder, *steps)
    coders = [contents(tmp_path / "runs" / name / "coders") for name in "ab"]
    weights = [[data for path, data in c.items() if path.endswith("tensors")] for c in coders]
    assert weights[0] == weights[1]
    run(evaluate.main, "run=b", "cache.folder=near")
    assert list((tmp_path / "near").rglob("rows+*")) and list((tmp_path / "near").rglob("seq*"))
    assert (tmp_path / "runs" / "b" / "evaluation" / "about.json").is_file()
    files = files_at(URL)
    whole = files.read("rows/activations/resid_post.1/c.0.0")
    files.write("rows/activations/resid_post.1/c.0.0", whole[:-1] + b"x")
    run(verify.main, f"store={URL}", "repair=true")
    assert files.read("rows/activations/resid_post.1/c.0.0") == whole
