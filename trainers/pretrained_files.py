"""ImageNet networks for losses, scores and starts: found on this machine, or fetched once.

None of them comes with this package. A file of the user's own always goes first; a known name is
looked for in the models folder, under `training/`, and downloaded there if need be: whole, with its
SHA-256 checked, or not at all. COLORIST_OFFLINE=1 (or HF_HUB_OFFLINE=1) forbids downloads.
"""

import json
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path

import torch

from ..media.atomic import write_whole
from ..model_defs.checkpoint import SUFFIXES
from ..model_store import download, paths

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class Source:
    """Where a known network comes from."""

    what: str
    """Which network, trained on what."""
    use: str
    """What it is for."""
    licence: str
    """As its publisher states it."""
    repository: str = ""
    """On the Hugging Face hub, which declares the SHA-256 of each file; or else `link`."""
    file: str = "model.safetensors"
    """Name in the repository."""
    link: str = ""
    sha256: str = ""
    """Of what `link` gives."""

    @property
    def url(self) -> str:
        """What a browser can fetch."""
        return self.link or f"https://huggingface.co/{self.repository}/resolve/main/{self.file}"

    @property
    def suffix(self) -> str:
        return Path(self.url).suffix


KNOWN = {
    "vgg16_bn": Source(
        what="VGG-16 with batch norm, ImageNet-1k",
        use="perceptual loss, top-1/5",
        licence="BSD-3-Clause",
        repository="timm/vgg16_bn.tv_in1k",
    ),
    "vgg16": Source(
        what="VGG-16, ImageNet-1k",
        use="perceptual loss, top-1/5",
        licence="BSD-3-Clause",
        repository="timm/vgg16.tv_in1k",
    ),
    "vgg19": Source(
        what="VGG-19, ImageNet-1k",
        use="backbone of exemplar-vgg19, top-1/5",
        licence="BSD-3-Clause",
        repository="timm/vgg19.tv_in1k",
    ),
    "inception_fid": Source(
        what="Inception v3 of 2015-12-05, as the authors of FID took it",
        use="FID",
        licence="Apache-2.0",
        link="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth",
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    ),
    "inception_v3": Source(
        what="Inception v3, ImageNet-1k",
        use="top-1/5; a FID that compares with no other",
        licence="Apache-2.0",
        repository="timm/inception_v3.tv_in1k",
    ),
    "convnext_large": Source(
        what="ConvNeXt-L, ImageNet-22k",
        use="start of ddcolor-large's encoder",
        licence="Apache-2.0",
        repository="timm/convnext_large.fb_in22k",
    ),
    "convnext_tiny": Source(
        what="ConvNeXt-T, ImageNet-22k",
        use="start of ddcolor-tiny's encoder",
        licence="Apache-2.0",
        repository="timm/convnext_tiny.fb_in22k",
    ),
    **{
        f"efficientnet_lite{size}": Source(
            what=f"EfficientNet-Lite{size}, ImageNet-1k",
            use="start of ddcolor-nano's and colorformer-nano's encoder, feature loss",
            licence="Apache-2.0",
            repository=f"timm/tf_efficientnet_lite{size}.in1k",
        )
        for size in range(3)
    },
    "swin_tiny": Source(
        what="Swin-T, windows of 7, ImageNet-22k",
        use="start of colorformer's encoder",
        licence="MIT",
        repository="timm/swin_tiny_patch4_window7_224.ms_in22k",
    ),
}


def folder() -> Path:
    """Where known networks are kept."""
    return paths.models_folder() / paths.TRAINING


def find(source: str | Path, *, offline: bool = False) -> Path:
    """The file that `source` means.

    Args:
        source: a file, the name of one in `folder()`, or a known name; known ones are downloaded.
        offline: download nothing.
    Raises:
        ValueError: neither a file nor a known name, or it cannot be had; says where to get it and
            where to put it.
    """
    if Path(source).is_file():
        return Path(source)
    name = str(source)
    for candidate in (name, *(name + suffix for suffix in SUFFIXES)):
        if (folder() / candidate).is_file():
            return folder() / candidate
    if name not in KNOWN:
        raise ValueError(
            f"{source}: no such file, and no known name. Give the path of a file, or one of "
            f"{', '.join(KNOWN)}."
        )
    if switch := download.switched_off() or ("offline" if offline else ""):
        raise ValueError(_missing(name, f"downloads are switched off ({switch})"))
    return _download(name)


def _target(name: str) -> Path:
    return folder() / (name + KNOWN[name].suffix)


def _missing(name: str, why: str) -> str:
    known = KNOWN[name]
    return (
        f"{name} ({known.what}; for: {known.use}) is not on this machine, and {why}. Get "
        f"{known.url} and put it at {_target(name)}, or give the path of your own file."
    )


def _download(name: str) -> Path:
    """Fetch a known network into `folder()`: whole, with the right SHA-256, or not at all."""
    known, target = KNOWN[name], _target(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    log.info("downloading %s (%s, %s) to %s", known.url, known.what, known.licence, target)
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as scratch:
        try:
            path, declared = (_from_link if known.link else _from_hub)(known, Path(scratch))
        except Exception as error:  # of any kind: two libraries, and what they stand on
            reason = str(error).strip() or "no details"
            raise ValueError(
                _missing(name, f"its download failed ({type(error).__name__}: {reason})")
            ) from error
        digest = download.sha256(path)
        if digest != declared:
            raise ValueError(
                f"{name}: what came from {known.url} has the SHA-256 {digest}, expected "
                f"{declared}; refused and removed. Try again, or give the path of your own file."
            )
        os.replace(path, target)
    note = {"source": known.url, "licence": known.licence, "sha256": digest, **_stamp(target)}
    write_whole(_note(target), json.dumps(note, indent=1).encode())
    return target


def _from_hub(known: Source, scratch: Path) -> tuple[Path, str]:
    """The file, and the SHA-256 that the hub declares for it."""
    from huggingface_hub import HfApi, hf_hub_download

    (declared,) = HfApi().get_paths_info(known.repository, [known.file])
    path = hf_hub_download(known.repository, known.file, local_dir=scratch)
    return Path(path), declared.lfs.sha256


def _from_link(known: Source, scratch: Path) -> tuple[Path, str]:
    path = scratch / Path(known.link).name
    torch.hub.download_url_to_file(known.link, str(path), hash_prefix=known.sha256[:8])
    return path, known.sha256


def fingerprint(path: str | Path) -> str:
    """First 12 hex digits of a file's SHA-256: what says in metadata which network was used."""
    path = Path(path)
    try:
        note = json.loads(_note(path).read_bytes())
        if _stamp(path).items() <= note.items():
            return note["sha256"][:12]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        pass  # no note, or not one of ours
    return download.sha256(path)[:12]


def _note(path: Path) -> Path:
    """The small file beside a downloaded one that remembers its SHA-256."""
    return path.with_name(path.name + ".json")


def _stamp(path: Path) -> dict[str, int]:
    """What changes when a file does."""
    status = path.stat()
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
