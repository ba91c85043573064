"""See `sae_dist/apps/evaluate.py`, or --help."""

from sae_dist.apps.evaluate import main

if __name__ == "__main__":
    main()
