"""Tensor functions without models: color, resizing, chroma upsampling, kriging, optical flow.

Nothing here imports another part of the package.
"""
