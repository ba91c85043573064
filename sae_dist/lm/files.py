"""Where the files of a language model lie, exactly which ones, and what is wrong with them."""

import hashlib
import zipfile
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from pickle import UnpicklingError
from typing import Any

from huggingface_hub import hf_hub_download
from safetensors import SafetensorError, safe_open
from transformers import AutoConfig, PretrainedConfig

from sae_dist.common.errors import UserError
from sae_dist.common.names import nearest
from sae_dist.lm.config import LMConfig, LMDtype, local_folder
from sae_dist.lm.packages import published, require_gguf, unpacked

_SAMPLE_BYTES = 1 << 20
_POINTER = b"version https://git-lfs"


@dataclass(frozen=True, slots=True)
class LMFiles:
    """A model's files: those of a folder, or of a name on the Hub at a commit; or one of GGUF."""

    config: LMConfig
    key: str
    source: str
    commit: str | None
    gguf: Path | None = None

    def load(self, auto_class: Any, what: str, **options: Any) -> Any:
        """What a class of transformers makes of them.

        Raises UserError, naming the setting `key`, where it does not load as `what`.
        """
        if self.gguf is not None:
            options["gguf_file"] = str(self.gguf)
        with told_in_one_line(self.config, what, self.key):
            return auto_class.from_pretrained(
                self.source,
                revision=self.commit,
                trust_remote_code=self.config.trust_remote_code,
                **options,
            )

    @property
    def revision(self) -> str:
        """What tells a model's weights from others: see `LM`. No weights are loaded.

        Raises UserError for a folder that holds no model.
        """
        if self.commit is not None:
            return self.commit
        digest, folder = hashlib.sha256(), Path(self.source)
        weights = sorted([*folder.glob("*.safetensors"), *folder.glob("*.bin")])
        if self.gguf is None:
            if not (described := folder / "config.json").is_file():
                raise UserError(f"found no {described}; expected a saved model; restore it")
            digest.update(described.read_bytes())
        for path in weights if self.gguf is None else [self.gguf]:
            size = path.stat().st_size
            digest.update(f"{path.name} {size}\n".encode())
            with open(path, "rb") as file:
                digest.update(file.read(_SAMPLE_BYTES))
                file.seek(max(0, size - _SAMPLE_BYTES))
                digest.update(file.read())
        return digest.hexdigest()


def find_lm(config: LMConfig, key: str = "lm.name") -> LMFiles:
    """Where a model's files are; on the Hub, at the commit that `revision` means today.

    One that is `published` in packages, too, is known by its file's SHA-256, wherever it is from.

    Raises UserError, naming the setting `key`, for a folder, a name or a file of GGUF that is not
    there, and for what GGUF cannot have.
    """
    folder, file = local_folder(config, key), config.gguf_file or "config.json"
    if folder is None and (one := published(config)) is not None:
        return LMFiles(config, key, str(unpacked(one, key)), one.sha256)
    if config.gguf_file is not None:
        _check_gguf(config)
    path, commit = Path(folder or "", file), None
    if folder is None:
        with told_in_one_line(config, "a language model", key):
            path = Path(hf_hub_download(config.name, file, revision=config.revision))
        commit = path.parents[len(Path(file).parts) - 1].name
    if config.gguf_file is None:
        return LMFiles(config, key, str(folder or config.name), commit)
    if not path.is_file():
        others = [other.name for other in path.parent.glob("*.gguf")]
        raise UserError(f"found no {path}{nearest(file, others)}; expected a file of GGUF in {key}")
    return LMFiles(config, key, str(path.parent), commit, path.absolute())


def _check_gguf(config: LMConfig) -> None:
    require_gguf(str(config.gguf_file))
    if config.dtype is LMDtype.auto or config.tensor > 1:
        raise UserError(
            f"lm.gguf_file={config.gguf_file} with lm.dtype={config.dtype}, "
            f"lm.tensor={config.tensor}; expected a named dtype, as its weights are dequantised, "
            "and whole matrices; correct them"
        )


def read_config(config: LMConfig, key: str = "lm.name") -> PretrainedConfig:
    """What a model's `config.json` says of it. Raises UserError if it cannot be read."""
    described: PretrainedConfig = find_lm(config, key).load(AutoConfig, "a configuration")
    return described


@contextmanager
def told_in_one_line(config: LMConfig, what: str, key: str) -> Iterator[None]:
    """Turn whatever loading a model's files as `what` raises into a UserError that says why."""
    try:
        yield
    except Exception as error:  # transformers looks at no file before it uses it
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
