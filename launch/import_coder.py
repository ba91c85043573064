"""See `sae_dist/apps/import_coder.py`, or --help."""

from sae_dist.apps.import_coder import main

if __name__ == "__main__":
    main()
