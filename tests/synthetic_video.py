"""Videos with known motion for tests: a camera pans over a texture, a disc moves across it."""

import torch
import torch.nn.functional as F
from torch import Tensor


def texture(seed: int, height: int = 160, width: int = 220) -> Tensor:
    """Return (3, H, W) in 0..1 with soft spots of many sizes and colors."""
    generator = torch.Generator().manual_seed(seed)
    image = torch.zeros(1, 3, height, width)
    for cells, weight in ((4, 1.0), (10, 0.6), (24, 0.4), (60, 0.3)):
        noise = torch.rand(1, 3, cells, cells * width // height, generator=generator) - 0.5
        image += weight * F.interpolate(noise, size=(height, width), mode="bicubic")
    return (0.5 + 0.6 * image[0]).clamp(0.05, 0.95)


def pan(
    seed: int,
    frames: int,
    step: tuple[float, float] = (2.0, 1.0),
    size: tuple[int, int] = (96, 128),
) -> Tensor:
    """Return (T, H, W, 3): pixel (x, y) was at (x, y) + step in the frame before."""
    image, (h, w) = texture(seed), size
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    offsets = torch.arange(frames).view(-1, 1, 1, 1) * torch.tensor(step)
    position = torch.stack([x, y], dim=-1)[None] + offsets
    grid = (2 * position + 1) / torch.tensor([image.shape[2], image.shape[1]]) - 1
    image = image.expand(frames, -1, -1, -1)
    options = {"mode": "bicubic", "padding_mode": "reflection", "align_corners": False}
    return F.grid_sample(image, grid, **options).clamp(0, 1).movedim(1, -1)


def with_disc(video: Tensor, first: int, speed: float = 3.0) -> tuple[Tensor, Tensor]:
    """Return the video with a red disc from frame `first` on, and its mask (T, H, W)."""
    t, h, w, _ = video.shape
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    center = w / 3 + speed * torch.arange(t).view(-1, 1, 1)
    disc = ((x - center).square() + (y - h / 2).square()).sqrt() < h / 5
    disc = disc & (torch.arange(t).view(-1, 1, 1) >= first)
    stripes = 0.25 * torch.sin((x - center) * 0.9)[..., None] + 0.5
    red = stripes * torch.tensor([1.6, 0.4, 0.3])
    return torch.where(disc[..., None], red, video).clamp(0, 1), disc
