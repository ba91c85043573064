"""From a language model and a text to a TopK coder on disk: ours beside the peers' own runners.

All read one folder of a small Llama and one jsonl file, reconstruct the residual stream after the
same layer, and see as many tokens in batches of one size. Each is a process of its own: its seconds
are those from its start to its end, Python's own start included. FVU is that of the coder as
`load_coder` reads it, on documents that nobody trained on.
"""

import json
import random
import tempfile
import time
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from benchmarks.figures import Figure, LeftOut
from benchmarks.process import call
from benchmarks.small import activations_of, python_text, trained_lm
from benchmarks.timing import TEMPORARY
from sae_dist.evaluate import Fidelity, Subject, run_coder
from sae_dist.interop import load_coder
from sae_dist.parallel import World, make_mesh, start_world
from sae_dist.text import TextConfig

PACKAGES = ("transformers",)
OURS = {"live": "sae_dist:live", "harvest, then training": "sae_dist:stored"}
PEERS = {
    "SAELens": ("sae_lens:sparse", "sae_lens:prefetch"),
    "sparsify": ("sparsify:adam", "sparsify:signum"),
}
_RATES = {"sae_dist": 0.016, "sae_lens": 0.016, "sparsify": 0.016}  # Adam's
_LAYER, _LENGTH, _HELD_OUT_EVERY = 2, 128, 20
_SITE = f"resid_post.{_LAYER}"
SMOKE = {
    "tokens": 2**14,
    "num_latents": 64,
    "k": 4,
    "batch": 1024,
    "lm_steps": 2,
    "lm_width": 24,
    "held_out_tokens": 2**12,
    "documents": 60,
    "peers": (),
}


def write_texts(folder: Path, num_documents: int) -> tuple[Path, Path]:
    """Two jsonl files of Python's standard library, to train on and held out; their paths.

    Shuffled, as corpora are: not every program mixes documents.
    """
    train, held_out = folder / "train.jsonl", folder / "held_out.jsonl"
    documents = list(python_text(num_documents))
    random.Random(0).shuffle(documents)
    with train.open("w") as to_train, held_out.open("w") as to_hold_out:
        for number, text in enumerate(documents):
            file = to_train if number % _HELD_OUT_EVERY else to_hold_out
            print(json.dumps({"text": text}), file=file)
    return train, held_out


@dataclass(frozen=True)
class HeldOut:
    """Activations that nobody trained on, and what measures coders on them.

    Attributes:
        batches: whole sequences [N, S, D], and which of their tokens count [N, S].
        world: of this process alone.
    """

    batches: list[tuple[Tensor, Tensor]]
    world: World

    @torch.no_grad()
    def measure(self, folder: str) -> dict[str, float]:
        """L0 and FVU of the coder in a folder, whoever wrote it."""
        coder, mesh = load_coder(folder), make_mesh(self.world, 1, {})
        fidelity = Fidelity(Subject(coder=coder, mesh=mesh, num_positions=_LENGTH))
        for x_NSD, trainable_NS in self.batches:
            fidelity.update(run_coder(coder, x_NSD, x_NSD, trainable_NS))
        result = fidelity.result()
        return {"l0": result["l0"], "fvu": result["fvu"]}


def run(
    tokens: int = 2**20,
    num_latents: int = 8192,
    k: int = 32,
    batch: int = 4096,
    lm_steps: int = 1000,
    lm_width: int = 192,
    held_out_tokens: int = 2**17,
    documents: int = 10_000,
    peers: tuple[str, ...] = tuple(PEERS),
    limit: float = 600.0,
    peers_python: Path = Path(".venv-bench/bin/python"),
    folder: Path = TEMPORARY,
) -> Iterator[Figure | LeftOut]:
    """Seconds and the peak of memory of each, and the FVU of its coder.

    Args:
        tokens: that pass the language model.
        num_latents, k: of the coder.
        batch: tokens of a step.
        lm_steps, lm_width: of the small language model's training, and its width.
        held_out_tokens: that FVU is measured on.
        documents: of the text, at most.
        peers: whom to run beside ours.
        limit: seconds after which one is given up.
        peers_python: the interpreter that has the peers.
        folder: where to write; 1 GB.
    """
    with tempfile.TemporaryDirectory(dir=folder) as temporary, start_world() as world:
        home = Path(temporary)
        lm = trained_lm(home / "lm", lm_width, lm_steps, documents)
        train, held_out_text = write_texts(home, documents)
        text = TextConfig(path=str(held_out_text), sequence_length=_LENGTH)
        held_out = HeldOut(list(activations_of(lm, text, _SITE, held_out_tokens)), world)
        shape = {"layer": _LAYER, "length": _LENGTH, "tokens": tokens, "batch": batch}
        shape |= {"num_latents": num_latents, "k": k}
        job = {"lm": str(lm), "text": str(train), **shape}

        def measured(program: str, **python: Any) -> dict[str, Any] | str:
            to = home / program.replace(":", "-")
            to.mkdir()
            own = {"to": str(to), "lr": _RATES[program.partition(":")[0]]}
            given = {"program": program, "job": job | own}
            begin = time.perf_counter()
            found = call("benchmarks.runners.job:run_program", given, limit, **python)
            if isinstance(found, str):
                return found
            seconds = time.perf_counter() - begin
            return found | {"seconds": seconds} | held_out.measure(found["coder"])

        others: dict[str, dict[str, Any]] = {}
        for peer in peers:
            for program in PEERS[peer]:
                found = measured(program, python=peers_python)
                if isinstance(found, str):
                    yield LeftOut(program, found)
                else:
                    others[program] = found
        for name, program in OURS.items():
            found = measured(program)
            if isinstance(found, str):
                yield LeftOut(name, found)
            else:
                yield from figures(name, found, others, shape)


def figures(
    name: str, own: dict[str, Any], others: dict[str, dict[str, Any]], shape: dict[str, int]
) -> Iterator[Figure]:
    """Ours beside each peer's fastest way, and beside the better of its coders."""
    more = {"runs": {"ours": own, **others}, **shape}
    for key, title, unit, scale, target in (
        ("seconds", "wall clock", "s", 1.0, "half of the fastest peer's"),
        ("peak_bytes", "peak of memory", "GB", 1e9, ""),
        ("fvu", "FVU on held-out text", "", 1.0, "no worse than the best peer's"),
    ):
        best: dict[str, float] = {}
        for peer, programs in PEERS.items():
            values = [others[p][key] / scale for p in programs if p in others]
            best |= {peer: min(values)} if values else {}
        yield Figure(f"{name}: {title}", own[key] / scale, unit, None, best, target, more)
