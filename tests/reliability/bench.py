"""A place to try faults in: a store, a run, a language model and what was harvested from it."""

import contextlib
import io
import os
import shutil
import sys
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from unittest import mock

import torch.distributed as dist

from sae_dist.apps import harvest, train
from tests.harvest.tiny import contents, tokenizer
from tests.lm.tiny import tiny_model
from tests.train.ladders import make_store

TRAIN = (
    *("store=store", "run=r", "site=in", "coder=topk", "coder.num_latents=32", "coder.k=4"),
    *("tokens=640", "batch_tokens=64", "stream.bucket_tokens=640"),
    *("checkpoint.every_steps=5", "log.wandb=disabled"),
)
HARVEST = (
    *("lm.name=./lm", "text.path=./text", "sites=[resid_post.1]", "store=acts", "tokens=9600"),
    *("text.sequence_length=32", "writer.shard_mib=0.006", "writer.chunk_mib=0.003"),
    *("writer.held_out=0.1", "harvest.batch_sequences=1"),
)
_OF_A_LAUNCHER = ("RANK", "WORLD_SIZE", "LOCAL_RANK")


@dataclass(frozen=True, slots=True)
class Outcome:
    """How a command ended, and what it said to the user."""

    status: int
    said: str

    @property
    def lines(self) -> list[str]:
        """Errors where it failed, else warnings."""
        start = "error" if self.status else "warning"
        lines = (line.strip() for line in self.said.replace("\r", "\n").splitlines())
        return [line for line in lines if line.startswith(start)]


class Bench:
    """A folder in which a command finds what it needs; `fresh` makes copies of what is there."""

    def __init__(self, root: Path) -> None:
        self.root = root
        (root / "whole").mkdir()
        self._count = 0

    @cached_property
    def store(self) -> Path:
        """Sites `in` of width 16 and `out` of 12: 2,048 tokens in 11 shards."""
        return make_store(self.root / "whole" / "store", num_tokens=2048)

    @cached_property
    def runs(self) -> Path:
        """The run `r`, ten steps long, with checkpoints at 5 and 10."""
        desk = self.fresh("store")
        assert desk.run(train.main, *TRAIN).status == 0
        return desk.folder / "runs"

    @cached_property
    def lm(self) -> Path:
        """A tiny language model with its tokenizer."""
        folder = self.root / "whole" / "lm"
        tiny_model("llama").save_pretrained(folder)
        tokenizer().save_pretrained(folder)
        return folder

    @cached_property
    def text(self) -> Path:
        """A folder of text of some 10,000 tokens."""
        folder = self.root / "whole" / "text"
        folder.mkdir()
        for i in range(40):
            words = (f"the {'abcdefgh'[j % 8]} saw the {'stuvwxyz'[i % 8]}" for j in range(60))
            (folder / f"{i:02}.txt").write_text("\n".join(words))
        return folder

    @cached_property
    def acts(self) -> Path:
        """What was harvested from `lm` and `text`: 300 sequences, some 200 shards."""
        desk = self.fresh("lm", "text")
        done = desk.run(harvest.main, *HARVEST)
        assert done.status == 0, done.said
        return desk.folder / "acts"

    def fresh(self, *names: str) -> "Desk":
        """A new folder with copies of some of these."""
        self._count += 1
        folder = self.root / f"{self._count:02}"
        folder.mkdir()
        for name in names:
            shutil.copytree(getattr(self, name), folder / name)
        return Desk(folder)


@dataclass(frozen=True, slots=True)
class Desk:
    """A folder of one case's own, in which commands are run."""

    folder: Path

    def run(self, main: Callable[[], None], *arguments: str, **environment: str) -> Outcome:
        """Run a command's `main` here, in this process, and see what its user sees."""
        said = io.StringIO()
        if dist.is_initialized():
            dist.destroy_process_group()
        with (
            contextlib.chdir(self.folder),
            mock.patch.object(sys, "argv", ["command", *arguments]),
            _environment(environment),
            contextlib.redirect_stderr(said),
            contextlib.redirect_stdout(said),
        ):
            try:
                main()
                status = 0
            except SystemExit as ending:
                status = int(ending.code or 0)
        return Outcome(status, said.getvalue())

    def refused(self, main: Callable[[], None], *arguments: str, **environment: str) -> Outcome:
        """As `run`, for a command that must change nothing that was there."""
        before = self.files()
        outcome = self.run(main, *arguments, **environment)
        after = self.files()
        assert {name: after.get(name) for name in before} == before
        return outcome

    def files(self) -> dict[str, bytes]:
        """Every file here by its path."""
        return contents(self.folder)


@contextlib.contextmanager
def _environment(changes: dict[str, str]) -> Iterator[None]:
    """This process' environment, changed for a while, alone and offline."""
    with mock.patch.dict(os.environ, {"HF_HUB_OFFLINE": "1", **changes}):
        for name in _OF_A_LAUNCHER:
            os.environ.pop(name, None)
        yield
