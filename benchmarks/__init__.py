"""Step times of this project beside its peers' and beside the machine's own limits."""

BENCHMARKS = (
    *(
        "steps",
        "curves",
        "quality",
        "quality_real",
        "dead_latents",
        "sinks",
        "stream",
        "objects",
        "harvest",
        "storage",
        "scale",
        "shuffling",
    ),
    *("checkpoint", "evaluate", "latents", "pages", "live", "endtoend", "cheaper_search"),
    *("startup", "device"),
)
