"""Which language model, how it is held, and how a small one is trained."""

from dataclasses import dataclass
from enum import StrEnum
from pathlib import Path

from sae_dist.common.errors import UserError
from sae_dist.common.settings import setting


class LMDtype(StrEnum):
    """Format of a language model's weights.

    `auto` is the one they were saved in. `fastest` is bfloat16 on a GPU and on a CPU that
    multiplies it faster than float32, and float32 on others; a store remembers which.
    """

    auto = "auto"
    fastest = "fastest"
    bfloat16 = "bfloat16"
    float16 = "float16"
    float32 = "float32"


@dataclass(kw_only=True, slots=True)
class LMConfig:
    """Which language model, and how it is held.

    `name` is a local folder or a name on the Hub, there at `revision` (a branch, tag or commit);
    with `gguf_file`, the name of a file in it, that file alone is model and tokenizer, and its
    quantised weights are unpacked to `dtype`. `auto_class` is the class of transformers that loads
    it; `fold_norms` folds the pre-MLP RMSNorms (`fold_rms_norms`), as transcoders in the manner of
    Gemma Scope want; `trust_remote_code` lets the repository run its own Python. A harvest slices
    the model over `tensor` processes (`load_sliced_lm`): another number may round differently.
    Sequences longer than the model knows are refused, unless `extrapolate` lets rotary positions go
    on beyond. With `compile` a harvest has torch.compile make layers faster (`compile_layers`),
    which then round differently.
    """

    name: str
    revision: str | None = None
    gguf_file: str | None = None
    auto_class: str = "AutoModelForCausalLM"
    dtype: LMDtype = LMDtype.float32
    attn_implementation: str | None = None
    fold_norms: bool = False
    trust_remote_code: bool = False
    tensor: int = setting(1, min=1)
    extrapolate: bool = False
    compile: bool = False


@dataclass(kw_only=True, slots=True)
class SmallLMConfig:
    """A small Llama, its byte-level BPE tokenizer and its training.

    `batch_size` counts sequences of `sequence_length` tokens, each beginning with BOS. The learning
    rate rises over the first 5 % of the steps and falls to a twentieth along a cosine. Of every
    `held_out_every` documents one is kept to measure the loss.
    """

    vocab_size: int = setting(4096, min=257, binary=True)
    hidden_size: int = setting(192, min=1, binary=True)
    intermediate_size: int = setting(512, min=1, binary=True)
    num_layers: int = setting(4, min=1)
    num_heads: int = setting(6, min=1)
    sequence_length: int = setting(256, min=2, binary=True)
    batch_size: int = setting(4, min=1)
    num_steps: int = setting(1000, min=1)
    learning_rate: float = setting(1.5e-3, above=0)
    weight_decay: float = setting(0.1, min=0)
    held_out_every: int = setting(20, min=2)
    held_out_sequences: int = setting(128, min=1)
    seed: int = setting(0, min=0)


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
