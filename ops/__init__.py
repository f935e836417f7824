"""Tensor functions: colour, sizes, chroma upsampling, kriging, motion. Imports nothing of ours."""
