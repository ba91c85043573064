"""A tiny language model and text, and their activations, live."""

from pathlib import Path

from sae_dist.common.dtypes import FloatDtype
from sae_dist.live import LiveActivations, TextUnits
from sae_dist.lm import LM, LMConfig
from sae_dist.store import StoreConfig
from sae_dist.stream import StreamConfig
from sae_dist.text import TextConfig
from tests.harvest.tiny import TEXTS, tokenizer
from tests.lm.tiny import tiny_model

SITE, POSITIONS, SEQUENCES = "resid_post.1", 8, 4  # of a unit
STREAM = StreamConfig(lanes=4, bucket_tokens=256)  # two units a lane
BATCH = 40


def write_text(folder: Path, copies: int = 1) -> Path:
    """`TEXTS`, one document a file; every copy of them begins with its own number."""
    folder.mkdir()
    for number in range(copies):
        for place, text in enumerate(TEXTS):
            (folder / f"{number}-{place:03d}.txt").write_text("a" * number + f" {text}")
    return folder


def text_units(folder: Path, num_tokens: int = 10**6, held_out: float = 0.2) -> TextUnits:
    text = TextConfig(path=str(folder), sequence_length=POSITIONS)
    return TextUnits(tokenizer(), text, num_tokens, SEQUENCES, held_out)


def tiny_live(
    folder: Path,
    family: str = "llama",
    num_tokens: int = 10**6,
    **writer: object,
) -> LiveActivations:
    """Activations of `family` reading the folder; of five units one is held out."""
    lm = LM(tiny_model(family), tokenizer(), LMConfig(name="tiny"), f"{family} 0")
    settings: dict = {"dtype": FloatDtype.float32, "held_out": 0.2, **writer}
    text = TextConfig(path=str(folder), sequence_length=POSITIONS)
    store = StoreConfig(**settings)
    return LiveActivations(lm, [SITE], text, num_tokens, store, SEQUENCES)
