"""Pretrained networks for losses, scores and encoders: located on this machine, or downloaded once.

None of them is part of this package. Files of the user take precedence. Names in CATALOG are looked
up in the models folder, under `training/`, and downloaded into it if they are missing; a download
is checked against its SHA-256. COLORIST_OFFLINE=1 (or HF_HUB_OFFLINE=1) forbids downloads.
"""

import json
import logging
import os
import tempfile
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from ..media.atomic import write_atomic
from ..model_defs.checkpoint import SUFFIXES
from ..model_store import download, paths, resolve

log = logging.getLogger(__name__)


@dataclass(frozen=True, kw_only=True)
class PretrainedNetwork:
    """A network that can be downloaded."""

    description: str
    """Architecture and training data."""
    purpose: str
    """What trainers and evaluation use it for."""
    licence: str
    """License as stated by the publisher."""
    repository: str = ""
    """Repository on the Hugging Face hub, which declares the SHA-256; or else `download_url`."""
    file: str = "model.safetensors"
    """Name of the file in the repository."""
    download_url: str = ""
    """Address outside the hub."""
    sha256: str = ""
    """Digest of the file at `download_url`."""

    @property
    def url(self) -> str:
        """Address for a browser."""
        hub_url = f"https://huggingface.co/{self.repository}/resolve/main/{self.file}"
        return self.download_url or hub_url

    @property
    def suffix(self) -> str:
        """Suffix of the file, with a dot."""
        return Path(self.url).suffix


CATALOG = {
    "vgg16_bn": PretrainedNetwork(
        description="VGG-16 with batch norm, ImageNet-1k",
        purpose="perceptual loss, top-1/5",
        licence="BSD-3-Clause",
        repository="timm/vgg16_bn.tv_in1k",
    ),
    "vgg16": PretrainedNetwork(
        description="VGG-16, ImageNet-1k",
        purpose="perceptual loss, top-1/5",
        licence="BSD-3-Clause",
        repository="timm/vgg16.tv_in1k",
    ),
    "vgg19": PretrainedNetwork(
        description="VGG-19, ImageNet-1k",
        purpose="backbone of exemplar-vgg19, top-1/5",
        licence="BSD-3-Clause",
        repository="timm/vgg19.tv_in1k",
    ),
    "inception_fid": PretrainedNetwork(
        description="Inception v3 of 2015-12-05, as used by the authors of FID",
        purpose="FID",
        licence="Apache-2.0",
        download_url="https://github.com/mseitzer/pytorch-fid/releases/download/fid_weights/"
        "pt_inception-2015-12-05-6726825d.pth",
        sha256="6726825d0af5f729cebd5821db510b11b1cfad8faad88a03f1befd49fb9129b2",
    ),
    "inception_v3": PretrainedNetwork(
        description="Inception v3, ImageNet-1k",
        purpose="top-1/5, and a FID that is not comparable with published ones",
        licence="Apache-2.0",
        repository="timm/inception_v3.tv_in1k",
    ),
    "convnext_large": PretrainedNetwork(
        description="ConvNeXt-L, ImageNet-22k",
        purpose="encoder of ddcolor-large",
        licence="Apache-2.0",
        repository="timm/convnext_large.fb_in22k",
    ),
    "convnext_tiny": PretrainedNetwork(
        description="ConvNeXt-T, ImageNet-22k",
        purpose="encoder of ddcolor-tiny",
        licence="Apache-2.0",
        repository="timm/convnext_tiny.fb_in22k",
    ),
    **{
        f"efficientnet_lite{size}": PretrainedNetwork(
            description=f"EfficientNet-Lite{size}, ImageNet-1k",
            purpose="encoders of ddcolor-nano and colorformer-nano, feature loss",
            licence="Apache-2.0",
            repository=f"timm/tf_efficientnet_lite{size}.in1k",
        )
        for size in range(3)
    },
    "swin_tiny": PretrainedNetwork(
        description="Swin-T, windows of 7, ImageNet-22k",
        purpose="encoder of colorformer",
        licence="MIT",
        repository="timm/swin_tiny_patch4_window7_224.ms_in22k",
    ),
}


def training_folder() -> Path:
    """Return the folder of downloaded networks."""
    return paths.models_folder() / paths.TRAINING_FOLDER


