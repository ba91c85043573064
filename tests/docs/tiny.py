"""The commands that the documents show, at a size that a test can run.

What stands in for what is shown, word by word, is `_SWAPS` and `_SIZES`: language models of the Hub
by random ones of the same family, data sets by a folder of text, eight processes by two, and sizes
by the least that go the same way.
"""

import json
import re
from pathlib import Path

from tests.apps.commands import ROOT
from tests.docs.shell import Call
from tests.harvest.tiny import tokenizer
from tests.lm.tiny import tiny_model
from tests.test_end_to_end import write_text

FAMILIES = {
    "pythia_70m": "gpt_neox",
    "gemma_2_2b": "gemma2",
    "gemma_2_9b": "gemma2",
    "gpt2": "gpt2",
}
_SWAPS = {
    **{f"lm={name}": f"lm.name=lms/{family}" for name, family in FAMILIES.items()},
    r"lm\.name=models/mine": "lm.name=lms/llama",
    r"lm\.name=google/gemma-2-2b-it": "lm.name=lms/gemma2",
    r"transfer\.lm_name=google/gemma-2-2b-it": "transfer.lm_name=lms/gemma2",
    "text=(fineweb|stdlib)": "text.path=text",
    r"\+sweep=width_ladder": "sweep.grids=[{coder.num_latents:[32,64]}]",
    r"(.*)coder\.k:\[32,64\](.*)": r"\1coder.k:[2,4]\2",
    r"((?:parallel\.)?latent)=8": r"\1=2",
    "8": "2",  # processes
}
_LAYER = re.compile(r"(?<=(?:_pre|post|p_in|_out|tn_z)\.)\d+")  # the tiny models have three
_SIZES = {
    "harvest": "tokens=6K text.sequence_length=64 writer.held_out=0.2 writer.chunk_mib=0.03 "
    "writer.shard_mib=0.06 harvest.batch_sequences=4",
    "train": "tokens=2K batch_tokens=64 stream.bucket_tokens=1024 "
    "checkpoint.every_steps=20 log.every_steps=8 log.wandb=disabled coder.num_latents=64 coder.k=4",
    "evaluate": "uniformity_sequences=4",
    "transfer": "transfer.sequences=6 transfer.rollout_tokens=8",
    "small_lm": "model.vocab_size=300 model.hidden_size=32 model.intermediate_size=48 "
    "model.num_layers=3 model.num_heads=2 model.sequence_length=32 model.num_steps=10",
    "finetune": "model.num_steps=10 model.held_out_every=4",
    "chat_corpus": "text.path=sources",
}
_IS_SMALL = {"store=stores/images", "run=images"}
_QUIET = ("--num_machines", "1", "--mixed_precision", "no", "--dynamo_backend", "no")


def tiny(call: Call) -> list[str]:
    """What to run with Python, with the launcher's and the command's words swapped.

    What goes on from activations that the page's Python made is small as it is shown.
    """
    if _IS_SMALL & set(call.words):
        return list(call.words[1:])
    program, *words = [_swapped(word) for word in call.words]
    if program == "sae-dist":
        words = ["-m", "sae_dist", *words]
    elif program == "torchrun":
        words = ["-m", "torch.distributed.run", "--standalone", *words]
    elif program == "accelerate":
        quiet = () if "--config_file" in words else _QUIET
        words = ["-m", "accelerate.commands.launch", *quiet, *words[1:]]
    return _sized(words)


def is_small(call: Call) -> bool:
    """Whether a call is one of ours that `tiny` knows to make small."""
    is_ours = any(word.startswith("launch/") for word in call.words) or call.words[0] == "sae-dist"
    is_asked = bool({"--help", "completion", "--nnodes"} & set(call.words))
    return is_ours and not is_asked and not call.is_part and "launch/selftest.py" not in call.words


def prepare(home: Path) -> None:
    """All that the commands find: language models, text, prompts, and launch/ of the checkout."""
    (home / "launch").symlink_to(ROOT / "launch")
    for family in {*FAMILIES.values(), "llama"}:
        tiny_model(family).save_pretrained(home / "lms" / family)
        tokenizer().save_pretrained(home / "lms" / family)
    write_text(home / "text")
    (home / "texts").symlink_to(home / "text")
    rows = [path.read_text() for path in sorted((home / "text").iterdir())]
    (home / "notes.jsonl").write_text("".join(json.dumps({"body": row}) + "\n" for row in rows))
    (home / "prompts.txt").write_text("the a one\nof the b\nsaw the c\n")
    (home / "sources").mkdir()
    for path in sorted(Path(json.__file__).parent.glob("*.py")):
        (home / "sources" / f"{path.stem}.txt").write_text(path.read_text())


def _swapped(word: str) -> str:
    for shown, small in _SWAPS.items():
        if re.fullmatch(shown, word):
            return re.sub(shown, small, word)
    word = word.replace("-16384-k32-", "-64-k4-")
    return _LAYER.sub(lambda layer: str(min(int(layer[0]), 2)), word)


def _sized(words: list[str]) -> list[str]:
    """With the command's sizes in place of those that are given."""
    place = next(i for i, word in enumerate(words) if _command(word) or word == "sae_dist")
    root = words[place + 1] if words[place] == "sae_dist" else _command(words[place])
    if root == "small_lm" and any(word.startswith("finetune_from=") for word in words):
        root = "finetune"
    sizes = _SIZES.get(str(root), "").split()
    if root == "evaluate" and any(word.startswith("transfer.") for word in words):
        sizes += _SIZES["transfer"].split()
    if root == "small_lm":
        sizes += ["text.path=text"]
    keys = {size.partition("=")[0] for size in sizes}
    return [word for word in words if word.partition("=")[0] not in keys] + sizes


def _command(word: str) -> str | None:
    found = re.fullmatch(r"launch/(\w+)\.py", word)
    return found[1] if found else None
