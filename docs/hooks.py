"""What the site shows from outside of docs/, and where links into the sources lead."""

import posixpath
import re
from pathlib import Path
from typing import Any

from mkdocs.structure.files import File, Files

ROOT = Path(__file__).resolve().parents[1]
DRAWINGS = sorted(str(path.relative_to(ROOT)) for path in ROOT.glob("benchmarks/results/*.svg"))
# Where the site has them; a README would be taken for the first page of its part of the menu.
OUTSIDE = {
    "CHANGELOG.md": "changes.md",
    "benchmarks/README.md": "benchmarks/benchmarks.md",
    **{path: path for path in DRAWINGS},
}
_LINK = re.compile(r"(?P<text>(?<!!)\[[^\]]*\])\((?P<path>[^)#:\s]+)(?P<anchor>#[^)\s]*)?\)")


def on_files(files: Files, config: Any) -> Files:
    """Add pages and drawings that stand where they are made."""
    for path, shown in OUTSIDE.items():
        files.append(File.generated(config, shown, abs_src_path=str(ROOT / path)))
    return files


def on_page_markdown(markdown: str, *, page: Any, config: Any, files: Files) -> str:
    """Lead links that work in the repository to the site's pages, or to the sources."""
    here = page.file.src_uri
    repository = {shown: path for path, shown in OUTSIDE.items()}.get(here, f"docs/{here}")

    def lead(link: re.Match[str]) -> str:
        target = posixpath.normpath(posixpath.join(posixpath.dirname(repository), link["path"]))
        shown = OUTSIDE.get(target, target.removeprefix("docs/"))
        if files.get_file_from_path(shown) is not None:
            path = posixpath.relpath(shown, posixpath.dirname(here) or ".")
            return f"{link['text']}({path}{link['anchor'] or ''})"
        if not (ROOT / target).exists():
            return link[0]  # mkdocs tells of it
        if not config.repo_url:
            return link["text"][1:-1]
        return f"{link['text']}({config.repo_url.rstrip('/')}/blob/main/{target})"

    return _LINK.sub(lead, markdown)
