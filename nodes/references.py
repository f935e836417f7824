"""Find References: which of your colour photos is the best reference."""

from collections.abc import Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from ..media import image_io
from ..ops.resize import Geometry, shrink
from ..ops.tensors import as_batch
from ..pipeline.references import search as reference_search
from ..pipeline.references.descriptors import ENCODER
from ..pipeline.references.search import Ranking
from . import controls, host, search_terms
from .host import io, make
from .load import load
from .memory import IMAGES, folder_fingerprint

LONGEST = 2048  # pixels of a reference's longer side that go out: its colours need no more
NAMED = 10  # unreadable photos that the report names


class FindReference(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return make(
            io.Schema,
            node_id="ColoristFindReference",
            display_name="Find References",
            category="Colorist/guided",
            description="Looks through your colour photos for the best references for a "
            "black-and-white one: what shows the same kind of thing in the same light. Connect it "
            "to Colorize by Reference. Needs no download.",
            search_aliases=[
                *search_terms.COLORING,
                "exemplar",
                "similar photos",
                "image search",
                "gallery",
            ],
            inputs=[
                controls.image(
                    "image",
                    "The photo to colour, or the frames of one shot: references are then ranked "
                    "for all frames together. The network sees its lightness alone.",
                ),
                controls.image(
                    "gallery",
                    "Colour photos to choose from. Used when folder is (images).",
                    optional=True,
                ),
                make(
                    io.Combo.Input,
                    "folder",
                    display_name="folder",
                    options=[IMAGES, *(name for name in host.input_folders() if name != IMAGES)],
                    default=IMAGES,
                    tooltip="(images): the connected gallery. Or a folder of colour photos inside "
                    "ComfyUI's input folder, with those below it; the gallery is then not used. "
                    "Press R after adding a folder.",
                ),
                io.Int.Input(
                    "count",
                    display_name="count",
                    default=1,
                    min=1,
                    max=16,
                    tooltip="How many references to find, best first.",
                ),
            ],
            outputs=[
                io.Image.Output(
                    "references",
                    display_name="references",
                    tooltip="Best first, all of the best one's size (cut in the middle where their "
                    "shape differs). Connect to reference of Colorize by Reference.",
                ),
                io.String.Output(
                    "report",
                    display_name="report",
                    tooltip="Rank, name, score of each; what was left out.",
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
        cls, image: None = None, gallery: None = None, folder: str = IMAGES, count: int = 1
    ) -> str:
        return folder_fingerprint(folder)

    @classmethod
    def execute(
        cls,
        image: Tensor,
        folder: str = IMAGES,
        count: int = 1,
        gallery: Tensor | None = None,
    ) -> io.NodeOutput:
        photos, names = choices(folder, gallery)
        colorizer = load(ENCODER, "fp32", role="automatic")
        index = None
        if folder != IMAGES:
            place = host.input_place(folder)
            index = reference_search.open_index(place, colorizer, host.cache_folder())
        found = reference_search.find(
            image, photos, colorizer, count=count, index=index, progress=host.progress(len(photos))
        )
        pictures = gathered([photos[match.index] for match in found.matches])
        text = report(found, names, len(image))
        return io.NodeOutput(host.delivered(pictures), text, found.matches[0].score)


def choices(folder: str, gallery: Tensor | None) -> tuple[list[Path] | list[Tensor], list[str]]:
    """What the combo says: photos of a folder, or the connected ones (H, W, C); and their names.

    Raises:
        ValueError: an unknown folder; no photos.
    """
    if folder != IMAGES:
        photos, place = host.input_photos(folder), host.input_place(folder)
        return photos, [photo.relative_to(place).as_posix() for photo in photos]
    if gallery is None:
        raise ValueError(
            "there are no photos to choose from: connect a gallery of images, or choose a folder "
            "(put one into ComfyUI's input folder and press R)."
        )
    return list(gallery), [f"image {i + 1}" for i in range(len(gallery))]


def gathered(photos: Sequence[Path | Tensor]) -> Tensor:
    """One batch (N, H, W, 3 or 4) of the first photo's size, at most LONGEST; 4: one has alpha.

    The others are cut in the middle to its shape and scaled, so that no border and no stretching
    adds to their colours. They are read one at a time.
    """
    out: list[Tensor] = []
    for photo in photos:
        rgb, _ = as_batch(image_io.read(photo).pixels if isinstance(photo, Path) else photo)
        rgb = rgb.expand(-1, -1, -1, 3) if rgb.shape[-1] == 1 else rgb
        rgb = rgb[..., :3] if rgb.shape[-1] == 4 and rgb[..., 3].min() >= 1 else rgb
        rgb = rgb.movedim(-1, 1).clamp(0, 1)
        height, width = out[0].shape[1:3] if out else limited(*rgb.shape[2:])
        rgb = middle(rgb, height / width)
        shape = Geometry(*rgb.shape[2:], height, width, height, width)
        out.append(shrink(rgb, shape, "cpu").clamp(0, 1).movedim(1, -1))
    if any(photo.shape[-1] == 4 for photo in out):
        out = [F.pad(photo, (0, 4 - photo.shape[-1]), value=1.0) for photo in out]
    return torch.cat(out)


def limited(height: int, width: int) -> tuple[int, int]:
    """A size of the same shape, whose longer side is at most LONGEST."""
    scale = min(1.0, LONGEST / max(height, width))
    return max(1, round(height * scale)), max(1, round(width * scale))


def middle(rgb: Tensor, aspect: float) -> Tensor:
    """The largest part (B, C, h, w) with h / w = `aspect` from the middle of (B, C, H, W)."""
    height, width = rgb.shape[2:]
    h, w = min(height, max(1, round(width * aspect))), min(width, max(1, round(height / aspect)))
    top, left = (height - h) // 2, (width - w) // 2
    return rgb[:, :, top : top + h, left : left + w]


def report(found: Ranking, names: Sequence[str], frames: int) -> str:
    """What was found, best first, and what was left out, for a person."""
    target = f"{frames} frames" if frames > 1 else "the image"
    lines = [f"References for {target}, of {found.photos} colour photos:"]
    for rank, match in enumerate(found.matches, 1):
        similarity = f"{100 * match.similarity:.0f} % alike"
        lines.append(f"{rank}. {names[match.index]}: score {match.score:.3f}, {similarity}")
    if found.grey:
        lines.append(f"Grey, left out: {len(found.grey)}")
    if found.unreadable:
        bad = [names[place] for place in list(found.unreadable)[:NAMED]]
        bad += ["..."] if len(found.unreadable) > NAMED else []
        lines.append(f"Unreadable, left out: {len(found.unreadable)} ({', '.join(bad)})")
    return "\n".join(lines)
