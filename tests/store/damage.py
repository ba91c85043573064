"""Ways to damage a store."""

import hashlib
import json
import os
import random
from collections.abc import Callable
from pathlib import Path
from typing import Any


def flip(path: Path, bit: int) -> None:
    content = bytearray(path.read_bytes())
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)


def forge(path: Path, change: Callable[[dict[str, Any]], Any]) -> None:
    """Change a JSON file of a store as somebody would who knows of its sha256."""
    value = json.loads(path.read_text())
    del value["sha256"]
    change(value)
    plain = json.dumps(value, indent=2).encode()
    digest = hashlib.sha256(plain).hexdigest()
    path.write_bytes(plain.removesuffix(b"\n}") + f',\n  "sha256": "{digest}"\n}}'.encode())


def swap(first: Path, second: Path) -> None:
    content = first.read_bytes()
    first.write_bytes(second.read_bytes())
    second.write_bytes(content)


KINDS = ("bit flip", "truncation", "removal", "swap", "extra byte")


def damage(root: Path, kind: str, dice: random.Random) -> tuple[list[Path], Callable[[], None]]:
    """Damage one file, or swap two; return these and what undoes it."""
    files = sorted(path for path in root.rglob("*") if path.is_file())
    path = dice.choice(files)
    content = path.read_bytes()
    if kind == "swap":
        other = dice.choice([file for file in files if file.read_bytes() != content])
        swap(path, other)
        return [path, other], lambda: swap(path, other)
    if kind == "bit flip":
        flip(path, dice.randrange(8 * len(content)))
    elif kind == "truncation":
        os.truncate(path, dice.randrange(len(content)))
    elif kind == "removal":
        path.unlink()
    else:
        place = dice.randrange(len(content) + 1)
        path.write_bytes(content[:place] + dice.randbytes(1) + content[place:])
    return [path], lambda: path.write_bytes(content) and None
