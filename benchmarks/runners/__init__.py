"""One file a program: from a language model and a text to a coder on disk, by its own runner."""
