"""What a stage is made of: parts, each of which may fail for itself."""

from collections.abc import Callable, Iterable, Iterator

from benchmarks.figures import Figure, LeftOut

Parts = Iterator[tuple[str, Callable[[], Iterable[Figure | LeftOut]]]]
"""Names, and what gives the figures; each is to be used up before the next one is asked for."""
