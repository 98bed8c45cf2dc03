"""Model files of srq, and checkpoints of other projects read as such."""
