"""Training data: photo sources, color filter, augmentation, batches and reference pairs."""
