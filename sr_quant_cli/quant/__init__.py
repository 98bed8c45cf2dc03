"""Grids, gradients, ranges, quantizers and quantized layers: what methods are composed of."""
