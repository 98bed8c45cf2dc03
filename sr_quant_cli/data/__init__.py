"""Pairs, bicubic resampling, benchmark sets, downloads."""
