"""What it means that a store is whole, and a list of everything that is not."""

import hashlib
import json
import re
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from sae_dist.common.errors import UserError
from sae_dist.common.log import progress
from sae_dist.store.arrays import ArraySpec, array_specs, metadata
from sae_dist.store.checksum import crc32
from sae_dist.store.layout import Layout
from sae_dist.store.links import file_problem, folder_problems
from sae_dist.store.schema import MANIFEST_FILE, FileRecord, Manifest, load

MAX_METADATA_BYTES = 2**20
MAX_SHARD_BYTES = 2**30
_SITE_NAME = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.\-]{0,127}")


def verify(path: str | Path, full: bool = False, workers: int = 4) -> list[str]:
    """Everything wrong with a sealed store, one line each; an empty list when it is whole.

    Without `full`: manifest, metadata, and the size of every file. With `full` also the CRC-32 of
    every whole file, read by `workers` threads; this finds flipped bits and swapped files.
    """
    root = Path(path)
    try:
        manifest = load(root / MANIFEST_FILE, Manifest)
    except FileNotFoundError:
        return [f"{root / MANIFEST_FILE} is missing"]
    except UserError as error:
        return [str(error)]
    problems = list(manifest_problems(manifest)) or list(file_problems(root, manifest))
    return [*problems, *checksum_problems(root, manifest, workers)] if full else problems


def site_problems(widths: dict[str, int]) -> Iterator[str]:
    """Sites whose name cannot be a folder's, or whose width is not positive."""
    if not widths:
        yield "found no site; expected at least one"
    for site, width in widths.items():
        if not _SITE_NAME.fullmatch(site):
            yield (
                f"found site {site[:130]!r}; expected letters, digits, '_', '-' and inner dots, "
                "at most 128 of them"
            )
        if type(width) is not int or width < 1:
            yield f"found width {width!r} at site {site!r}; expected a positive number"


def manifest_problems(manifest: Manifest, max_shard_bytes: int = MAX_SHARD_BYTES) -> Iterator[str]:
    """What in a manifest contradicts itself, or would lead outside the store or out of memory."""
    layout = manifest.layout
    numbers = [getattr(layout, name) for name in Layout.__dataclass_fields__]
    if any(type(number) is not int or number < 1 for number in numbers):
        yield f"found {layout}; expected positive whole numbers"
        return
    if layout.shard_sequences % layout.chunk_sequences:
        yield f"found {layout}; expected shards of whole chunks"
    yield from (problems := list(site_problems(manifest.widths)))
    if problems:
        return
    specs = array_specs(manifest.widths, layout.sequence_length, manifest.dtype)
    for spec in specs.values():
        if (found := layout.shard_sequences * spec.sequence_bytes) > max_shard_bytes:
            yield f"found {found} bytes a shard in {spec.path}; expected at most {max_shard_bytes}"
    units = [shard.unit for shard in manifest.shards]
    if units != sorted(set(units)) or not set(units) <= set(range(layout.num_shards)):
        yield f"found units {units[:5]}…; expected 0 to {layout.num_shards - 1} once each, in order"
        return
    for shard in manifest.shards:
        if set(shard.files) != {spec.file(shard.unit) for spec in specs.values()}:
            yield f"found files {sorted(shard.files)} in unit {shard.unit}; expected one an array"
        if len(shard.trainable_per_chunk) != len(layout.chunks_of(shard.unit)):
            yield f"found {len(shard.trainable_per_chunk)} chunk counts in unit {shard.unit}"


def file_problems(root: Path, manifest: Manifest) -> Iterator[str]:
    """Metadata that differs from what the manifest implies; files missing or of another size."""
    specs = array_specs(manifest.widths, manifest.layout.sequence_length, manifest.dtype)
    yield from (links := list(folder_problems(root, specs)))
    if links:
        return
    for spec in specs.values():
        yield from _metadata_problems(root, spec, manifest)
    for file, record in _records(manifest):
        try:
            odd, found = file_problem(root / file), (root / file).stat().st_size
        except FileNotFoundError:
            yield f"{root / file} is missing"
            continue
        if odd:
            yield odd
            continue
        if found != record.bytes:
            yield f"found {root / file} with {found} bytes; expected {record.bytes}"


def checksum_problems(root: Path, manifest: Manifest, workers: int) -> list[str]:
    """Files whose bytes differ from the manifest's CRC-32; missing files are not repeated here."""

    def check(item: tuple[str, FileRecord]) -> str | None:
        file, record = item
        path = root / file
        if not path.is_file() or (found := crc32(path)) == record.crc32:
            return None
        return f"found {path} with crc32 {found}; expected {record.crc32}"

    records = list(_records(manifest))
    with ThreadPoolExecutor(workers) as pool:
        results = list(progress(pool.map(check, records), total=len(records), desc="verify"))
    return [problem for problem in results if problem is not None]


def _records(manifest: Manifest) -> Iterator[tuple[str, FileRecord]]:
    for shard in manifest.shards:
        yield from shard.files.items()


def _metadata_problems(root: Path, spec: ArraySpec, manifest: Manifest) -> Iterator[str]:
    """Size first, then JSON, then each entry against the only values that this format allows."""
    path = root / spec.metadata_file
    try:
        if odd := file_problem(path):
            yield odd
            return
        with open(path, "rb") as file:
            data = file.read(MAX_METADATA_BYTES + 1)
    except FileNotFoundError:
        yield f"{path} is missing"
        return
    if len(data) > MAX_METADATA_BYTES:
        yield f"found {path} longer than {MAX_METADATA_BYTES} bytes; expected zarr metadata"
        return
    try:
        found = dict(json.loads(data))
    except (ValueError, TypeError, RecursionError) as error:
        yield f"found {path} unreadable ({type(error).__name__}); expected zarr metadata"
        return
    expected = metadata(spec, manifest.layout)
    for key in sorted(found.keys() | expected.keys()):
        if found.get(key) != expected.get(key):
            shown = repr(found.get(key))[:200]
            yield f"found {key} = {shown} in {path}; expected {expected.get(key)!r}"
            return
    if hashlib.sha256(data).hexdigest() != manifest.metadata.get(spec.metadata_file):
        yield f"found {path} with another sha256 than the manifest's; expected equal bytes"
