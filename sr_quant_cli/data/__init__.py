"""Benchmark sets, training photographs, bicubic resampling, and downloads."""
