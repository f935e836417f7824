"""Search for reference photos: descriptors, ranking, and an index of descriptors."""
