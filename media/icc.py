"""ICC profiles: which are sRGB already, and the way from the others to sRGB, in which we compute.

Profiles made of curves and a matrix (cameras, editors) and grey curves (scanners) are computed here
in float, so that 16-bit pictures stay exact; Pillow's colour management, 8 bits, does the rest.
"""

import io
import struct
from collections.abc import Callable

import numpy as np
import torch

from ..ops import color

# Columns: red, green, blue of sRGB as XYZ under D50, the connection space of ICC profiles
# (the numbers of the registered "sRGB IEC61966-2.1" profile).
SRGB_TO_XYZ_D50 = np.array(
    [
        [0.4360747, 0.3850649, 0.1430804],
        [0.2225045, 0.7168786, 0.0606169],
        [0.0139322, 0.0971045, 0.7141733],
    ]
)
SAME = 1.5 / 255  # a profile that moves no colour further is one of the many versions of sRGB
ROWS = 256  # handled at once

Convert = Callable[[np.ndarray], np.ndarray]


def srgb_profile() -> bytes:
    """A small sRGB profile, the same bytes every time."""
    from PIL import ImageCms

    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    return icc[:24] + struct.pack(">6H", 2000, 1, 1, 0, 0, 0) + icc[36:]  # 24..36: when made


def to_srgb(pixels: np.ndarray, icc: bytes) -> tuple[np.ndarray, bytes]:
    """From a profile's colours to sRGB.

    Args:
        pixels: (H, W, 1 or 3) float32 in 0..1; may be overwritten.
        icc: profile of an RGB or grey device.
    Returns:
        (H, W, 1 or 3) in sRGB, untouched where the profile is sRGB; and the profile that fits
        an RGB result.
    Raises:
        ValueError: the profile is damaged or belongs to other kinds of pictures.
    """
    space = icc[16:20].decode("ascii", "replace").strip()
    if space not in ("RGB", "GRAY") or (space == "GRAY" and pixels.shape[2] != 1):
        found = "grey" if pixels.shape[2] == 1 else "RGB"
        raise ValueError(f"an ICC profile for {space or 'nothing'} on a picture that is {found}")
    channels = 1 if space == "GRAY" else 3
    convert = _from_curves(icc) or _from_tables(icc)
    steps = np.linspace(0, 1, 9 if channels == 3 else 256, dtype=np.float32)
    probe = np.stack(np.meshgrid(*[steps] * channels), axis=-1).reshape(1, -1, channels)
    if np.abs(convert(probe) - probe).max() <= SAME:
        return pixels, icc if space == "RGB" else srgb_profile()
    if channels == 3 and pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    for top in range(0, len(pixels), ROWS):
        pixels[top : top + ROWS] = convert(pixels[top : top + ROWS])
    return pixels, srgb_profile()


def cmyk_to_srgb(image, icc: bytes):
    """A CMYK Pillow image -> RGB; without a profile by Pillow's plain formula."""
    if not icc:
        return image.convert("RGB")
    return managed(icc, "CMYK")(image)


def managed(icc: bytes, mode: str) -> Callable:
    """Pillow image of `mode` -> RGB in sRGB by Pillow's colour management (8 bits).

    Raises:
        ValueError: a profile that cannot be used.
    """
    from PIL import ImageCms

    try:
        transform = ImageCms.buildTransform(
            ImageCms.ImageCmsProfile(io.BytesIO(icc)),
            ImageCms.createProfile("sRGB"),
            mode,
            "RGB",
            ImageCms.Intent.RELATIVE_COLORIMETRIC,
            ImageCms.Flags.BLACKPOINTCOMPENSATION,
        )
    except (ImageCms.PyCMSError, OSError) as error:
        raise ValueError(f"an ICC profile that cannot be used ({error})") from error
    return lambda image: ImageCms.applyTransform(image, transform)


