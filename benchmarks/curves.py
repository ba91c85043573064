"""How our step's time grows with the width F, the batch B and k: three drawings."""

from collections.abc import Iterator, Sequence
from pathlib import Path

from matplotlib.figure import Figure as Page

from benchmarks.figures import Figure, LeftOut
from benchmarks.process import call

_MARKERS = {"topk": "o", "batchtopk": "s", "jumprelu": "^"}
_CURVES = {  # what varies: its values, the others' values, its label
    "num_latents": (tuple(2**n for n in range(12, 19)), "width F (latents)", "step-by-width"),
    "batch": ((256, 512, 1024, 2048, 4096, 8192), "batch B (tokens)", "step-by-batch"),
    "l0": ((8, 16, 32, 64, 128), "k (active latents a token)", "step-by-k"),
}
_ELSEWHERE = {"num_latents": 16_384, "batch": 1024, "l0": 32}
SMOKE = {"d_in": 16, "seconds": 0.0, "max_latents": 8, "max_batch": 32, "kinds": ("topk",)}


def run(
    d_in: int = 768,
    setting: str = "float32",
    seconds: float = 20.0,
    kinds: tuple[str, ...] = tuple(_MARKERS),
    max_latents: int = 2**18,
    max_batch: int = 8192,
) -> Iterator[Figure | LeftOut]:
    """Milliseconds of a step of each kind: along F, along B, along k."""
    elsewhere = {
        "num_latents": min(_ELSEWHERE["num_latents"], max_latents),
        "batch": min(_ELSEWHERE["batch"], max_batch),
        "l0": 32,
    }
    largest = {"num_latents": max_latents, "batch": max_batch, "l0": elsewhere["num_latents"]}
    for varies, (values, *_) in _CURVES.items():
        for value in (v for v in values if v <= largest[varies]):
            for kind in kinds:
                point = elsewhere | {varies: value}
                case = {"module": "own", "kind": kind, "setting": setting, "d_in": d_in}
                case |= {"seconds": seconds, **point}
                found = call("benchmarks.timing:time_program", case, 300)
                name = f"{kind}, {varies} {value}"
                if isinstance(found, str):
                    yield LeftOut(name, found)
                else:
                    more = {"kind": kind, "varies": varies, "at": value, "l0": found["l0"]}
                    yield Figure(name, found["ms"], "ms", found["floor_ms"], more=more)


def draw(figures: Sequence[Figure], folder: Path) -> list[str]:
    """A drawing for each that varies: ms on log axes (over k, linear ones); their files' names."""
    names = []
    for varies, (_, label, name) in _CURVES.items():
        if not any(figure.more["varies"] == varies for figure in figures):
            continue
        page = Page(figsize=(6, 4), layout="constrained")
        axes = page.subplots()
        for kind, marker in _MARKERS.items():
            own = [f for f in figures if (f.more["kind"], f.more["varies"]) == (kind, varies)]
            xs = [figure.more["at"] for figure in own]
            axes.plot(xs, [figure.value for figure in own], marker=marker, label=kind)
        if varies == "l0":
            axes.set_ylim(bottom=0)
        else:
            axes.set_xscale("log", base=2)
            axes.set_yscale("log")
        axes.set(xlabel=label, ylabel="step (ms)")
        axes.legend(frameon=False)
        page.savefig(folder / f"{name}.svg", metadata={"Date": None})
        names.append(f"{name}.svg")
    return names
