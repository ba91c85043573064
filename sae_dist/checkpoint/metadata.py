"""Reading `.metadata`, the pickle in which torch says which tensor lies in which file.

`dcp.load` unpickles that file without limits, and a pickle may call any function. Checksums do not
help against someone who writes the record anew as well. So it is read here, with an unpickler that
knows the classes of which metadata consists and nothing else, and torch gets the result. Tensors
themselves torch reads with `weights_only=True`; an entry of bytes, which it would unpickle without
limits, is not among the known classes, and no checkpoint of ours has one.
"""

import pickle
from pathlib import Path
from typing import Any

import torch
from torch.distributed.checkpoint import FileSystemReader
from torch.distributed.checkpoint.metadata import (
    _MEM_FORMAT_ENCODING,
    Metadata,
    StorageMeta,
    TensorStorageMetadata,
)

from sae_dist.common.errors import UserError

METADATA = ".metadata"
_OF_METADATA = (
    *("Metadata", "MetadataIndex", "StorageMeta", "TensorStorageMetadata", "TensorProperties"),
    *("ChunkStorageMetadata", "_MEM_FORMAT_ENCODING"),
)
_KNOWN = {
    *(("torch.distributed.checkpoint.metadata", name) for name in _OF_METADATA),
    ("torch.distributed.checkpoint.filesystem", "_StorageInfo"),
    ("torch.serialization", "_get_layout"),
    ("torch", "Size"),
    ("pathlib", "PosixPath"),
    ("pathlib._local", "PosixPath"),  # Python 3.13
}


class _Unpickler(pickle.Unpickler):
    def find_class(self, module: str, name: str) -> Any:
        is_dtype = module == "torch" and isinstance(getattr(torch, name, None), torch.dtype)
        if is_dtype or (module, name) in _KNOWN:
            return super().find_class(module, name)
        if (module, name) == ("builtins", "getattr"):
            return _memory_format
        raise pickle.UnpicklingError(f"it asks for {module}.{name}, which no checkpoint holds")


def _memory_format(kind: Any, name: str) -> Any:
    """What early versions of Python 3.11 ask for by `getattr`: an enumeration's member."""
    if kind is not _MEM_FORMAT_ENCODING:
        raise pickle.UnpicklingError(f"it asks for {name} of {kind}, which no checkpoint holds")
    return _MEM_FORMAT_ENCODING[name]


def read_metadata(folder: Path, files: set[str]) -> Metadata:
    """The metadata of a checkpoint that consists of `files`.

    Raises:
        UserError: it holds anything else than metadata of tensors, or leads to another file.
    """
    path = folder / METADATA
    try:
        with open(path, "rb") as file:
            metadata = _Unpickler(file).load()
        if not isinstance(metadata, Metadata):
            raise ValueError(f"it is a {type(metadata).__name__}")
        entries = list(metadata.state_dict_metadata.values())
        parts = list(metadata.storage_data.values())
        if not all(isinstance(entry, TensorStorageMetadata) for entry in entries):
            raise ValueError("it describes other things than tensors")
        if not all(part.relative_path in files for part in parts):
            raise ValueError("it leads to files that are not of this checkpoint")
        if any(part.transform_descriptors for part in parts):
            raise ValueError("it asks for transformed files")
    except Exception as error:  # a pickle from outside can fail in any way
        raise UserError(
            f"{path} is no metadata of a checkpoint of ours: {error}; do not trust that folder, "
            "and load a checkpoint that this run has written"
        ) from error
    return metadata


class CheckedReader(FileSystemReader):
    """Reads a checkpoint's tensors by metadata that has been read already."""

    def __init__(self, folder: Path, metadata: Metadata) -> None:
        super().__init__(folder)
        self._metadata = metadata

    def read_metadata(self, *args: Any, **kwargs: Any) -> Metadata:
        """The metadata given; the file is not opened again."""
        if self._metadata.storage_meta is None:
            self._metadata.storage_meta = StorageMeta()
        self._metadata.storage_meta.load_id = self.load_id
        return self._metadata
