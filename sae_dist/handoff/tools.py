"""The tools by name: ours, and those of the entry point `sae_dist.handoffs`."""

from sae_dist.common.registry import Registry
from sae_dist.handoff.handoff import Handoff

_ROOM = "sae_dist.handoff"
HANDOFFS = Registry(
    "tool",
    Handoff,
    key="name",
    group="sae_dist.handoffs",
    ours={
        "delphi": f"{_ROOM}.delphi:Delphi",
        "saedashboard": f"{_ROOM}.saedashboard:SAEDashboard",
        "neuronpedia": f"{_ROOM}.neuronpedia:Neuronpedia",
        "circuit_tracer": f"{_ROOM}.circuit_tracer:CircuitTracer",
    },
)


def handoff_names() -> list[str]:
    """The names of all; nothing is imported."""
    return HANDOFFS.names()


def handoff_named(name: str) -> Handoff:
    """One of them; UserError where nobody brings it, or what is brought is none."""
    return HANDOFFS.named(name)()
