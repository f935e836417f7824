"""References: how alike pictures are, which are the best for a target, and what is kept of it."""
