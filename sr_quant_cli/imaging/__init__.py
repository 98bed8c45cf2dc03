"""Reading and writing pictures, tiling."""

import os

# libvips prints its warnings on stderr unless told otherwise before it is loaded.
os.environ.setdefault("VIPS_WARNING", "0")
