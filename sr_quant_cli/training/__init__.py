"""Training: from a recipe to a model file."""
