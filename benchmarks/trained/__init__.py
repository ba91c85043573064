"""One script a program: it trains a coder on a file of activations and writes the weights."""
