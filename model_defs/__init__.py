"""Networks and checkpoint files: tensors in, tensors out.

Each architecture has one module, listed in `registry`.
"""
