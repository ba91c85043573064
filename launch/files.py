"""See `sae_dist/apps/files.py`, or --help."""

from sae_dist.apps.files import main

if __name__ == "__main__":
    main()
