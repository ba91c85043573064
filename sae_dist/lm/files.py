"""Where the files of a language model lie, exactly which ones, and what is wrong with them."""

import hashlib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

import transformers
from huggingface_hub import hf_hub_download
from huggingface_hub.errors import StrictDataclassError
from safetensors import SafetensorError, safe_open
from transformers import PretrainedConfig

from sae_dist.common.errors import UserError
from sae_dist.lm.config import LMConfig, local_folder

_SAMPLE_BYTES = 1 << 20
_POINTER = b"version https://git-lfs"
# transformers looks at no file before it uses it, so that what one holds may go wrong in any of
# these ways; torch's and safetensors' own errors are among them.
_KINDS = (
    *(OSError, ValueError, TypeError, LookupError, AttributeError, ArithmeticError, EOFError),
    *(ImportError, RuntimeError, UnpicklingError, SafetensorError, StrictDataclassError),
)


def find_lm(config: LMConfig, key: str = "lm.name") -> tuple[str, str | None]:
    """The folder of a model; or its name on the Hub, and the commit that `revision` means today.

    Raises UserError, naming the setting `key`, for a folder or a name that is not there.
    """
    if (folder := local_folder(config, key)) is not None:
        return str(folder), None
    with told_in_one_line(config, "a language model", key):
        return config.name, _snapshot(config).name


def revision_of(source: str, commit: str | None) -> str:
    """What tells a model's weights from others: see `LM`. No weights are loaded.

    Raises UserError for a folder that holds no model.
    """
    return commit or _folder_revision(Path(source))


def read_config(config: LMConfig, key: str = "lm.name") -> PretrainedConfig:
    """What a model's `config.json` says of it. Raises UserError if it cannot be read."""
    source, commit = find_lm(config, key)
    with told_in_one_line(config, "a configuration", key):
        found: PretrainedConfig = transformers.AutoConfig.from_pretrained(
            source, revision=commit, trust_remote_code=config.trust_remote_code
        )
        return found


@contextmanager
def told_in_one_line(config: LMConfig, what: str, key: str) -> Iterator[None]:
    """Turn whatever loading a model's files as `what` raises into a UserError that says why."""
    try:
        yield
    except _KINDS as error:
        asks = "trust_remote_code" in str(error) and not config.trust_remote_code
        leave = f"set {key.removesuffix('name')}trust_remote_code=true if you trust its code"
        raise UserError(
            f"found that {config.name} does not load as {what} ({_reason(config, error)}); "
            "expected a saved model and tokenizer in a folder or on the Hub; "
            + (leave if asks else f"restore that file, or correct {key} or its revision")
        ) from error


def _reason(config: LMConfig, error: Exception) -> str:
    """The file that is to blame where that can be seen, else what the error says first."""
    if damage := next(_damaged(Path(config.name).expanduser()), None):
        return damage
    if isinstance(error, UnpicklingError):  # whose own words advise to run what is in there
        return "its .bin holds more than tensors, or none"
    lines = [line.strip() for line in str(error).splitlines() if line.strip()] or [
        "no more is said"
    ]
    told = " ".join(lines[: 2 if lines[0].endswith(":") else 1])
    is_plain = isinstance(error, OSError | ValueError | ImportError | RuntimeError)
    return told if is_plain else f"{type(error).__name__}: {told}"


def _damaged(folder: Path) -> Iterator[str]:
    """Files of a folder that are not what their names say."""
    for path in sorted(path for path in folder.glob("*.*") if path.is_file()):
        with path.open("rb") as file:
            is_pointer = file.read(len(_POINTER)) == _POINTER
        if is_pointer:
            yield f"{path} is a Git LFS pointer instead of the file: run `git lfs pull` there"
        elif path.suffix == ".bin" and not zipfile.is_zipfile(path):
            yield f"{path} is cut short, or no file of weights"
        elif path.suffix == ".safetensors":
            try:
                with safe_open(path, framework="pt"):
                    pass
            except (OSError, SafetensorError) as error:
                yield f"{path} is cut short, or no file of weights: {error}"


def _snapshot(config: LMConfig) -> Path:
    """Where the Hub's cache holds a revision; offline, as it was last downloaded."""
    return Path(hf_hub_download(config.name, "config.json", revision=config.revision)).parent


def _folder_revision(folder: Path) -> str:
    described = folder / "config.json"
    if not described.is_file():
        raise UserError(f"found no {described}; expected a saved model; restore it")
    digest = hashlib.sha256(described.read_bytes())
    for path in sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")]):
        size = path.stat().st_size
        digest.update(f"{path.name} {size}\n".encode())
        with open(path, "rb") as file:
            digest.update(file.read(_SAMPLE_BYTES))
            file.seek(max(0, size - _SAMPLE_BYTES))
            digest.update(file.read())
    return digest.hexdigest()


def refuse_unlike(config: LMConfig, loaded: dict[str, Any]) -> None:
    """Refuse weights that are missing, or of other shapes: transformers fills them at random.

    Args:
        loaded: what `from_pretrained` tells of its loading.

    Raises:
        UserError: naming some of them.
    """
    if unlike := sorted(loaded["mismatched_keys"]):
        name, found, expected = unlike[0]
        raise UserError(
            f"found {name} of shape {list(found)} in {config.name} ({len(unlike)} of other shapes);"
            f" expected {list(expected)}, as its config.json says; restore the one or the other"
        )
    if missing := sorted(loaded["missing_keys"]):
        raise UserError(
            f"found no weights for {', '.join(missing[:3])} ({len(missing)} missing) in "
            f"{config.name}; expected all that {config.auto_class} has; set lm.auto_class"
        )