def _from_tables(icc: bytes) -> Convert:
    """Profiles that are measured tables."""
    from PIL import Image

    grey = icc[16:20] == b"GRAY"
    to_rgb = managed(icc, "L" if grey else "RGB")

    def convert(pixels: np.ndarray) -> np.ndarray:
        values = np.rint(pixels * 255).astype(np.uint8)
        image = to_rgb(Image.fromarray(values[..., 0] if grey else values))
        return np.asarray(image, np.float32)[..., : pixels.shape[2]] / 255

    return convert


def _from_curves(icc: bytes) -> Convert | None:
    """Profiles of one curve per channel and a matrix, or one grey curve; None for others."""
    tags = _tags(icc)
    try:
        if icc[16:20] == b"GRAY":
            curves, matrix = [_curve(tags["kTRC"])], np.ones((1, 1))
        else:
            curves = [_curve(tags[name]) for name in ("rTRC", "gTRC", "bTRC")]
            colorants = [_fixed(tags[name][8:20]) for name in ("rXYZ", "gXYZ", "bXYZ")]
            to_xyz = np.stack(colorants, axis=1)
            matrix = np.linalg.inv(SRGB_TO_XYZ_D50) @ to_xyz
            matrix /= matrix.sum(axis=1, keepdims=True)  # white to white: greys stay grey exactly
    except (KeyError, ValueError, struct.error, np.linalg.LinAlgError):
        return None
    if icc[20:24] != b"XYZ " or not np.isfinite(matrix).all():
        return None

    def convert(pixels: np.ndarray) -> np.ndarray:
        linear = np.stack([curve(pixels[..., i]) for i, curve in enumerate(curves)], axis=-1)
        linear = torch.from_numpy((linear @ matrix.T).clip(0, 1))
        return color.linear_to_srgb(linear).float().numpy()

    return convert


def _tags(icc: bytes) -> dict[str, bytes]:
    """Name -> data of the profile's tags (ICC.1:2022, 7.3)."""
    if len(icc) < 132 or icc[36:40] != b"acsp":
        raise ValueError("a damaged ICC profile")
    count = min(struct.unpack_from(">I", icc, 128)[0], (len(icc) - 132) // 12)
    entries = (struct.unpack_from(">4sII", icc, 132 + 12 * i) for i in range(count))
    return {name.decode("latin-1"): icc[start : start + size] for name, start, size in entries}


def _fixed(data: bytes) -> np.ndarray:
    return np.frombuffer(data, ">i4") / 65536


def _curve(data: bytes) -> Convert:
    """A `curv` or `para` tag (ICC.1:2022, 10.6, 10.18): device value -> linear light, both 0..1."""
    if data[:4] == b"curv":
        count = struct.unpack_from(">I", data, 8)[0]
        values = np.frombuffer(data[12 : 12 + 2 * count], ">u2")
        if len(values) != count:
            raise ValueError("short curve")
        if count == 0:
            return lambda x: x.astype(np.float64)
        if count == 1:
            return lambda x: x.astype(np.float64) ** (values[0] / 256)
        return lambda x: np.interp(x, np.linspace(0, 1, count), values / 65535)
    if data[:4] != b"para":
        raise ValueError("unknown curve")
    kind = struct.unpack_from(">H", data, 8)[0]
    counts = (1, 3, 4, 5, 7)
    if kind >= len(counts):
        raise ValueError("unknown curve")
    given = _fixed(data[12 : 12 + 4 * counts[kind]]).tolist()
    # Every kind is the last one with some numbers fixed: (a x + b)^g + e from d on, c x + f below.
    g, a, b, c, d, e, f = given + [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0][len(given) :]
    if kind in (1, 2):
        d = -b / a  # below it the curve is flat
        e, f, c = (c, c, 0.0) if kind == 2 else (0.0, 0.0, 0.0)

    def parametric(x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float64)
        return np.where(x >= d, np.maximum(a * x + b, 0) ** g + e, c * x + f)

    return parametric
