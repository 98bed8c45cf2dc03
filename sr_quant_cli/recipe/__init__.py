"""Typed recipes: schema, loading, overrides."""
