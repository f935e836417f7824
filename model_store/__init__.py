"""Model files: the published catalog, downloads, folders, and names resolved to paths."""
