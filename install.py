"""Check the requirements and create the model folder; run by ComfyUI's manager after installation.

Can be repeated, needs no network, and is optional: everything also works without it.
"""

import sys
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path

NEEDED = {
    "torch": (2, 5),
    "numpy": (1, 26),
    "safetensors": (0, 4),
    "einops": (0, 6),
    "pillow": (11, 0),
    "av": (14, 2),
    "filelock": (3, 13),
    "tqdm": (4, 66),
}
"""Package -> lowest version, as in pyproject.toml."""


def main() -> int:
    """Print what was checked and created; return 1 if a requirement is missing, else 0."""
    host = Path(__file__).resolve().parents[2]
    if (host / "folder_paths.py").is_file():
        folder = host / "models" / "colorization"
        print(f"colorist: {'found' if folder.is_dir() else 'created'} {folder}")
        folder.mkdir(parents=True, exist_ok=True)
    else:
        print("colorist: not inside custom_nodes of a ComfyUI; no model folder created.")
    problems = find_problems()
    for problem in problems:
        print(f"colorist: {problem}")
    if not problems:
        print("colorist: ready. The bundled models need no download.")
    return 1 if problems else 0


def find_problems() -> list[str]:
    """Return a sentence for each requirement that is missing or too old."""
    problems = []
    if sys.version_info < (3, 10):  # noqa: UP036 - any Python may run this
        problems.append(f"Python {sys.version.split()[0]} is too old; 3.10 or newer is needed.")
    for name, lowest in NEEDED.items():
        try:
            installed = version(name)
        except PackageNotFoundError:
            problems.append(f"{name} is not installed; it is normally part of ComfyUI.")
            continue
        if tuple(int(part) for part in installed.split("+")[0].split(".")[:2]) < lowest:
            needed = ".".join(map(str, lowest))
            problems.append(f"{name} {installed} is too old; {needed} or newer is needed.")
    return problems


if __name__ == "__main__":
    sys.exit(main())
