"""Train a small language model from scratch: a tokenizer and a transformer, saved for transformers.

    sae-dist small_lm folder=PATH
    sae-dist small_lm folder=FINETUNE finetune_from=PATH text.path=chat.jsonl

It exists so that everything can be tried where no pretrained model is at hand. `finetune_from`
takes a real language model, too: a folder, a name on the Hub, or one in GGUF with
`finetune_gguf_file`.
"""

from pathlib import Path

from sae_dist.apps.command import command, entry
from sae_dist.common.errors import UserError
from sae_dist.common.log import log_info
from sae_dist.config import SmallLMRootConfig
from sae_dist.lm import LMConfig, train_small_lm
from sae_dist.text import texts


@command
def small_lm(config: SmallLMRootConfig) -> Path:
    """Train the model, unless the folder holds one, which is returned."""
    folder = Path(config.folder)
    if (folder / "config.json").is_file():
        log_info(f"{folder} holds a model already: nothing to do")
        return folder
    if config.text.template is not None:
        raise UserError(
            f"found text.template={config.text.template!r}; expected none: it wraps what is "
            "harvested; finetune on whole conversations"
        )
    base = None
    if config.finetune_from is not None:
        base = LMConfig(name=config.finetune_from, gguf_file=config.finetune_gguf_file)
    train_small_lm(config.model, lambda: texts(config.text), folder, base)
    return folder


main = entry("small_lm")
