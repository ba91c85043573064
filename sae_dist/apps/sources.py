"""The activations that a training or an evaluation reads."""

from hashlib import file_digest
from pathlib import Path
from typing import Any, cast

import torch

from sae_dist.coders import describe_coder, load_coder
from sae_dist.coders.files import WEIGHTS
from sae_dist.common.errors import UserError
from sae_dist.config import HarvestConfig, Source, SourceConfig, TrainedConfig
from sae_dist.store import AlignedStores, Store, open_store
from sae_dist.stream import ActivationsInMemory, ActivationSource, StoredActivations


def open_source(
    config: SourceConfig, device: torch.device, *, whole_lm: bool = False
) -> ActivationSource:
    """The activations of a store, of a language model run beside the training, or decoder rows.

    With `whole_lm` that language model keeps the layers that no site needs.

    Raises:
        UserError: there is no such store or coder, or it is not sound; or what the language
            model's configuration and the text's first document tell to be wrong.
    """
    if config.source is Source.live:
        from sae_dist.apps.live import open_live  # with transformers, seconds a process

        return open_live(cast(HarvestConfig, config.harvest), device, whole_lm=whole_lm)
    if config.source is Source.decoder:
        return decoder_rows(Path(str(config.decoder)))
    return StoredActivations(open_stores(config))


def open_stores(config: SourceConfig) -> Store:
    """The store, with those that are aligned with it."""

    def opened(path: str) -> Store:
        most = int(config.max_shard_gib * 2**30)
        return open_store(path, max_shard_bytes=most, cache=config.cache)

    store = opened(str(config.store))
    if config.aligned:
        store = AlignedStores(store, {name: opened(p) for name, p in config.aligned.items()})
    return store


def open_trained(
    source: SourceConfig,
    coders: dict[str, dict[str, Any]],
    config: TrainedConfig,
    device: torch.device,
) -> ActivationSource:
    """The same activations to read a run's coders by, a live one's language model whole.

    Args:
        source: the run's (`source_of`).
        coders: the run's, described; they say what language model it was.

    Raises:
        UserError: as `open_source`, or the language model is not the one it was trained on.
    """
    if source.source is not Source.live:
        source.max_shard_gib, source.cache = config.max_shard_gib, config.cache
        source.aligned |= config.aligned
        return open_source(source, device)
    from sae_dist.apps.live import open_trained_live  # with transformers, seconds a process

    harvested = next(iter(coders.values()))["about"]["source"]["lm"]
    return open_trained_live(cast(HarvestConfig, source.harvest), harvested, config, device)


def decoder_rows(folder: Path) -> ActivationsInMemory:
    """A coder's decoder rows, each divided by its norm, as activations of the site `decoder`.

    A meta-SAE is trained on them (Leask et al. 2025, section 5). Rows of zeros have no direction,
    and are left out. What tells these activations from others is the hash of the coder's weights.

    Raises:
        UserError: the folder holds no sound coder, or one whose decoder is all zeros.
    """
    about = describe_coder(folder)
    W_FE = load_coder(folder).W_dec.detach()
    norm_F = W_FE.norm(dim=1)
    rows_NE = W_FE[norm_F != 0] / norm_F[norm_F != 0, None]
    if not len(rows_NE):
        raise UserError(f"the decoder of {folder} is all zeros; expected a trained coder")
    with (folder / WEIGHTS).open("rb") as file:
        identity = f"coder sha256:{file_digest(file, 'sha256').hexdigest()}"
    origin = {"store": f"coder:{folder}", "rows": len(rows_NE), "coder": about}
    return ActivationsInMemory("decoder", rows_NE, identity, origin)
