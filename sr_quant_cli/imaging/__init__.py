"""Picture files, pixels, and tiles."""

import os

# Must be set before libvips is loaded, or it prints warnings to stderr.
os.environ.setdefault("VIPS_WARNING", "0")
