"""Films whose motion is known, for tests: a camera over a texture, a disc that moves across it."""

import torch
import torch.nn.functional as F
from torch import Tensor


def texture(seed: int, height: int = 160, width: int = 220) -> Tensor:
    """(3, H, W) in 0..1: soft spots of many sizes in many colours."""
    random = torch.Generator().manual_seed(seed)
    picture = torch.zeros(1, 3, height, width)
    for cells, weight in ((4, 1.0), (10, 0.6), (24, 0.4), (60, 0.3)):
        noise = torch.rand(1, 3, cells, cells * width // height, generator=random) - 0.5
        picture += weight * F.interpolate(noise, size=(height, width), mode="bicubic")
    return (0.5 + 0.6 * picture[0]).clamp(0.05, 0.95)


def pan(
    seed: int,
    frames: int,
    step: tuple[float, float] = (2.0, 1.0),
    size: tuple[int, int] = (96, 128),
) -> Tensor:
    """(T, H, W, 3): what is at (x, y) was at (x, y) + step in the frame before."""
    picture, (h, w) = texture(seed), size
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    place = torch.stack([x, y], dim=-1)[None] + torch.arange(frames).view(-1, 1, 1, 1) * (
        torch.tensor(step)
    )
    grid = (2 * place + 1) / torch.tensor([picture.shape[2], picture.shape[1]]) - 1
    picture = picture.expand(frames, -1, -1, -1)
    options = {"mode": "bicubic", "padding_mode": "reflection", "align_corners": False}
    return F.grid_sample(picture, grid, **options).clamp(0, 1).movedim(1, -1)


def with_disc(film: Tensor, first: int, speed: float = 3.0) -> tuple[Tensor, Tensor]:
    """The film with a red disc from frame `first` on, and where it is: (T, H, W)."""
    t, h, w, _ = film.shape
    y, x = torch.meshgrid(torch.arange(h), torch.arange(w), indexing="ij")
    centre = w / 3 + speed * torch.arange(t).view(-1, 1, 1)
    disc = ((x - centre).square() + (y - h / 2).square()).sqrt() < h / 5
    disc = disc & (torch.arange(t).view(-1, 1, 1) >= first)
    stripes = 0.25 * torch.sin((x - centre) * 0.9)[..., None] + 0.5
    red = stripes * torch.tensor([1.6, 0.4, 0.3])
    return torch.where(disc[..., None], red, film).clamp(0, 1), disc
