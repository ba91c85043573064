"""Checkpoints and coders made to do harm when they are read."""

import os
import pickle
import shutil
from collections.abc import Callable
from enum import Enum
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.checkpoint.metadata import BytesStorageMetadata, TensorStorageMetadata

from sae_dist.checkpoint.metadata import METADATA
from sae_dist.checkpoint.seal import read_record, sums, write_record
from sae_dist.coders import load_coder
from sae_dist.common.errors import UserError
from tests.reliability.saved import load, save


class Canary:
    """Makes a file when it is unpickled."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, (str(self.path),)


def sealed_again(folder: Path) -> None:
    """Write the record anew, so that all checksums are right."""
    about = read_record(folder)["about"]
    files = [path for path in folder.iterdir() if path.name != "CHECKPOINT.json"]
    write_record(folder, sums(files), about)


def evil_metadata(folder: Path, canary: Path) -> None:
    (folder / METADATA).write_bytes(pickle.dumps(Canary(canary)))


def evil_entry(folder: Path, canary: Path) -> None:
    """An entry of bytes, which torch would unpickle without limits."""
    metadata = pickle.loads((folder / METADATA).read_bytes())
    metadata.state_dict_metadata["rung/W"] = BytesStorageMetadata()
    (folder / METADATA).write_bytes(pickle.dumps(metadata))
    evil_tensors(folder, canary)


def evil_tensors(folder: Path, canary: Path) -> None:
    with open(folder / "__0_0.distcp", "r+b") as file:
        torch.save({"W": Canary(canary)}, file)


def evil_place(folder: Path, canary: Path) -> None:
    """Tensors that are said to lie in another folder."""
    metadata = pickle.loads((folder / METADATA).read_bytes())
    for part in metadata.storage_data.values():
        part.relative_path = "../step-1/__0_0.distcp"
    (folder / METADATA).write_bytes(pickle.dumps(metadata))


class ByName(pickle.Pickler):
    """Writes enumerations as early versions of Python 3.11 do, Debian 12's among them."""

    def reducer_override(self, value: Any) -> Any:
        return (getattr, (type(value), value.name)) if isinstance(value, Enum) else NotImplemented


class Call:
    """Calls a function when it is unpickled."""

    def __init__(self, function: Callable[..., Any], *arguments: Any) -> None:
        self.call = function, arguments

    def __reduce__(self) -> tuple[Any, ...]:
        return self.call


def evil_member(folder: Path, canary: Path) -> None:
    """An attribute of what is no enumeration; the rest is as it was."""
    metadata = pickle.loads((folder / METADATA).read_bytes())
    metadata.planner_data = Call(getattr, TensorStorageMetadata, "__init__")
    (folder / METADATA).write_bytes(pickle.dumps(metadata))


def test_metadata_of_another_python_is_read(tmp_path: Path) -> None:
    save(tmp_path / "run", 1)
    step = tmp_path / "run" / "step-1"
    metadata = pickle.loads((step / METADATA).read_bytes())
    with open(step / METADATA, "wb") as file:
        ByName(file).dump(metadata)
    assert b"getattr" in (step / METADATA).read_bytes()
    sealed_again(step)
    assert load(tmp_path / "run") == 1


@pytest.mark.parametrize("is_sealed", [False, True])
@pytest.mark.parametrize("harm", [evil_metadata, evil_entry, evil_member, evil_tensors, evil_place])
def test_no_code_of_a_checkpoint_runs(
    tmp_path: Path, harm: Callable[[Path, Path], None], is_sealed: bool
) -> None:
    save(tmp_path / "run", 1, 2)
    step, canary = tmp_path / "run" / "step-2", tmp_path / "canary"
    harm(step, canary)
    if is_sealed:
        sealed_again(step)
    with pytest.raises(UserError, match=r"^[^\n]*step-2[^\n]*$"):
        load(tmp_path / "run")
    assert not canary.exists()
    shutil.rmtree(step)
    assert load(tmp_path / "run") == 1


def test_the_canary_does_run_where_nothing_keeps_it(tmp_path: Path) -> None:
    pickle.loads(pickle.dumps(Canary(tmp_path / "canary")))
    assert (tmp_path / "canary").exists()


@pytest.mark.parametrize("name", ["evil.pt", "coder.json"])
def test_a_pickle_given_for_a_coder_is_refused(tmp_path: Path, name: str) -> None:
    torch.save(Canary(tmp_path / "canary"), tmp_path / name)
    with pytest.raises(UserError, match="expected coder.json and coder.safetensors"):
        load_coder(tmp_path / name)
    assert not (tmp_path / "canary").exists()
