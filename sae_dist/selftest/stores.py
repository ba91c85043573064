"""Whether a store survives killed writers, and whether damage to it is found."""

import os
import shutil
import signal
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path

from sae_dist.common.errors import UserError
from sae_dist.selftest import writing
from sae_dist.selftest.check import Found, Place
from sae_dist.selftest.jobs import Job
from sae_dist.store import Store, StoreWriter, open_store, verify

WRITER = "sae_dist.selftest.writing"
_STRIDE = 7  # where in the ring of units each rank's writer begins


def killed_writers(place: Place) -> Found:
    """Writers of all ranks, each killed once in the middle, leave the store one process writes."""
    path, alone = place.folder / "store", place.folder / "alone"
    place.first(writing.begin, path)
    killed = place.together(_write, path, place.world.rank, True)
    torn = place.first(_torn, path)
    place.together(_write, path, place.world.rank, False)
    same = place.first(_sealed_as_alone, path, alone)
    text = f"{sum(killed)} killed, {torn} shards torn, "
    return Found(
        text + ("byte-identical" if same else "other bytes"),
        sum(killed) > 0 and torn == 0 and same,
    )


def damage_found(place: Place) -> Found:
    """Each kind of damage is told by verify and refused at reading, naming the file."""
    found = place.first(_damage_found, place.folder / "alone", place.folder / "damaged")
    missed = [fault for fault, told in found.items() if not told]
    text = f"{len(found) - len(missed)} of {len(found)}"
    return Found(text + (f"; missed: {', '.join(missed)}" if missed else ""), not missed)


def _write(path: Path, rank: int, kill: bool) -> bool:
    """Run a writer to its end, or kill it while it writes; whether it was killed."""
    ring = rank * _STRIDE % StoreWriter.open(path).layout.num_units
    with Job(WRITER, [str(path), str(ring)], 1) as job:
        if kill and job.wait_until(lambda: _is_writing(path)):
            job.ranks[0].kill()
        (status,) = job.wait()
    if status not in (0, -signal.SIGKILL):
        raise RuntimeError(f"a writer ended with status {status}")
    return status == -signal.SIGKILL


def _is_writing(path: Path) -> bool:
    """Whether some shards are committed and one is being written."""
    half_written = any(name.endswith(".tmp") for name in os.listdir(_site(path)))
    return half_written and len(os.listdir(path / "commits" / "units")) > 4


def _torn(path: Path) -> int:
    """Committed shards whose bytes are not what was committed."""
    return sum(_refusal(read) is not None for read in _reads(open_store(path, unsealed=True)))


def _reads(store: Store) -> Iterator[Callable[[], object]]:
    """What reads each part of a store's activations."""
    for chunk in range(len(store.chunk_rows)):
        yield partial(store.read_rows, writing.SITE, chunk)
    for sequences in store.held_out:
        yield partial(store.read_sequences, writing.SITE, sequences)


def _sealed_as_alone(path: Path, alone: Path) -> bool:
    """Seal the store, write it again in one go, and compare every file that has a name."""
    StoreWriter.open(path).seal()
    writer = writing.begin(alone)
    writing.fill(writer)
    writer.seal()
    return not verify(path, full=True) and _files(path) == _files(alone)


def _files(path: Path) -> dict[str, bytes]:
    """Every file by its path, but for those of killed writers that no reader looks at."""
    names = (file for file in sorted(path.rglob("*")) if file.is_file())
    return {
        str(file.relative_to(path)): file.read_bytes()
        for file in names
        if not file.name.startswith(".")
    }


def _flip(shard: Path, other: Path) -> None:
    data = bytearray(shard.read_bytes())
    data[len(data) // 3] ^= 1 << 4
    shard.write_bytes(data)


def _truncate(shard: Path, other: Path) -> None:
    os.truncate(shard, shard.stat().st_size // 2)


def _remove(shard: Path, other: Path) -> None:
    shard.unlink()


def _swap(shard: Path, other: Path) -> None:
    aside = shard.with_name("aside")
    shard.rename(aside)
    other.rename(shard)
    aside.rename(other)


def _damage_found(whole: Path, damaged: Path) -> dict[str, bool]:
    """Whether each kind of damage is found by verify, and at reading where chunks can tell."""
    found = {}
    for name, damage in _DAMAGES.items():
        shutil.copytree(whole, damaged)
        shard, other = sorted(_site(damaged).glob("c.*"))[:2]
        damage(shard, other)
        told = any(str(shard) in str(fault) for fault in verify(damaged, full=True))
        refusal = _refusal(_read_all, damaged)  # swapped shards have chunks that are whole
        found[name] = told and (damage is _swap or str(shard) in (refusal or ""))
        shutil.rmtree(damaged)
    return found


_DAMAGES: dict[str, Callable[[Path, Path], None]] = {
    "bit flip": _flip,
    "truncation": _truncate,
    "removal": _remove,
    "swap": _swap,
}


def _read_all(path: Path) -> None:
    for read in _reads(open_store(path)):
        read()


def _refusal(read: Callable[..., object], *args: object) -> str | None:
    try:
        read(*args)
    except UserError as error:
        return str(error)
    return None


def _site(path: Path) -> Path:
    return path / "rows" / "activations" / writing.SITE
