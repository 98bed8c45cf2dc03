"""``srq app``: a page on the loopback address for enlarging pictures in a browser."""
