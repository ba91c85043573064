"""The checksum of a whole shard file."""

import zlib
from collections.abc import Iterable
from pathlib import Path

_BLOCK_BYTES = 1 << 22


def crc32(path: Path) -> str:
    """CRC-32 (the polynomial of zlib) of a whole file, as eight hexadecimal digits.

    Not CRC-32C: chunks end with their own CRC-32C, and the CRC of any data followed by its CRC is
    the same constant, so the CRC-32C of every whole shard is equal and two swapped ones look right.
    """
    value = 0
    with open(path, "rb", buffering=0) as file:
        while block := file.read(_BLOCK_BYTES):
            value = zlib.crc32(block, value)
    return f"{value:08x}"


def crc32_of(parts: Iterable[memoryview]) -> str:
    """The `crc32` of the file that holds these bytes, one part after the other."""
    value = 0
    for part in parts:
        value = zlib.crc32(part, value)
    return f"{value:08x}"
