"""Color memories: data structure, files, and building one from photos."""
