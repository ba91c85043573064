"""From documents in chat prefixes to figures on a finetune, through the commands themselves."""

import re
import shutil
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.distributed as dist
from tokenizers import AddedToken
from transformers import PreTrainedTokenizerFast

from sae_dist.apps import evaluate, harvest, train, verify
from sae_dist.store import open_store
from tests.apps.test_commands import evaluation
from tests.harvest.tiny import TEXTS, contents, tokenizer
from tests.lm.tiny import tiny_model
from tests.store.damage import flip

CHAT = "<u>saw {document}<m>the"  # without a quote, a command line may hold it
USER, MODEL = 26, 27
HARVEST = ("sites=[resid_post.1]", "tokens=2K", "writer.dtype=float32", "writer.held_out=0.25")
SHAPE = ("text.sequence_length=16", "writer.chunk_mib=0.01", "writer.shard_mib=0.05")
TRAIN = ("coder=topk", "coder.num_latents=32", "coder.k=4", "tokens=640", "batch_tokens=64")
STREAM = ("stream.bucket_tokens=640", "log.wandb=disabled", "site=resid_post.1")
ASKED = ("transfer.prompts=prompts.txt", "transfer.sequences=6", "transfer.rollout_tokens=8")


def chat_tokenizer() -> PreTrainedTokenizerFast:
    made = tokenizer()
    made.add_tokens([AddedToken("<u>", special=True), AddedToken("<m>", special=True)])
    assert made.convert_tokens_to_ids(["<u>", "<m>"]) == [USER, MODEL]
    return made


