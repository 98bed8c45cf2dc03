"""From a quantized network to one that runs on integer kernels."""
