"""Load a frozen language model with its tokenizer, from the Hub or from a folder."""

import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

import torch
import transformers
from huggingface_hub import hf_hub_download
from transformers import PreTrainedModel, PreTrainedTokenizerBase

from sae_dist.common.errors import UserError
from sae_dist.lm.config import LMConfig, local_folder
from sae_dist.lm.fold import fold_rms_norms

_SAMPLE_BYTES = 1 << 20


@dataclass(slots=True)
class LM:
    """A frozen language model. `revision` says exactly which weights it has.

    It is the commit on the Hub, or for a folder a SHA-256 over its configuration and, of each file
    of weights, the name, the size and the first and last MiB.
    """

    model: PreTrainedModel
    tokenizer: PreTrainedTokenizerBase
    config: LMConfig
    revision: str


def load_lm(config: LMConfig, device: torch.device | str | None = None, **loading: Any) -> LM:
    """Load model and tokenizer: eval mode, no gradients, no cache, on `device` (None: as loaded).

    `loading` are further arguments for the model's `from_pretrained`.

    Raises UserError for a missing folder, an unknown name, revision or auto class, weights that are
    missing, and for a model whose norms cannot be folded though `fold_norms` asks for it.
    """
    auto_class = _auto_class(config.auto_class)
    with _told_in_one_line(config):
        source, commit = _source(config)
        shared: dict[str, Any] = {"revision": commit, "trust_remote_code": config.trust_remote_code}
        tokenizer = transformers.AutoTokenizer.from_pretrained(source, **shared)
        if config.attn_implementation:
            shared["attn_implementation"] = config.attn_implementation
        model, loaded = auto_class.from_pretrained(
            source, dtype=config.dtype.value, output_loading_info=True, **shared, **loading
        )
    _refuse_missing(config, sorted(loaded["missing_keys"]))
    model.eval().requires_grad_(False)
    for part in (model.config, model.config.get_text_config()):
        part.use_cache = False
    if config.fold_norms:
        fold_rms_norms(model)
    revision = commit or _folder_revision(Path(source))
    return LM(model if device is None else model.to(device), tokenizer, config, revision)


def load_tokenizer(config: LMConfig) -> PreTrainedTokenizerBase:
    """The tokenizer alone. Raises UserError for a missing folder, an unknown name or revision."""
    with _told_in_one_line(config):
        source, commit = _source(config)
        return transformers.AutoTokenizer.from_pretrained(
            source, revision=commit, trust_remote_code=config.trust_remote_code
        )


def _source(config: LMConfig) -> tuple[str, str | None]:
    """The folder of a model; or its name on the Hub, and the commit."""
    folder = local_folder(config)
    return (config.name, _commit(config)) if folder is None else (str(folder), None)


def _auto_class(name: str) -> Any:
    known = [key for key in dir(transformers) if key.startswith("AutoModel")]
    if name in known:
        return getattr(transformers, name)
    near = get_close_matches(name, known, n=3) or ["AutoModelForCausalLM"]
    raise UserError(
        f"found lm.auto_class={name}; expected a class of transformers; "
        f"did you mean {', '.join(near)}"
    )


def _refuse_missing(config: LMConfig, names: list[str]) -> None:
    """Weights that a checkpoint lacks were filled at random; transformers only warns."""
    if names:
        raise UserError(
            f"found no weights for {', '.join(names[:3])} ({len(names)} missing) in {config.name}; "
            f"expected all that {config.auto_class} has; set lm.auto_class"
        )


def _commit(config: LMConfig) -> str:
    """The commit that a revision means today; offline, when it was last downloaded."""
    path = hf_hub_download(config.name, "config.json", revision=config.revision)
    return Path(path).parent.name  # …/snapshots/<commit>/config.json


def _folder_revision(folder: Path) -> str:
    digest = hashlib.sha256((folder / "config.json").read_bytes())
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with open(path, "rb") as file:
            digest.update(file.read(_SAMPLE_BYTES))
            file.seek(max(0, size - _SAMPLE_BYTES))
            digest.update(file.read())
    return digest.hexdigest()


@contextmanager
def _told_in_one_line(config: LMConfig) -> Iterator[None]:
    try:
        yield
    except (OSError, ValueError, ImportError) as error:
        reason = (str(error).strip().splitlines() or [type(error).__name__])[0]
        raise UserError(
            f"found that {config.name} does not load as {config.auto_class} ({reason}); expected a "
            "saved model and tokenizer in a folder or on the Hub; correct lm.name or lm.revision"
        ) from error
