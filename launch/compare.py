"""See `sae_dist/apps/compare.py`, or --help."""

from sae_dist.apps.compare import main

if __name__ == "__main__":
    main()
