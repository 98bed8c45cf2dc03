"""Reading and writing pictures, tiling."""
