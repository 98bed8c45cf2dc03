"""Networks on whole pictures: tiled forward pass, files in and out."""
