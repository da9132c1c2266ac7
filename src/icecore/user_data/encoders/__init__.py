"""Turn rows into tokens: one encoder for each form of input."""
