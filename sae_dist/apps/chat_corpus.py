"""Make a small corpus of conversations: a user shows the head of a function, the model explains it.

    sae-dist chat_corpus folder=PATH +chat@text=small_lm

Writes `train.jsonl` (whole conversations, column `text`) to finetune on, and `prompts.jsonl`
(questions never trained on, `prompt`, and their `answer`) to ask later. The sources are those of
Python's standard library, or any other with text.path=…; text.template wraps what the user asks.
"""

import json
from collections.abc import Iterable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from sae_dist.apps.command import command, entry
from sae_dist.common.errors import UserError
from sae_dist.common.files import write_all
from sae_dist.common.log import log_info
from sae_dist.config import ChatCorpusConfig
from sae_dist.reproduce.questions import conversations, split
from sae_dist.text import texts


@command
def chat_corpus(config: ChatCorpusConfig) -> None:
    """Write both files, unless they are there."""
    folder = Path(config.folder)
    paths = train_path, prompts_path = folder / "train.jsonl", folder / "prompts.jsonl"
    if all(path.is_file() for path in paths):
        log_info(f"{folder} holds a corpus already: nothing to do")
        return
    template = config.text.template or ""
    if template.count("{document}") != 1 or config.held_out_every < 2:
        raise UserError(
            f"found text.template={template!r}, held_out_every={config.held_out_every}; expected "
            "one {document}, and at least 2; choose +chat@text=small_lm, say"
        )
    train, held_out = split(conversations(texts(config.text)), config.held_out_every)
    if not held_out:
        raise UserError(
            f"found {len(train)} documented functions in {config.text.path}; expected at least "
            f"{config.held_out_every}; give Python sources with docstrings"
        )
    folder.mkdir(parents=True, exist_ok=True)
    rows = ({"text": found.text(template)} for found in train)
    prompts = (asdict(found) for found in held_out)
    write_all([(train_path, [_lines(rows)]), (prompts_path, [_lines(prompts)])])
    log_info(f"{len(train):,} conversations in {train_path}, {len(held_out):,} in {prompts_path}")


def _lines(rows: Iterable[dict[str, Any]]) -> bytes:
    return "".join(f"{json.dumps(row)}\n" for row in rows).encode()


main = entry("chat_corpus")
