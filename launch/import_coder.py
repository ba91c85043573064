"""See `sae_dist/apps/import_coder.py`, or --help."""

from sae_dist.apps.command import run

if __name__ == "__main__":
    run("import_coder")
