"""One training step, ours beside its peers', a naive one and the machine's floor.

A process of its own for each case. Peers run in all of their settings at the first width, and at
the others in the setting that was their fastest there.
"""

from collections.abc import Iterator
from pathlib import Path
from typing import Any

from benchmarks.figures import Figure, LeftOut
from benchmarks.process import call
from benchmarks.timing import DEVICE, product_error

PEERS = {  # and their packages
    "sparsify": "eai-sparsify",
    "dictionary_learning": "dictionary-learning",
    "SAELens": "sae-lens",
    "Llamascopium": "llamascopium",
}
PACKAGES: tuple[str, ...] = ()  # the peers' are in another environment: see constraints.txt
PRECISIONS = ("float32", "bfloat16")
NAIVE = "naive torch"
_MODULES = {
    "sae_dist": "own",
    NAIVE: "peers.naive",
    "sparsify": "peers.sparsify",
    "dictionary_learning": "peers.dictionary_learning",
    "SAELens": "peers.sae_lens",
    "Llamascopium": "peers.llamascopium",
}
_IS_CUDA = DEVICE == "cuda"
SMOKE = {
    "kinds": ("topk",),
    "widths": (64,),
    "d_in": 16,
    "batch": 32,
    "seconds": 0.0,
    "peers": (NAIVE,),
}


def settings(peer: str, kind: str) -> list[str]:
    """Those that a peer offers for a kind; the fastest, as known, come first."""
    plain, own_bf16 = ["medium", "highest"], ["bf16", "medium", "highest"]
    match peer, kind:
        case (_, "topk+auxk") | ("sparsify", "batchtopk" | "jumprelu"):
            return []
        case "sparsify", _:
            return plain
        case "dictionary_learning", _:
            return own_bf16 if _IS_CUDA else plain
        case "SAELens", "topk":
            return ["medium+sparse", "highest+sparse", *own_bf16]
        case "Llamascopium", _ if _IS_CUDA:
            return ["bf16+sparse", "medium+sparse", *own_bf16]
        case "naive torch", _:
            return ["medium"]
    return own_bf16


def run(
    kinds: tuple[str, ...] = ("topk", "topk+auxk", "batchtopk", "jumprelu"),
    widths: tuple[int, ...] = (16_384, 131_072, 1_048_576) if _IS_CUDA else (16_384, 65_536),
    d_in: int = 2304 if _IS_CUDA else 768,
    batch: int = 4096,
    peers: tuple[str, ...] = (*PEERS, NAIVE),
    seconds: float = 10.0,
    limit: float = 300.0,
    peers_python: Path = Path(".venv-bench/bin/python"),
) -> Iterator[Figure | LeftOut]:
    """Milliseconds of a step, by kind, width and precision.

    Args:
        kinds: of coders; `topk+auxk` holds every sixteenth latent to be dead.
        widths: numbers of latents.
        d_in: width of the activations.
        batch: rows of a step.
        peers: whom to time beside ours.
        seconds: to time a case's steps for.
        limit: seconds after which a case is given up.
        peers_python: the interpreter that has the peers.
    """
    for precision in ("highest", "medium"):
        yield Figure(f"relative error of a product, {precision}", product_error(precision), "")
    best_settings: dict[tuple[str, str], str] = {}
    for width in widths:
        for kind in kinds:

            def time(program: str, setting: str, kind: str = kind, width: int = width) -> Any:
                shape = {"kind": kind, "num_latents": width, "d_in": d_in, "batch": batch}
                case = {"module": _MODULES[program], "setting": setting, "seconds": seconds}
                python = {"python": peers_python} if program in PEERS else {}
                return call("benchmarks.timing:time_program", shape | case, limit, **python)

            cases: dict[str, dict[str, float]] = {}
            for peer in peers:
                known = best_settings.get((peer, kind))
                for setting in [known] if known else settings(peer, kind):
                    found = time(peer, setting)
                    if isinstance(found, str):
                        yield LeftOut(f"{peer}, {kind}, {width:,}, {setting}", found)
                    else:
                        cases[f"{peer}, {setting}"] = found
                own = {name: c["ms"] for name, c in cases.items() if name.startswith(f"{peer}, ")}
                if own:
                    best_settings[peer, kind] = min(own, key=own.__getitem__).split(", ")[1]
            for precision in PRECISIONS:
                name = f"{kind}, {width:,} latents, {precision}"
                found = time("sae_dist", precision)
                yield LeftOut(name, found) if isinstance(found, str) else figure(name, found, cases)


def figure(name: str, own: dict[str, float], cases: dict[str, dict[str, float]]) -> Figure:
    """Ours beside each peer in its fastest setting; the naive step is in `more` alone."""
    others: dict[str, float] = {}
    for case, found in cases.items():
        program = case.split(", ")[0]
        if program != NAIVE:
            others[program] = min(others.get(program, found["ms"]), found["ms"])
    more = {key: value for key, value in own.items() if key not in ("ms", "floor_ms")}
    return Figure(name, own["ms"], "ms", own["floor_ms"], others, more=more | {"cases": cases})
