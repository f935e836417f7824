"""Catalog of published checkpoints, and the names by which they are recognized."""

import os
import re
from collections.abc import Iterable
from dataclasses import dataclass

from ..model_defs.checkpoint import SUFFIXES

HUB = "https://huggingface.co"
DDCOLOR = "https://huggingface.co/piddnad/DDColor-models"
LABEL_SUFFIX = re.compile(r" \(download [^()]*\)$")  # added by `display_label`


@dataclass(frozen=True, kw_only=True)
class Published:
    """A checkpoint published by its authors."""

    name: str
    """Model name for users and the command line."""
    file: str
    """File name in the models folder."""
    role: str
    """Role of the network; published files do not state it."""
    description: str
    """Architecture and training data."""
    license: str
    """License as stated by the publisher."""
    source: str
    """Where a user can download the file in a browser."""
    hub_path: str = ""
    """Path on the Hugging Face hub; empty without a stable address or a known SHA-256."""
    size: int = 0
    """Size in bytes."""
    sha256: str = ""
    """SHA-256 of the file at `hub_path`. Nothing is downloaded without it."""
    equivalent_sha256: tuple[str, ...] = ()
    """SHA-256 of other published files with the same weights."""

    @property
    def downloadable(self) -> bool:
        """True if the file can be downloaded and verified."""
        return bool(self.hub_path and self.sha256)

    def url(self, base: str = "") -> str:
        """Return the address on `base`, or on the hub; empty if it cannot be downloaded."""
        base = base or os.environ.get("HF_ENDPOINT") or HUB
        return f"{base.rstrip('/')}/{self.hub_path}" if self.downloadable else ""


_MODELS = (  # as listed by the publishers
    Published(
        name="ddcolor_modelscope",
        file="ddcolor_modelscope.pth",
        role="automatic",
        description="DDColor large, ImageNet, cleaned; the official default",
        license="Apache-2.0",
        source=DDCOLOR,
        hub_path="piddnad/DDColor-models/resolve/e9e7b527709c8aeb2f5e1bf701e72fd468a13baa/"
        "ddcolor_modelscope.pth",
        size=911_950_059,
        sha256="17c460d7e55b32a598370621d77173be59e03c24b0823f06821db23a50c263ce",
        equivalent_sha256=("d81711971ec59200da26d5e8a1afae8dd3778d495ea8ad7a7dadc769f403f7e7",),
    ),
    Published(
        name="ddcolor_artistic",
        file="ddcolor_artistic.pth",
        role="automatic",
        description="DDColor large, ImageNet and art, trained without the colorfulness loss",
        license="Apache-2.0",
        source=DDCOLOR,
        # The revision of this file is not known; the SHA-256 alone identifies it.
        hub_path="piddnad/DDColor-models/resolve/main/ddcolor_artistic.pth",
        size=911_950_059,
        sha256="a591ee5beedad36de703d8977e92d0c30c1eedc6453fd1b300f3b460842a23a9",
        equivalent_sha256=("5a076e84efce59848394f572a105f7b78f7f6e917f615d1ee88537241b96dca3",),
    ),
    Published(
        name="ddcolor_paper_tiny",
        # The .bin file of the model's repository, because the SHA-256 of the .pth is not known.
        file="ddcolor_paper_tiny.bin",
        role="automatic",
        description="DDColor tiny, ImageNet",
        license="Apache-2.0",
        source="https://huggingface.co/piddnad/ddcolor_paper_tiny",
        hub_path="piddnad/ddcolor_paper_tiny/resolve/cf9fd99c1d7472689ec7413441c1b799a51866a3/"
        "pytorch_model.bin",
        size=220_372_845,
        sha256="8a1277bc90a1bfbb6d2d83933a9a6bc821931879ca93e26e4fcec12165d41fce",
    ),
    # The following ones cannot be verified, so users have to download them themselves.
    Published(
        name="ddcolor_paper",
        file="ddcolor_paper.pth",
        role="automatic",
        description="DDColor large, ImageNet; the model of the paper",
        license="Apache-2.0",
        source=f"{DDCOLOR} (its SHA-256 is not known)",
    ),
    Published(
        name="colorformer",
        file="net_g_200000.pth",
        role="automatic",
        description="ColorFormer, ImageNet, with its color memory",
        license="code BSD-3-like, none stated for the weights",
        source="the authors' Google Drive, "
        "https://drive.google.com/drive/folders/1ktv0DJFteII4kLb7II0c88jW36aE_hBu (its other files "
        "are not needed)",
    ),
    Published(
        name="xcnet",
        file="xcnet_model.pth",
        role="exemplar",
        description="XCNet, by reference, with learned positions",
        license="code GPL-3.0, none stated for the weights",
        source="the address in src/models/xcnet.py of https://github.com/bbc/xcnet",
    ),
    Published(
        name="xcnet_no_pos",
        file="xcnet_no_pos_model.pth",
        role="exemplar",
        description="XCNet, by reference, without positions",
        license="code GPL-3.0, none stated for the weights",
        source="the address in src/models/xcnet.py of https://github.com/bbc/xcnet",
    ),
)
PUBLISHED = {model.name: model for model in _MODELS}


def find_published(name: str) -> Published | None:
    """Return the published checkpoint with this name, or None.

    Args:
        name: model name, file name with any checkpoint suffix, or label of `display_label`. A name
            with a folder is a path and matches nothing.
    """
    name = LABEL_SUFFIX.sub("", name)
    if name in PUBLISHED:
        return PUBLISHED[name]
    return next((model for model in PUBLISHED.values() if _is_called(name, model)), None)


def find_installed(model: Published, names: Iterable[str]) -> str | None:
    """Return the one of `names` that is a file of this model, or None.

    Args:
        model: a published checkpoint.
        names: installed files, relative to their folder. The published file name wins over others.
    """
    matches = [name for name in names if _is_called(re.split(r"[/\\]", name)[-1], model)]
    return min(matches, key=lambda name: (not name.endswith(model.file), name), default=None)


def find_by_sha256(digest: str) -> Published | None:
    """Return the published checkpoint with this SHA-256, in any of its published files."""
    for model in PUBLISHED.values():
        if digest in (model.sha256, *model.equivalent_sha256):
            return model
    return None


def display_label(model: Published) -> str:
    """Return the label of a model that can be downloaded, for lists."""
    return f"{model.file} (download {megabytes(model.size)})"


def megabytes(size: int) -> str:
    """Return a size in bytes as text in MB."""
    return f"{size / 1e6:.0f} MB"


def _is_called(file: str, model: Published) -> bool:
    """Return True if a plain file name is one of this model, with any checkpoint suffix."""
    stem, suffix = os.path.splitext(file)
    return suffix.lower() in SUFFIXES and stem in (model.name, os.path.splitext(model.file)[0])
