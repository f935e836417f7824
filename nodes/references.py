"""Find References: rank color photos as references for a black-and-white photo."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..ops.resize import Geometry, downscale
from ..ops.tensors import as_batch
from ..pipeline.references import search
from ..pipeline.references.descriptors import ENCODER
from ..pipeline.references.search import Ranking
from . import controls, host
from .host import build_supported, io
from .load import load_colorizer
from .photo_source import CONNECTED_IMAGES, folder_cache_key, folder_input, load_source

MAX_SIDE = 2048  # pixels of the longer side of an output reference; its colors need no more
MAX_LISTED = 10  # unreadable files named in the report


class FindReference(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return build_supported(
            io.Schema,
            node_id="ColoristFindReference",
            display_name="Find References",
            category="Colorist/guided",
            description="Searches your color photos for the best reference images for a "
            "black-and-white photo: photos that show similar things in similar light. Connect the "
            "output to Colorize by Reference. Needs no download.",
            search_aliases=[
                "exemplar",
                "similar photos",
                "image search",
                "gallery",
            ],
            inputs=[
                controls.image(
                    "image",
                    "The photo to colorize, or the frames of one shot, which are ranked together. "
                    "The model uses only its lightness.",
                ),
                controls.image(
                    "gallery",
                    "Color photos to search. Used if folder is (images).",
                    optional=True,
                ),
                folder_input("gallery"),
                io.Int.Input(
                    "count",
                    display_name="count",
                    default=1,
                    min=1,
                    max=16,
                    tooltip="Number of references to return, best first.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "references",
                    display_name="references",
                    tooltip="Reference images, best first, all at the size of the best one "
                    "(center-cropped to its aspect ratio). Connect to reference of Colorize by "
                    "Reference.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="Rank, name and score of each reference, and the skipped photos.",
                ),
                io.Float.Output(
                    "score",
                    display_name="best score",
                    tooltip="Distance of the best reference: 0 = looks the same; lower is better.",
                ),
            ],
        )

    @classmethod
    def fingerprint_inputs(
        cls,
        image: None = None,
        gallery: None = None,
        folder: str = CONNECTED_IMAGES,
        count: int = 1,
    ) -> str:
        return folder_cache_key(folder)

    @classmethod
    def execute(
        cls,
        image: Tensor,
        folder: str = CONNECTED_IMAGES,
        count: int = 1,
        gallery: Tensor | None = None,
    ) -> io.NodeOutput:
        photos, names = resolve_gallery(folder, gallery)
        colorizer = load_colorizer(ENCODER, "fp32", "automatic")
        index = None
        if folder != CONNECTED_IMAGES:
            path = host.input_folder_path(folder)
            index = search.open_index(path, colorizer, host.cache_folder())
        ranking = search.find_references(
            image, photos, colorizer, count=count, index=index, progress=host.progress(len(photos))
        )
        references = stack_images([photos[match.index] for match in ranking.matches])
        report = ranking_report(ranking, names, len(image))
        return io.NodeOutput(host.to_host_image(references), report, ranking.matches[0].score)


def resolve_gallery(
    folder: str, gallery: Tensor | None
) -> tuple[list[Path] | list[Tensor], list[str]]:
    """Return the photos to search, files or images (H, W, C), and their names for the report.

    Raises:
        ValueError: The folder is not in the list, or no gallery is connected.
    """
    if folder == CONNECTED_IMAGES:
        images = load_source(folder, gallery, "gallery")
        return images, [f"image {number}" for number in range(1, len(images) + 1)]
    files, root = host.input_photos(folder), host.input_folder_path(folder)
    return files, [file.relative_to(root).as_posix() for file in files]


def stack_images(photos: Sequence[Path | Tensor]) -> Tensor:
    """Stack images into one batch (N, H, W, 3), or (N, H, W, 4) if any has transparency.

    All get the size of the first, at most `MAX_SIDE`. The others are center-cropped to its aspect
    ratio and scaled, so that neither borders nor stretching change their colors. Files are read one
    at a time.
    """
    from ..media import image_io  # it imports Pillow, which nodes must not do when they load

    batch: list[Tensor] = []
    for photo in photos:
        rgb, _ = as_batch(image_io.read_image(photo).pixels if isinstance(photo, Path) else photo)
        rgb = rgb.expand(-1, -1, -1, 3) if rgb.shape[-1] == 1 else rgb
        rgb = rgb[..., :3] if rgb.shape[-1] == 4 and rgb[..., 3].min() >= 1 else rgb
        rgb = rgb.movedim(-1, 1).clamp(0, 1)
        height, width = batch[0].shape[1:3] if batch else clamp_size(*rgb.shape[2:])
        rgb = center_crop(rgb, height / width)
        cropped_height, cropped_width = rgb.shape[2:]
        geometry = Geometry(cropped_height, cropped_width, height, width, height, width)
        batch.append(downscale(rgb, geometry, "cpu").clamp(0, 1).movedim(1, -1))
    if any(image.shape[-1] == 4 for image in batch):
        batch = [F.pad(image, (0, 4 - image.shape[-1]), value=1.0) for image in batch]
    return torch.cat(batch)


def clamp_size(height: int, width: int) -> tuple[int, int]:
    """Scale a size down so that the longer side is at most `MAX_SIDE`."""
    scale = min(1.0, MAX_SIDE / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def center_crop(rgb: Tensor, aspect: float) -> Tensor:
    """Crop (B, C, H, W) to the largest centered (B, C, h, w) with h / w = `aspect`."""
    height, width = rgb.shape[2:]
    h, w = min(height, max(1, round(width * aspect))), min(width, max(1, round(height / aspect)))
    top, left = (height - h) // 2, (width - w) // 2
    return rgb[:, :, top : top + h, left : left + w]


def ranking_report(ranking: Ranking, names: Sequence[str], frames: int) -> str:
    """Return the references, best first, and the skipped photos, one per line."""
    target = f"{frames} frames" if frames > 1 else "the image"
    lines = [f"References for {target}, from {ranking.photos} color photos:"]
    for rank, match in enumerate(ranking.matches, 1):
        similarity = f"{100 * match.similarity:.0f} % similar"
        lines.append(f"{rank}. {names[match.index]}: score {match.score:.3f}, {similarity}")
    if ranking.gray:
        lines.append(f"Gray photos skipped: {len(ranking.gray)}")
    if ranking.unreadable:
        unreadable = [names[index] for index in list(ranking.unreadable)[:MAX_LISTED]]
        unreadable += ["..."] if len(ranking.unreadable) > MAX_LISTED else []
        lines.append(
            f"Unreadable files skipped: {len(ranking.unreadable)} ({', '.join(unreadable)})"
        )
    return "\n".join(lines)
