"""Use a real ComfyUI checkout as the host of the node tests, on the CPU and without its server."""

import sys


def install(checkout: str) -> None:
    """Make the modules of the host at `checkout` importable."""
    sys.path.insert(0, checkout)
    from comfy.cli_args import args

    args.cpu = True  # read when comfy.model_management is imported
