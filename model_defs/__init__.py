"""Networks and their checkpoints: tensors in, tensors out.

One file per architecture, listed in `registry`.
"""
