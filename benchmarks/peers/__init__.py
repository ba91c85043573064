"""One file a peer: its own public training code on the same activations, in a venv of its own."""
