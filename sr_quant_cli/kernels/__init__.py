"""Integer kernels of srq's own: a compiled library, and programs of it for whole networks."""
