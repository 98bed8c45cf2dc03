"""Typed recipes: schema, loading, overrides."""

from sr_quant_cli.recipe.texts import register as register
