"""What training logs, and how the report and W&B's dashboard show it."""

from collections.abc import Iterator
from dataclasses import dataclass
from fnmatch import fnmatchcase
from typing import Any

from sae_dist.common.declare import Axis, Mark, Plot, Topic
from sae_dist.report.plots import thin
from sae_dist.report.results import Record, RunResults
from sae_dist.report.styles import Style

TRAINING = Topic(
    key="training",
    title="Training",
    lead="What was logged on the way. Each point is a mean over neighbouring steps where there are "
    "many.",
)
THROUGHPUT = Topic(
    key="throughput", title="Throughput", lead="How fast the whole ladder was trained."
)
_MOST_POINTS, _MOST_IN_ALL = 200, 20_000  # of a plot: of each of its curves, and of all


@dataclass(frozen=True, slots=True)
class Logged:
    """Metrics whose names match a pattern: `{name}` in a title is what follows the first `/`.

    The report draws those with a caption, W&B all.
    """

    pattern: str
    section: str
    title: str
    label: str
    caption: str = ""
    log: bool | None = None
    zero: bool = False
    topic: Topic = TRAINING


_FIDELITY, _LATENTS, _OPTIMIZER, _SPEED = "Fidelity and sparsity", "Latents", "Optimizer", "Speed"
_FVU, _L0, _DEAD = "FVU (fraction of variance)", "L0 (active latents a token)", "share of latents"
_HELD_OUT = "Of held-out sequences, while training."
LOGGED = (
    Logged(
        *("fvu", _FIDELITY, "FVU", _FVU),
        "Of the training batch: what TopK and BatchTopK minimise, if their loss has no other part.",
    ),
    Logged("validation/fvu", _FIDELITY, "Held-out FVU", _FVU, _HELD_OUT),
    Logged("l0", _FIDELITY, "L0", _L0, "Mean over the training batch."),
    Logged("validation/l0", _FIDELITY, "Held-out L0", _L0, _HELD_OUT),
    Logged(
        *("level_fvu/*", _FIDELITY, "FVU of a level: {name}", _FVU),
        "Of the training batch, by that share of a Matryoshka coder’s latents alone.",
    ),
    Logged("dead_share", _FIDELITY, "Dead latents", _DEAD, "Those training counts as dead."),
    Logged("validation/dead_share", _FIDELITY, "Held-out dead latents", _DEAD, _HELD_OUT),
    Logged(
        *("validation/delta_loss", _FIDELITY, "Held-out delta loss", "Δ loss (nats a token)"),
        _HELD_OUT,
    ),
    Logged("loss", "Loss", "Loss", "loss", "What is minimised; each kind has a sum of its own."),
    Logged("loss/*", "Loss", "Loss part: {name}", "{name}", "As it enters the loss."),
    Logged(
        *("input/gamma", _LATENTS, "Mean of the input over its spread", "γ"),
        "Of a sample at the start; a large one leaves latents dead.",
    ),
    Logged("firing_frequency", _LATENTS, "Firing frequency (log₁₀)", "latents"),
    Logged("firing_frequency/never", _LATENTS, "Latents that did not fire", "latents"),
    Logged(
        *("threshold/*", _LATENTS, "Threshold: {name}", "threshold"),
        "Above which latents are active: a quantile over a JumpReLU’s, a BatchTopK’s at inference.",
    ),
    Logged("lr", _OPTIMIZER, "Learning rate", "learning rate"),
    Logged("sparsity_coefficient", _OPTIMIZER, "Sparsity coefficient λ", "λ"),
    Logged(
        *("grad_norm", _OPTIMIZER, "Norm of the gradient", "norm", "Before it is clipped."),
        log=True,
    ),
    Logged("skipped_steps", _OPTIMIZER, "Skipped steps", "steps"),
    Logged(
        *("tokens_per_second", _SPEED, "Tokens a second", "tokens a second"),
        "Tokens of the stream, each counted once however many rungs train on it.",
        zero=True,
        topic=THROUGHPUT,
    ),
    Logged(
        *("stall_share", _SPEED, "Waiting for data", "share of time"),
        "Share of the time in which training stood still for its next batch.",
        zero=True,
        topic=THROUGHPUT,
    ),
    Logged("bytes_per_step", _SPEED, "Bytes sent a step", "bytes"),
    Logged("seconds", _SPEED, "Seconds", "seconds"),
    Logged("flops_per_second", _SPEED, "FLOP/s", "FLOP/s"),
    Logged("mfu", _SPEED, "Share of the devices’ FLOP/s", "MFU"),
    Logged("peak_memory_gib", _SPEED, "Peak memory", "GiB"),
)


def logged_metrics(results: RunResults) -> Iterator[tuple[Logged, str]]:
    """Every metric that a run has logged and that is known, with what is known of it.

    Histograms, which are dicts in the log, give two, as in W&B.
    """
    names = set()
    for line in results.metrics:
        for name, value in line.items():
            names |= {name, f"{name}/never"} if isinstance(value, dict) else {name}
    for logged in LOGGED:
        yield from ((logged, n) for n in sorted(names) if fnmatchcase(n, logged.pattern))


def training_plots(
    results: RunResults, styles: dict[str, Style]
) -> tuple[list[Plot], list[Record]]:
    """The plots of what was logged, and the records they draw: one a rung, one of the ladder.

    What a rung has shown already, under another name, is not drawn again.
    """
    by_name = {record["rung"]: record for record in results.rungs}
    records: list[dict[str, Any]] = [
        {key: by_name.get(name, {}).get(key, "") for key in ("place", "family_and_place")}
        | {"rung": name}
        for name in (*styles, None)
    ]
    shown: dict[str | None, list[Any]] = {record["rung"]: [] for record in records}
    most = max(20, min(_MOST_POINTS, _MOST_IN_ALL // len(records)))
    plots = []
    for logged, name in logged_metrics(results):
        if not logged.caption:
            continue
        key, short = name.replace("/", "_"), name.partition("/")[2]
        for record in records:
            points = results.logged(record["rung"], name)
            if points and points not in shown[record["rung"]]:
                shown[record["rung"]].append(points)
                steps, values = zip(*thin(points, most), strict=True)
                record[key] = {"step": list(steps), key: list(values)}
        plot = Plot(
            key=f"training-{key}",
            mark=Mark.LINE,
            title=logged.title.format(name=short),
            caption=logged.caption,
            x=Axis(key=f"{key}/step", label="step", log=False),
            y=Axis(
                key=f"{key}/{key}",
                label=logged.label.format(name=short),
                log=logged.log,
                zero=logged.zero,
            ),
            panel="family_and_place",
            by_rung=name in ("fvu", "l0"),
            topic=logged.topic,
        )
        plots.append(plot)
    return plots, records
