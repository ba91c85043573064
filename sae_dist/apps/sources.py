"""What `store=…` stands for: a store's activations, or the decoder of a coder."""

from hashlib import file_digest
from pathlib import Path

from sae_dist.apps.checks import CODER
from sae_dist.coders import describe_coder, load_coder
from sae_dist.coders.files import WEIGHTS
from sae_dist.common.errors import UserError
from sae_dist.store import CacheConfig, open_store
from sae_dist.stream import ActivationsInMemory, ActivationSource, StoredActivations


def open_source(store: str, max_shard_gib: float, cache: CacheConfig) -> ActivationSource:
    """The activations of the store at a path, or of `coder:FOLDER` the unit decoder rows.

    Raises:
        UserError: there is no such store or coder, or it is not sound.
    """
    if store.startswith(CODER):
        return decoder_rows(Path(store.removeprefix(CODER)))
    max_shard_bytes = int(max_shard_gib * 2**30)
    return StoredActivations(open_store(store, max_shard_bytes=max_shard_bytes, cache=cache))


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
    origin = {"store": f"{CODER}{folder}", "rows": len(rows_NE), "coder": about}
    return ActivationsInMemory("decoder", rows_NE, identity, origin)
