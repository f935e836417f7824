r"""Extract photos with free licenses from Python packages, for the contact sheets of the docs.

    pip install scikit-image scikit-learn matplotlib
    python benchmarks/public_photos.py photos/
    colorist evaluate --photos photos/ --size 0 --model ddcolor-nano colorformer-nano \
        --sheet docs/contact-sheet.jpg

The authors and licenses are listed in PHOTOS.
"""

from importlib.resources import files
from pathlib import Path

import bench
from PIL import Image

MAX_SIDE = 512  # pixels
PHOTOS = {  # name -> package, its file; the comment names the author
    "astronaut": ("skimage.data", "astronaut.png"),  # NASA, public domain
    "cat": ("skimage.data", "chelsea.png"),  # Stefan van der Walt, CC0
    "coffee": ("skimage.data", "coffee.png"),  # Rachel Michetti, CC0
    "rocket": ("skimage.data", "rocket.jpg"),  # SpaceX, public domain
    "temple": ("sklearn.datasets.images", "china.jpg"),  # danielbuechele, CC BY 2.0
    "flower": ("sklearn.datasets.images", "flower.jpg"),  # vultilion, CC BY 2.0
    "portrait": ("matplotlib", "mpl-data/sample_data/grace_hopper.jpg"),  # US Navy, public domain
}


def main() -> None:
    """Write the photos, reduced to MAX_SIDE."""
    parser = bench.argument_parser(__doc__, json_report=False)
    parser.add_argument("folder", nargs="?", type=Path, default=Path("photos"))
    out = parser.parse_args().folder
    out.mkdir(parents=True, exist_ok=True)
    for name, (package, file) in PHOTOS.items():
        with files(package).joinpath(file).open("rb") as data:
            photo = Image.open(data).convert("RGB")
        photo.thumbnail((MAX_SIDE, MAX_SIDE), Image.Resampling.LANCZOS)
        photo.save(out / f"{name}.jpg", quality=95)
    print(f"{len(PHOTOS)} photos in {out}")


if __name__ == "__main__":
    main()
