"""Which language model, how it is held, and how a small one is trained."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sae_dist.common.errors import UserError


class LMDtype(StrEnum):
    """Format of a language model's weights; `auto` is the one they were saved in."""

    auto = "auto"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


@dataclass(kw_only=True, slots=True)
class LMConfig:
    """Which language model, and how it is held.

    `name` is a local folder or a name on the Hub, there at `revision` (a branch, tag or commit);
    `auto_class` is the class of transformers that loads it; `fold_norms` folds the pre-MLP
    RMSNorms (`fold_rms_norms`), as transcoders in the manner of Gemma Scope want;
    `trust_remote_code` lets the repository run its own Python. A harvest slices the model over
    `tensor` processes (`load_sliced_lm`): another number may round differently. Sequences longer
    than the model knows are refused, unless `extrapolate` lets rotary positions go on beyond.
    """

    name: str
    revision: str | None = None
    auto_class: str = "AutoModelForCausalLM"
    dtype: LMDtype = LMDtype.float32
    attn_implementation: str | None = None
    fold_norms: bool = False
    trust_remote_code: bool = False
    tensor: int = 1
    extrapolate: bool = False


@dataclass(kw_only=True, slots=True)
class SmallLMConfig:
    """A small Llama, its byte-level BPE tokenizer and its training.

    `batch_size` counts sequences of `sequence_length` tokens, each beginning with BOS. The learning
    rate rises over the first 5 % of the steps and falls to a twentieth along a cosine. Of every
    `held_out_every` documents one is kept to measure the loss.
    """

    vocab_size: int = 4096
    hidden_size: int = 192
    intermediate_size: int = 512
    num_layers: int = 4
    num_heads: int = 6
    sequence_length: int = 256
    batch_size: int = 4
    num_steps: int = 1000
    learning_rate: float = 1.5e-3
    weight_decay: float = 0.1
    held_out_every: int = 20
    held_out_sequences: int = 128
    seed: int = 0


def local_folder(config: LMConfig, key: str = "lm.name") -> Path | None:
    """The folder of a saved model; None where `name` is one on the Hub.

    Raises UserError for a path without a folder, naming the setting `key`.
    """
    folder = Path(config.name).expanduser()
    if folder.is_dir():
        return folder
    if config.name.startswith(("/", ".", "~")):
        raise UserError(f"found no folder {folder}; expected a saved model; correct {key}")
    return None
