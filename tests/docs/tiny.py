"""The commands that the documents show, as a machine without network and GPUs can run them.

No setting is added. What stands in for what is shown, word by word, is `_SWAPS`: language models of
the Hub by random ones of the same family, data sets by a folder of text, experiments by the same
with these, eight processes by two, as many tokens as there are, and five steps of a language model.
Commands that need none of these run as they are printed.
"""

import json
import re
from pathlib import Path

import yaml

from sae_dist.config import conf_folder
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
EXPERIMENTS = ("circuit", "feature_splitting")
_SWAPS = {
    **{rf"\+experiment={name}": f"+experiment=small/{name}.yaml" for name in EXPERIMENTS},
    r"probes\.data=\[first_letter\]": "probes.data=[stdlib_packages]",
    **{f"lm={name}": f"lm.name=lms/{family}" for name, family in FAMILIES.items()},
    r"lm\.name=models/mine": "lm.name=lms/llama",
    r"lm\.name=google/gemma-2-2b-it": "lm.name=lms/gemma2",
    r"transfer\.lm_name=google/gemma-2-2b-it": "transfer.lm_name=lms/gemma2",
    "text=(fineweb|stdlib)": "text.path=text",
    r"\+sweep=width_ladder": "sweep.grids=[{coder.num_latents:[32,64]}]",
    r"((?:parallel\.)?latent)=8": r"\1=2",
    "tokens=[0-9]+[MB]": "tokens=40K",
    r"model\.num_steps=[0-9]+": "model.num_steps=5",
    "8": "2",  # processes
}
_LAYER = re.compile(r"(?<=(?:_pre|post|p_in|_out|tn_z)\.)\d+")
_NUM_LAYERS = 3  # of the tiny models


def tiny(call: Call) -> list[str]:
    """What to run with Python, with the launcher's and the command's words swapped."""
    program, *words = [_swapped(word) for word in call.words]
    if program == "sae-dist":
        words = ["-m", "sae_dist", *words]
    elif program == "torchrun":
        words = ["-m", "torch.distributed.run", "--standalone", *words]
    elif program == "accelerate":
        words = ["-m", "accelerate.commands.launch", *words[1:]]
    return words


def is_small(call: Call) -> bool:
    """Whether a call is one of ours that `tiny` knows to make small."""
    starts = ("launch/", "examples.")
    is_ours = call.words[0] == "sae-dist" or any(word.startswith(starts) for word in call.words)
    is_left_out = bool({"--help", "completion", "--nnodes", "selftest"} & set(call.words))
    return is_ours and not is_left_out and not call.is_part


def prepare(home: Path) -> None:
    """All that the commands find: language models, text, prompts, and launch/ of the checkout."""
    (home / "launch").symlink_to(ROOT / "launch")
    for family in {*FAMILIES.values(), "llama"}:
        tiny_model(family).save_pretrained(home / "lms" / family)
        tokenizer().save_pretrained(home / "lms" / family)
    write_text(home / "text", num_files=400)
    (home / "texts").symlink_to(home / "text")
    rows = [path.read_text() for path in sorted((home / "text").iterdir())]
    (home / "notes.jsonl").write_text("".join(json.dumps({"body": row}) + "\n" for row in rows))
    (home / "small").mkdir()
    for name in EXPERIMENTS:
        (home / "small" / f"{name}.yaml").write_text(small_experiment(name))
    (home / "prompts.txt").write_text("the a one\nof the b\nsaw the c\n")


def small_experiment(name: str) -> str:
    """An experiment of ours on a tiny language model and a folder of text, and few tokens of it."""
    said = yaml.safe_load((conf_folder() / "experiment" / f"{name}.yaml").read_text())
    kept = {key: own for key, own in said["harvest"].items() if key not in ("lm", "text")}
    kept |= {"lm.name": "lms/llama", "text.path": "text", "sites": [*map(_swapped, kept["sites"])]}
    return yaml.safe_dump(
        said | {"tokens": 40_000, "harvest": kept, "train": said["train"] | {"tokens": 5_000}}
    )


def _swapped(word: str) -> str:
    for shown, small in _SWAPS.items():
        if re.fullmatch(shown, word):
            return re.sub(shown, small, word)
    return _LAYER.sub(lambda layer: str(_layer(int(layer[0]))), word)


def _layer(shown: int) -> int:
    """Another for every third of a large language model's."""
    return shown if shown < _NUM_LAYERS else min(shown // 7, _NUM_LAYERS - 1)
