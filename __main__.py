"""Entry point of `python -m comfyui_colorist`, the same as the command `colorist`."""

import sys

from .cli import main

if __name__ == "__main__":
    sys.exit(main())
