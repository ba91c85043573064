"""See `sae_dist/apps/train.py`, or --help."""

from sae_dist.apps.train import main

if __name__ == "__main__":
    main()
