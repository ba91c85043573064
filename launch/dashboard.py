"""See `sae_dist/apps/dashboard.py`, or --help."""

from sae_dist.apps.dashboard import main

if __name__ == "__main__":
    main()
