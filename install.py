"""Run by ComfyUI's manager after it has put this pack into custom_nodes.

Checks what the pack relies on and creates models/colorization. Safe to run again, needs no network;
everything also works without it.
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

NEEDED = {
    "torch": (2, 5),
    "numpy": (1, 26),
    "safetensors": (0, 4),
    "einops": (0, 6),
    "pillow": (10, 3),
    "av": (14, 2),
}


def main() -> int:
    """Print what was found and done; exit code 1 when something needed is missing."""
    problems = []
    if sys.version_info < (3, 10):  # noqa: UP036 - any Python may run this
        problems.append(f"Python {sys.version.split()[0]} is too old; 3.10 or newer is needed.")
    for name, floor in NEEDED.items():
        try:
            found = version(name)
        except PackageNotFoundError:
            problems.append(f"{name} is not installed; ComfyUI normally brings it.")
            continue
        if tuple(int(part) for part in found.split("+")[0].split(".")[:2]) < floor:
            problems.append(
                f"{name} {found} is too old; {'.'.join(map(str, floor))} or newer is needed."
            )
    host = Path(__file__).resolve().parents[2]
    if (host / "folder_paths.py").is_file():
        folder = host / "models" / "colorization"
        print(f"colorist: {'found' if folder.is_dir() else 'created'} {folder}")
        folder.mkdir(parents=True, exist_ok=True)
    else:
        print("colorist: not inside custom_nodes of a ComfyUI; no model folder created.")
    for problem in problems:
        print(f"colorist: {problem}")
    if not problems:
        print("colorist: ready. The networks in the box need no download.")
    return 1 if problems else 0


if __name__ == "__main__":
    sys.exit(main())
