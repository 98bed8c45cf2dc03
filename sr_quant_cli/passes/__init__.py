"""Passes over a whole network: quantization, and preparation for it."""
