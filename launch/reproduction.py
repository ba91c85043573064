"""See `sae_dist/apps/reproduction.py`, or --help."""

from sae_dist.apps.reproduction import main

if __name__ == "__main__":
    main()
