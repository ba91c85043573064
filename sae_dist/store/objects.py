"""The files of a store in an object store: `s3://bucket/path`, `gs://…`, `az://…`, by obstore.

Credentials, regions and endpoints are found as obstore finds them: in the environment
(`AWS_ACCESS_KEY_ID`, `AWS_ENDPOINT_URL`, …), in the machine's role. An object appears whole or not
at all; a commit is a conditional put, which one writer's alone succeeds.
"""

from collections.abc import Iterable, Iterator
from contextlib import contextmanager, suppress

import numpy as np
import obstore
from obstore.exceptions import AlreadyExistsError, BaseError
from obstore.store import from_url
from typing_extensions import override

from sae_dist.common.errors import UserError
from sae_dist.store.files import Files

_PART_BYTES = 16 << 20  # of an upload in parts


class ObjectFiles(Files):
    """The objects under a URL; there are no folders, and so no links."""

    def __init__(self, url: str) -> None:
        self._url = url.rstrip("/")
        try:
            with _explained(self._url):
                self._store = from_url(self._url)
        except ValueError as error:  # of a scheme or a path that is none
            raise UserError(
                f"found {self._url} ({error}); expected s3://BUCKET/PATH, gs:// or az://; change it"
            ) from error

    @override
    def path(self, name: str = "") -> str:
        return f"{self._url}/{name}" if name else self._url

    @override
    def exists(self, name: str) -> bool:
        try:
            self.size(name)
        except FileNotFoundError:
            return False
        return True

    @override
    def size(self, name: str) -> int:
        with _explained(self.path(name)):
            return obstore.head(self._store, name)["size"]

    @override
    def read(self, name: str) -> bytes:
        with _explained(self.path(name)):
            return bytes(obstore.get(self._store, name).bytes())

    @override
    def read_into(self, name: str, offset: int, out: np.ndarray) -> None:
        with _explained(self.path(name)):
            end = offset + out.nbytes
            data = obstore.get_range(self._store, name, start=offset, end=end)
        if len(data) < out.nbytes:
            raise OSError("object too short")
        out[:] = np.frombuffer(memoryview(data), np.uint8)  # no copy but this one

    @override
    def create(self, name: str, data: bytes) -> bool:
        with _explained(self.path(name)), suppress(AlreadyExistsError):
            obstore.put(self._store, name, data, mode="create")
            return True
        return False

    @override
    def write(self, name: str, data: bytes) -> None:
        with _explained(self.path(name)):
            obstore.put(self._store, name, data)

    @override
    def write_parts(self, name: str, parts: Iterable[memoryview]) -> None:
        with (
            _explained(self.path(name)),
            obstore.open_writer(self._store, name, buffer_size=_PART_BYTES) as writer,
        ):
            for part in parts:
                writer.write(bytes(part))

    @override
    def rename(self, source: str, target: str) -> None:
        with _explained(self.path(source)):
            obstore.rename(self._store, source, target)

    @override
    def list(self, folder: str) -> list[str]:
        with _explained(self.path(folder)):
            found = obstore.list_with_delimiter(self._store, folder or None)["objects"]
        return sorted(entry["path"].rpartition("/")[2] for entry in found)

    @override
    def remove(self, name: str) -> None:
        with _explained(self.path(name)), suppress(FileNotFoundError):
            obstore.delete(self._store, name)

    @override
    def make_folders(self, folders: Iterable[str]) -> None:
        pass

    @override
    def check_folders(self, folders: Iterable[str]) -> None:
        pass

    @override
    def remove_folders(self, folders: Iterable[str]) -> None:
        pass


@contextmanager
def _explained(path: str) -> Iterator[None]:
    """Errors of the service in one line that names the object."""
    try:
        yield
    except BaseError as error:
        raise UserError(
            f"found no answer for {path} ({str(error).splitlines()[0]}); expected an object store "
            "that can be reached; check its URL, and the credentials in the environment"
        ) from error
