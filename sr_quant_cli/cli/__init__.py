"""Command line of srq."""
