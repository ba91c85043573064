"""What `make bench` times: which program, on which coder, at which precision."""

from collections.abc import Iterable
from dataclasses import dataclass
from typing import Any

OURS, NAIVE = "sae_dist", "naive torch"
MODULES = {
    OURS: "benchmarks.steps",
    NAIVE: "benchmarks.naive",
    "sparsify": "benchmarks.peers.sparsify",
    "dictionary_learning": "benchmarks.peers.dictionary_learning",
    "SAELens": "benchmarks.peers.sae_lens",
    "Llamascopium": "benchmarks.peers.llamascopium",
}
PACKAGES = {
    "sparsify": "eai-sparsify",
    "dictionary_learning": "dictionary-learning",
    "SAELens": "sae-lens",
    "Llamascopium": "llamascopium",
}
PRECISIONS = ["float32", "bfloat16"]
_KINDS = ["topk", "batchtopk", "jumprelu"]


@dataclass(frozen=True)
class Sizes:
    """D, the batch, and the widths: a peer runs in all of its settings at the first of them."""

    d_in: int
    batch: int
    widths: tuple[int, ...]


ON_CPU = Sizes(768, 4096, (16_384, 65_536))
ON_GPU = Sizes(2304, 4096, (16_384, 131_072, 1_048_576))


@dataclass(frozen=True)
class Case:
    """One program on one coder: a process of its own."""

    program: str
    kind: str
    num_latents: int
    d_in: int
    batch: int
    setting: str

    def __str__(self) -> str:
        return f"{self.program} {self.kind} {self.num_latents} {self.setting}"

    @property
    def arguments(self) -> list[str]:
        """The command line that times it, after the interpreter."""
        options = {
            "--kind": self.kind,
            "--num-latents": self.num_latents,
            "--d-in": self.d_in,
            "--batch": self.batch,
            "--setting": self.setting,
        }
        pairs = [text for option in options.items() for text in map(str, option)]
        return ["-m", MODULES[self.program], *pairs]


def own_cases(sizes: Sizes) -> list[Case]:
    """This project's step at each precision, and the naive one."""
    kinds = ["topk", "topk+auxk", "batchtopk", "jumprelu"]
    chosen = [(OURS, kind, n, s) for n in sizes.widths for kind in kinds for s in PRECISIONS]
    chosen += [(NAIVE, kind, n, "medium") for n in sizes.widths for kind in _KINDS]
    return [Case(p, kind, n, sizes.d_in, sizes.batch, s) for p, kind, n, s in chosen]


def peer_cases(sizes: Sizes, *, is_cuda: bool) -> list[Case]:
    """What each peer offers at the first width; the fastest settings, as known, come first."""
    plain = ["medium", "highest"]
    own_bf16 = ["bf16", *plain]
    lens = {"topk": ["medium+sparse", "highest+sparse", *own_bf16]}
    scopium = ["bf16+sparse", "medium+sparse", *own_bf16] if is_cuda else own_bf16
    settings: dict[str, dict[str, list[str]]] = {
        "sparsify": {"topk": plain},
        "dictionary_learning": dict.fromkeys(_KINDS, own_bf16 if is_cuda else plain),
        "SAELens": dict.fromkeys(_KINDS, own_bf16) | lens,
        "Llamascopium": dict.fromkeys(_KINDS, scopium),
    }
    cases = [
        (order, Case(peer, kind, sizes.widths[0], sizes.d_in, sizes.batch, setting))
        for peer, kinds in settings.items()
        for kind, choices in kinds.items()
        for order, setting in enumerate(choices)
    ]
    return [case for _, case in sorted(cases, key=lambda pair: pair[0])]


def wide_cases(sizes: Sizes, results: Iterable[dict[str, Any]]) -> list[Case]:
    """The other widths, for each peer and kind in the setting that was fastest at the first."""
    fastest: dict[tuple[str, str], dict[str, Any]] = {}
    for case in results:
        key = case["program"], case["kind"]
        if case["program"] in PACKAGES and case["num_latents"] == sizes.widths[0]:
            fastest[key] = min(fastest.get(key, case), case, key=lambda one: one["ms"])
    return [
        Case(peer, kind, width, sizes.d_in, sizes.batch, case["setting"])
        for width in sizes.widths[1:]
        for (peer, kind), case in fastest.items()
    ]


def combine(cases: list[dict[str, Any]]) -> list[dict[str, Any]]:
    """One row for each of our cases, beside the peers' fastest and the floor."""
    rows = []
    for own in (case for case in cases if case["program"] == OURS):
        shape = ["kind", "num_latents", "d_in", "batch"]
        same = [case for case in cases if all(case[key] == own[key] for key in shape)]
        peers: dict[str, float] = {}
        for case in same:
            if case["program"] in PACKAGES:
                name = case["program"]
                peers[name] = min(peers.get(name, case["ms"]), case["ms"])
        naive = [case["ms"] for case in same if case["program"] == NAIVE]
        rows.append(
            {
                "kind": own["kind"],
                "dtype": own["setting"],
                "num_latents": own["num_latents"],
                "d_in": own["d_in"],
                "batch": own["batch"],
                "ms": own["ms"],
                "l0": own["l0"],
                "peers": peers,
                "ratio_to_best_peer": min(peers.values()) / own["ms"] if peers else None,
                "naive_ms": min(naive) if naive else None,
                "floor_ms": own["floor_ms"],
                "ratio_to_floor": own["ms"] / own["floor_ms"],
                "peak_bytes": own["peak_bytes"],
            }
        )
    return rows
