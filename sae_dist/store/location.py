"""Where a store is: a folder, or the URL of an object store."""

from pathlib import Path

from sae_dist.common.errors import UserError
from sae_dist.store.files import Files


def files_at(path: str | Path) -> Files:
    """What reaches the files of the store at `path`."""
    if "://" not in str(path):
        return Files(Path(path))
    try:
        from sae_dist.store.objects import ObjectFiles
    except ImportError as error:
        raise UserError(
            f"found {path} and no obstore; expected it for object stores; install it "
            "(pip install 'sae-dist[objects]')"
        ) from error
    return ObjectFiles(str(path))