def locate(source: str | Path, *, offline: bool = False) -> Path:
    """Return the file that `source` names, after a download if it is missing.

    Args:
        source: path of a file, name of a file in `training_folder()`, or name in CATALOG.
        offline: download nothing.
    Raises:
        ValueError: the file or name does not exist, or the download fails; the message says where
            to get the file and where to put it.
    """
    folder, name = training_folder(), str(source)
    installed = folder.iterdir() if folder.is_dir() else ()
    library = resolve.Library(
        kind="network",
        files={path.name: path for path in installed if path.is_file()},
        folder=folder,
        advice="",
        suffixes=SUFFIXES,
        has_catalog=False,
    )
    if path := library.find(source):
        return path
    if name not in CATALOG:
        raise ValueError(
            f"{source}: no such file, and not a known name. Give the path of a file, or one of "
            f"{', '.join(CATALOG)}."
        )
    if switch := download.offline_variable() or ("offline" if offline else ""):
        raise ValueError(_missing_message(name, f"downloads are switched off ({switch})"))
    return _download(name)


def _target(name: str) -> Path:
    return training_folder() / (name + CATALOG[name].suffix)


def _missing_message(name: str, reason: str) -> str:
    network = CATALOG[name]
    return (
        f"{name} ({network.description}; for: {network.purpose}) is not installed, and {reason}. "
        f"Download {network.url} and put it at {_target(name)}, or give the path of your own file."
    )


def _download(name: str) -> Path:
    """Download a network into `training_folder()`; nothing is left behind on failure."""
    network, target = CATALOG[name], _target(name)
    target.parent.mkdir(parents=True, exist_ok=True)
    log.info(
        "downloading %s (%s, %s) to %s",
        *(network.url, network.description, network.licence, target),
    )
    with tempfile.TemporaryDirectory(dir=target.parent, prefix=".download-") as scratch:
        try:
            if network.download_url:
                path, declared = _download_url(network, Path(scratch))
            else:
                path, declared = _download_from_hub(network, Path(scratch))
        except Exception as error:  # two libraries and their transports raise many types
            reason = str(error).strip() or "no details"
            raise ValueError(
                _missing_message(name, f"its download failed ({type(error).__name__}: {reason})")
            ) from error
        digest = download.sha256(path)
        if digest != declared:
            raise ValueError(
                f"{name}: the file from {network.url} has the SHA-256 {digest}, expected "
                f"{declared}; it was removed. Try again, or give the path of your own file."
            )
        os.replace(path, target)
    record = {"source": network.url, "licence": network.licence, "sha256": digest}
    write_atomic(_digest_record(target), json.dumps(record | _stamp(target), indent=1).encode())
    return target


def _download_from_hub(network: PretrainedNetwork, scratch: Path) -> tuple[Path, str]:
    """Return the downloaded file and the SHA-256 that the hub declares for it."""
    from huggingface_hub import HfApi, hf_hub_download

    declared: Any = HfApi().get_paths_info(network.repository, [network.file])[0]
    path = hf_hub_download(network.repository, network.file, local_dir=scratch)
    return Path(path), declared.lfs.sha256


def _download_url(network: PretrainedNetwork, scratch: Path) -> tuple[Path, str]:
    """Return the downloaded file and its expected SHA-256."""
    url, path = network.download_url, scratch / Path(network.download_url).name
    torch.hub.download_url_to_file(url, str(path), hash_prefix=network.sha256[:8])
    return path, network.sha256


def file_digest(path: str | Path) -> str:
    """Return the first 12 hex digits of a file's SHA-256, which identify a network in metadata."""
    path = Path(path)
    try:
        record = json.loads(_digest_record(path).read_bytes())
        if _stamp(path).items() <= record.items():
            return record["sha256"][:12]
    except (OSError, ValueError, KeyError, AttributeError, TypeError):
        pass  # the record is missing, or a file of another program
    return download.sha256(path)[:12]


def _digest_record(path: Path) -> Path:
    """Return the path of the JSON file beside a download that records its SHA-256."""
    return path.with_name(path.name + ".json")


def _stamp(path: Path) -> dict[str, int]:
    """Return size and modification time, which tell whether a file has changed."""
    status = path.stat()
    return {"bytes": status.st_size, "mtime_ns": status.st_mtime_ns}
