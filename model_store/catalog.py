"""Published checkpoints: which there are, and their names in lists and files."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..model_defs.checkpoint import SUFFIXES

HUB = "https://huggingface.co"
MARK = re.compile(r" \(download [^()]*\)$")  # as `marked` writes it


@dataclass(frozen=True, kw_only=True)
class Published:
    """A checkpoint that somebody else has published."""

    name: str
    """Of the model, for people and the command line."""
    file: str
    """Its name in the models folder."""
    role: str
    """Of its network, which the file itself does not tell."""
    what: str
    """Which network, trained on what."""
    licence: str
    """As its publisher states it."""
    get: str
    """Where a person gets it."""
    path: str = ""
    """On the hub; "" where it has no address that stays, or no known SHA-256."""
    bytes: int = 0
    """Its size."""
    sha256: str = ""
    """Of the file at `path`; nothing is fetched without."""
    also: tuple[str, ...] = ()
    """SHA-256 of other files that their publishers offer with the same weights."""

    @property
    def fetchable(self) -> bool:
        """Whether it can be downloaded and checked."""
        return bool(self.path and self.sha256)

    def url(self, base: str = "") -> str:
        """Its address, on `base` instead of the hub where given; "" where it is not fetchable."""
        base = base or os.environ.get("HF_ENDPOINT") or HUB
        return f"{base.rstrip('/')}/{self.path}" if self.fetchable else ""


DDCOLOR = "https://huggingface.co/piddnad/DDColor-models"
_TABLE = (  # from the publishers' own listings
    Published(
        name="ddcolor_modelscope",
        file="ddcolor_modelscope.pth",
        role="automatic",
        what="DDColor large, ImageNet, cleaned; the official default",
        licence="Apache-2.0",
        get=DDCOLOR,
        path="piddnad/DDColor-models/resolve/e9e7b527709c8aeb2f5e1bf701e72fd468a13baa/"
        "ddcolor_modelscope.pth",
        bytes=911_950_059,
        sha256="17c460d7e55b32a598370621d77173be59e03c24b0823f06821db23a50c263ce",
        also=("d81711971ec59200da26d5e8a1afae8dd3778d495ea8ad7a7dadc769f403f7e7",),
    ),
    Published(
        name="ddcolor_artistic",
        file="ddcolor_artistic.pth",
        role="automatic",
        what="DDColor large, ImageNet and art, trained without the colourfulness loss",
        licence="Apache-2.0",
        get=DDCOLOR,
        # No revision of this file is known; its SHA-256 says that it is the right one.
        path="piddnad/DDColor-models/resolve/main/ddcolor_artistic.pth",
        bytes=911_950_059,
        sha256="a591ee5beedad36de703d8977e92d0c30c1eedc6453fd1b300f3b460842a23a9",
        also=("5a076e84efce59848394f572a105f7b78f7f6e917f615d1ee88537241b96dca3",),
    ),
    Published(
        name="ddcolor_paper_tiny",
        # The .bin of the model's own repository: no SHA-256 of ddcolor_paper_tiny.pth is known.
        file="ddcolor_paper_tiny.bin",
        role="automatic",
        what="DDColor tiny, ImageNet",
        licence="Apache-2.0",
        get="https://huggingface.co/piddnad/ddcolor_paper_tiny",
        path="piddnad/ddcolor_paper_tiny/resolve/cf9fd99c1d7472689ec7413441c1b799a51866a3/"
        "pytorch_model.bin",
        bytes=220_372_845,
        sha256="8a1277bc90a1bfbb6d2d83933a9a6bc821931879ca93e26e4fcec12165d41fce",
    ),
    # By hand from here on: nothing is fetched that cannot be checked.
    Published(
        name="ddcolor_paper",
        file="ddcolor_paper.pth",
        role="automatic",
        what="DDColor large, ImageNet; the paper's network",
        licence="Apache-2.0",
        get=f"{DDCOLOR} (no SHA-256 of it is known)",
    ),
    Published(
        name="colorformer",
        file="net_g_200000.pth",
        role="automatic",
        what="ColorFormer, ImageNet, with its color memory",
        licence="code BSD-3-like, none stated for the weights",
        get="the authors' Google Drive, "
        "https://drive.google.com/drive/folders/1ktv0DJFteII4kLb7II0c88jW36aE_hBu (its other files "
        "are not needed)",
    ),
    Published(
        name="xcnet",
        file="xcnet_model.pth",
        role="exemplar",
        what="XCNet, by reference, with learned positions",
        licence="code GPL-3.0, none stated for the weights",
        get="the address in src/models/xcnet.py of https://github.com/bbc/xcnet",
    ),
    Published(
        name="xcnet_no_pos",
        file="xcnet_no_pos_model.pth",
        role="exemplar",
        what="XCNet, by reference, without positions",
        licence="code GPL-3.0, none stated for the weights",
        get="the address in src/models/xcnet.py of https://github.com/bbc/xcnet",
    ),
)
PUBLISHED = {known.name: known for known in _TABLE}


def find(name: str) -> Published | None:
    """The published checkpoint of a name: model, file (with any ending), or as `marked` shows it.

    A name with a folder in it is a path and means none.
    """
    name = MARK.sub("", name)
    if name in PUBLISHED:
        return PUBLISHED[name]
    return next((known for known in PUBLISHED.values() if is_called(name, known)), None)


def is_called(file: str, known: Published) -> bool:
    """Whether a plain file name is that of a published checkpoint, with any ending of one."""
    stem, ending = os.path.splitext(file)
    return ending.lower() in SUFFIXES and stem in (known.name, os.path.splitext(known.file)[0])


def at_hand(known: Published, names: Iterable[str]) -> str | None:
    """The name, of those of installed files, that is this checkpoint's; its own goes first."""
    found = [name for name in names if is_called(re.split(r"[/\\]", name)[-1], known)]
    return min(found, key=lambda name: (not name.endswith(known.file), name), default=None)


def published_as(digest: str) -> Published | None:
    """The published checkpoint that has this SHA-256, in any of its publishers' files."""
    known = PUBLISHED.values()
    return next((one for one in known if digest in (one.sha256, *one.also)), None)


def marked(known: Published) -> str:
    """As lists show one that can be downloaded."""
    return f"{known.file} (download {megabytes(known.bytes)})"


def megabytes(size: int) -> str:
    """A size for people."""
    return f"{size / 1e6:.0f} MB"
