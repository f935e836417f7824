"""Color memories: what is in one, and how one is built of photos."""
