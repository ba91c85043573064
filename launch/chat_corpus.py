"""See `sae_dist/apps/chat_corpus.py`, or --help."""

from sae_dist.apps.command import run

if __name__ == "__main__":
    run("chat_corpus")
