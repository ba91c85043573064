"""The parts of the report that measures belong to."""

from sae_dist.common.declare import Topic

FIDELITY = Topic(
    key="fidelity",
    title="Fidelity and sparsity",
    lead="How much of the activations the coders keep, and what the language model loses by them, "
    "for how many active latents.",
)
POSITION = Topic(
    key="position",
    title="By position",
    lead="Whether the first tokens of a sequence are reconstructed as well as later ones.",
)
LATENTS = Topic(
    key="latents",
    title="Latents",
    lead="How often single latents fire, above what, and how evenly they matter.",
)
SCALING = Topic(
    key="scaling",
    title="Scaling",
    lead="How the loss and the share of dead latents go with width and sparsity.",
)
COMPARISON = Topic(
    key="comparison",
    title="Forms compared",
    lead="Autoencoder, transcoder and skip transcoder of one MLP, equally wide and sparse.",
)
PROBES = Topic(
    key="probes",
    title="Probes",
    lead="What labels of texts can be read from single latents, and whether a latent stands for "
    "one concept alone.",
)
PAIRS = Topic(
    key="pairs",
    title="Between coders",
    lead="What a wider coder knows that a narrower one of its kind does not.",
)
TRANSFER = Topic(
    key="transfer",
    title="Transfer to a finetune",
    lead="How coders of the base model fare on its finetune, beside the finetune’s own.",
)

GEMMA_SCOPE = "Gemma Scope (Lieberum et al. 2024)"
STITCHING = "Leask et al. (2025)"
TRANSCODERS = "Paulo et al. (2025)"
SCALING_LAWS = "Gao et al. (2024)"
SAEBENCH = "SAEBench (Karvonen et al. 2025)"
