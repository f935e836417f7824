"""Network files: which are published, where they lie, how they come there."""