def run_main(patch: pytest.MonkeyPatch, main: Callable[[], None], *arguments: str) -> None:
    if dist.is_initialized():
        dist.destroy_process_group()
    patch.setattr("sys.argv", ["command", *arguments])
    main()


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A language model and a finetune of it, a store of each and a run on each."""
    home = tmp_path_factory.mktemp("made")
    for name, change in (("base", 0.0), ("tuned", 0.02)):
        model = tiny_model("llama")
        for parameter in model.parameters():
            parameter += change * torch.randn_like(parameter)
        model.save_pretrained(home / name)
        chat_tokenizer().save_pretrained(home / name)
    (home / "text").mkdir()
    for number, text in enumerate(TEXTS * 4):
        (home / "text" / f"{number:03}.txt").write_text(text)
    (home / "prompts.txt").write_text("the a one\nof the b\nsaw the c\n")
    with pytest.MonkeyPatch.context() as patch:
        patch.chdir(home)
        for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
            patch.delenv(name, raising=False)
        for name, template in (("base", "null"), ("tuned", f"'{CHAT}'")):
            text = ("text.path=text", f"text.template={template}", f"lm.name=./{name}")
            store = f"store={home}/{name}-store"
            run_main(patch, harvest.main, store, *text, *HARVEST, *SHAPE)
            run_main(patch, train.main, store, f"run={name}", *TRAIN, *STREAM)
    return home


@pytest.fixture
def run(made: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., None]:
    monkeypatch.chdir(made)
    for name in ("RANK", "WORLD_SIZE", "LOCAL_RANK"):
        monkeypatch.delenv(name, raising=False)
    return lambda main, *arguments: run_main(monkeypatch, main, *arguments)


def test_the_users_prefix_is_in_the_store_and_never_trained_on(made: Path) -> None:
    store = open_store(made / "tuned-store")
    assert store.provenance["text"]["template"] == CHAT
    saw = tokenizer().convert_tokens_to_ids("saw")
    ids_NS, trainable_NS = store.read_tokens(range(store.layout.num_sequences))
    assert (ids_NS[:, :3] == [0, USER, saw]).all()
    assert not trainable_NS[np.isin(ids_NS, [0, USER, MODEL])].any()
    after_user_NS = np.roll(ids_NS == USER, 1, axis=1)
    assert not trainable_NS[after_user_NS].any() and trainable_NS.any(axis=1).all()


def test_a_damaged_store_of_wrapped_documents_is_made_again(
    made: Path, run: Callable[..., None], tmp_path: Path
) -> None:
    store = tmp_path / "store"
    shutil.copytree(made / "tuned-store", store)
    before = contents(store)
    flip(store / "sequences/marks/c.0.0", 7)
    (store / "sequences/input_ids/c.1.0").unlink()
    flip(store / "rows/activations/resid_post.1/c.0.0", 99)
    run(verify.main, f"store={store}", "repair=true")
    assert contents(store) == before


def test_coders_of_base_and_finetune_are_measured_on_what_the_finetune_says(
    made: Path, run: Callable[..., None]
) -> None:
    given = (*ASKED, "transfer.lm_name=./tuned", "transfer.finetuned_run=tuned")
    run(evaluate.main, "run=base", *given, "pairs.sequences=0")
    results = evaluation(made / "runs/base")
    found = results["of_run"]["transfer"]
    assert (found["lm"], found["prompts"], found["template"]) == ("./tuned", "prompts.txt", CHAT)
    assert (found["temperature"], found["sequences"]) == (1.0, 6)
    (base,) = results["rungs"]
    assert {row["name"]: row["trained_on"] for row in found["rows"]} == {
        base: "base",
        f"tuned/{base}": "finetuned",
    }
    assert [row["part"] for row in found["rows"]] == ["prompt", "rollout"] * 2
    for row in found["rows"]:
        assert row["tokens"] == found[f"{row['part']}_tokens"] > 10
        assert row["l0"] == row["l0_rescaled"] == 4
        assert row["fvu"] != row["fvu_rescaled"]
        assert row["delta_loss"] != row["delta_loss_rescaled"]


def test_a_finetunes_run_may_have_been_trained_live(made: Path, run: Callable[..., None]) -> None:
    text = ("text.path=text", f"text.template='{CHAT}'", "text.sequence_length=16")
    held = ("lm.name=./tuned", "harvest.batch_sequences=4", *HARVEST)
    asked = [f"harvest.{setting}" for setting in (*text, *held)]
    run(train.main, "store=live", "run=live", *asked, *TRAIN, *STREAM)
    given = (*ASKED, "transfer.lm_name=./tuned", "transfer.finetuned_run=live", "lm_sequences=0")
    run(evaluate.main, "run=base", *given, "pairs.sequences=0")
    found = evaluation(made / "runs/base")["of_run"]["transfer"]
    assert found["template"] == CHAT
    live = [row for row in found["rows"] if row["trained_on"] == "finetuned"]
    assert [row["part"] for row in live] == ["prompt", "rollout"] and live[1]["l0"] == 4


@pytest.mark.parametrize(
    ("given", "said"),
    [
        (("transfer.prompts=null",), "transfer.prompts=null; expected a file of prompts"),
        (("transfer.prompts=nowhere",), "found no prompts in nowhere"),
        ((), "found no chat template.*with {document}; set transfer.template"),
        (("transfer.template=hello",), "found 0 times {document} in template 'hello'"),
        (("transfer.finetuned_run=none",), "no run in runs/none; expected config.yaml"),
        (("transfer.finetuned_run=base", f"transfer.template='{CHAT}'"), "found run base trained"),
        (("transfer.lm_name=./nowhere", f"transfer.template='{CHAT}'"), "found no folder nowhere"),
        (
            ("transfer.lm_name=./other", f"transfer.template='{CHAT}'"),
            "2 of 25 tokens .* with another id",
        ),
        (("transfer.temperature=-1",), "transfer.temperature=-1; expected more than 0"),
    ],
)
def test_what_does_not_belong_together_is_refused_in_one_line(
    made: Path,
    run: Callable[..., None],
    capsys: pytest.CaptureFixture,
    given: tuple[str, ...],
    said: str,
) -> None:
    if not (made / "other").exists():
        shutil.copytree(made / "tuned", made / "other")
        path = made / "other/tokenizer.json"
        swapped = path.read_text().replace('"x": 16', '"x": 17').replace('"y": 17', '"y": 16')
        path.write_text(swapped)
    with pytest.raises(SystemExit, match="2"):
        run(evaluate.main, "run=base", *ASKED, "transfer.lm_name=./tuned", *given)
    (line,) = [x for x in capsys.readouterr().err.splitlines() if x.startswith("error")]
    assert re.search(said, line), line
