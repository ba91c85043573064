"""See `sae_dist/apps/export.py`, or --help."""

from sae_dist.apps.export import main

if __name__ == "__main__":
    main()
