"""A language model, its text, and commands that harvest and train in a minute."""

from pathlib import Path

from tests.apps.commands import command, launch
from tests.harvest.tiny import tokenizer
from tests.lm.tiny import tiny_model


def make_home(home: Path) -> Path:
    """Give a folder a language model, its text and, from one process, the store `store`."""
    (home / "text").mkdir()
    for i in range(40):
        lines = (f"{i} times {j} is {i * j}, and {j} times {i} too.\n" for j in range(24))
        (home / "text" / f"{i:02}.txt").write_text("".join(lines))
    tiny_model("llama").save_pretrained(home / "lm")
    tokenizer().save_pretrained(home / "lm")
    done = command(launch("harvest"), *harvest(home, "store"), cwd=home)
    assert done.returncode == 0, done.stderr
    return home


def harvest(home: Path, store: str) -> tuple[str, ...]:
    """Some 40 shards of one site."""
    return (
        *(f"lm.name={home}/lm", f"text.path={home}/text", f"store={home}/{store}"),
        *("text.sequence_length=32", "tokens=12K", "sites=[resid_post.1]"),
        *("harvest.batch_sequences=4", "writer.held_out=0.2"),
        *("writer.chunk_mib=0.02", "writer.shard_mib=0.02"),
    )


def train(home: Path, run: str) -> tuple[str, ...]:
    """1,500 steps of two rungs."""
    return (
        *(f"runs={home}/runs", f"store={home}/store", f"run={run}"),
        *("tokens=96K", "batch_tokens=64", "stream.bucket_tokens=1024"),
        *("checkpoint.every_steps=100", "log.every_steps=10", "coder.num_latents=64"),
        "sweep.grids=[{coder:topk,coder.k:[2,4]}]",
    )


def weights(home: Path, run: str) -> dict[str, bytes]:
    """The files of a run's coders."""
    coders = home / "runs" / run / "coders"
    return {str(f.relative_to(coders)): f.read_bytes() for f in coders.glob("*/*.safetensors")}


def lines(home: Path, run: str) -> int:
    """How many lines of figures a run has written."""
    path = home / "runs" / run / "metrics.jsonl"
    return len(path.read_text().splitlines()) if path.exists() else 0
