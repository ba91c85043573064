"""See `sae_dist/apps/chat_corpus.py`, or --help."""

from sae_dist.apps.chat_corpus import main

if __name__ == "__main__":
    main()
