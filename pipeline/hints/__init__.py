"""Point hints: JSON format, rasterization, tracking through videos and color suggestions."""
