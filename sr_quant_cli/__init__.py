"""srq: quantize image super-resolution networks, measure them, run them fast."""

__version__ = "0.1.0"
