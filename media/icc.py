"""ICC profiles: detection of sRGB and conversion to sRGB, the working color space.

Matrix/curve profiles (cameras, editors) and gray curves (scanners) are computed here in floating
point, so that 16-bit images stay exact. Pillow's color management, 8 bits, handles all others.
"""

import io
import struct
from collections.abc import Callable

import numpy as np
import torch
from PIL import Image

from ..ops import color

# Columns: red, green, blue of sRGB as XYZ under D50, the connection space of ICC profiles
# (values of the registered "sRGB IEC61966-2.1" profile).
SRGB_TO_XYZ_D50 = np.array(
    [
        [0.4360747, 0.3850649, 0.1430804],
        [0.2225045, 0.7168786, 0.0606169],
        [0.0139322, 0.0971045, 0.7141733],
    ]
)
# The many versions of the sRGB profile differ by less than this; conversion is then skipped.
SRGB_TOLERANCE = 1.5 / 255
ROWS_PER_STRIP = 256  # bounds the memory of the conversion

ArrayTransform = Callable[[np.ndarray], np.ndarray]
ImageTransform = Callable[[Image.Image], Image.Image]


def srgb_profile() -> bytes:
    """Return a small sRGB profile, the same bytes every time."""
    from PIL import ImageCms

    icc = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    created = struct.pack(">6H", 2000, 1, 1, 0, 0, 0)  # instead of the current time
    return icc[:24] + created + icc[36:]


def to_srgb(pixels: np.ndarray, icc: bytes) -> tuple[np.ndarray, bytes]:
    """Convert device colors to sRGB.

    Args:
        pixels: (H, W, 1 or 3) float32 in 0..1; may be overwritten.
        icc: profile of an RGB or gray device.

    Returns:
        Pixels (H, W, 1 or 3) in sRGB, unchanged if the profile is sRGB, and the profile to write
        with an RGB result.

    Raises:
        ValueError: the profile is damaged or does not fit the channels.
    """
    space = icc[16:20].decode("ascii", "replace").strip()
    if space not in ("RGB", "GRAY") or (space == "GRAY" and pixels.shape[2] != 1):
        kind = "a gray" if pixels.shape[2] == 1 else "an RGB"
        raise ValueError(f"{kind} image has an ICC profile for {space or 'an unknown color space'}")
    channels = 1 if space == "GRAY" else 3
    convert = _curve_transform(icc) or _table_transform(icc)
    steps = np.linspace(0, 1, 9 if channels == 3 else 256, dtype=np.float32)
    probe = np.stack(np.meshgrid(*[steps] * channels), axis=-1).reshape(1, -1, channels)
    if np.abs(convert(probe) - probe).max() <= SRGB_TOLERANCE:
        return pixels, icc if space == "RGB" else srgb_profile()
    if channels == 3 and pixels.shape[2] == 1:
        pixels = np.repeat(pixels, 3, axis=2)
    for top in range(0, len(pixels), ROWS_PER_STRIP):
        strip = slice(top, top + ROWS_PER_STRIP)
        pixels[strip] = convert(pixels[strip])
    return pixels, srgb_profile()


def cmyk_to_srgb(image: Image.Image, icc: bytes) -> Image.Image:
    """Convert a CMYK image to RGB, by its profile or else by Pillow's plain formula.

    Raises:
        ValueError: the profile cannot be used.
    """
    return cms_transform(icc, "CMYK")(image) if icc else image.convert("RGB")


def lab_to_srgb(image: Image.Image) -> Image.Image:
    """Convert an 8-bit CIELAB image (D50) to RGB."""
    from PIL import ImageCms

    lab = ImageCms.ImageCmsProfile(ImageCms.createProfile("LAB")).tobytes()
    return cms_transform(lab, "LAB")(image)


def cms_transform(icc: bytes, mode: str) -> ImageTransform:
    """Return Pillow's 8-bit transform of images of `mode` to sRGB.

    Raises:
        ValueError: the profile cannot be used.
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
        raise ValueError(f"the ICC profile cannot be used ({error})") from error

    def apply(image: Image.Image) -> Image.Image:
        converted = ImageCms.applyTransform(image, transform)
        assert converted is not None  # None only for in-place transforms
        return converted

    return apply


def _table_transform(icc: bytes) -> ArrayTransform:
    """Return the transform of a profile with lookup tables."""
    gray = icc[16:20] == b"GRAY"
    to_rgb = cms_transform(icc, "L" if gray else "RGB")

    def convert(pixels: np.ndarray) -> np.ndarray:
        values = np.rint(pixels * 255).astype(np.uint8)
        image = to_rgb(Image.fromarray(values[..., 0] if gray else values))
        return np.asarray(image, np.float32)[..., : pixels.shape[2]] / 255

    return convert


def _curve_transform(icc: bytes) -> ArrayTransform | None:
    """Return the transform of a matrix/curve or gray-curve profile; None for other kinds."""
    tags = _tags(icc)
    try:
        if icc[16:20] == b"GRAY":
            curves, matrix = [_curve(tags["kTRC"])], np.ones((1, 1))
        else:
            curves = [_curve(tags[name]) for name in ("rTRC", "gTRC", "bTRC")]
            colorants = [_fixed_point(tags[name][8:20]) for name in ("rXYZ", "gXYZ", "bXYZ")]
            to_xyz = np.stack(colorants, axis=1)
            matrix = np.linalg.inv(SRGB_TO_XYZ_D50) @ to_xyz
            matrix /= matrix.sum(axis=1, keepdims=True)  # white to white: grays stay exactly gray
    except (KeyError, ValueError, struct.error):  # ValueError: LinAlgError, too
        return None
    if icc[20:24] != b"XYZ " or not np.isfinite(matrix).all():
        return None

    def convert(pixels: np.ndarray) -> np.ndarray:
        linear = np.stack([curve(pixels[..., i]) for i, curve in enumerate(curves)], axis=-1)
        clipped = torch.from_numpy((linear @ matrix.T).clip(0, 1))
        return color.linear_to_srgb(clipped).float().numpy()

    return convert


def _tags(icc: bytes) -> dict[str, bytes]:
    """Return the profile's tag table, name to data (ICC.1:2022, 7.3)."""
    if len(icc) < 132 or icc[36:40] != b"acsp":
        raise ValueError("the ICC profile is damaged")
    count = min(struct.unpack_from(">I", icc, 128)[0], (len(icc) - 132) // 12)
    entries = (struct.unpack_from(">4sII", icc, 132 + 12 * i) for i in range(count))
    return {name.decode("latin-1"): icc[start : start + size] for name, start, size in entries}


def _fixed_point(data: bytes) -> np.ndarray:
    """Decode s15Fixed16 numbers."""
    return np.frombuffer(data, ">i4") / 65536


def _curve(data: bytes) -> ArrayTransform:
    """Decode a `curv` or `para` tag: device value to linear light, both 0..1 (10.6, 10.18)."""
    if data[:4] == b"curv":
        return _sampled_curve(data)
    if data[:4] == b"para":
        return _parametric_curve(data)
    raise ValueError("unknown curve type")


def _sampled_curve(data: bytes) -> ArrayTransform:
    count = struct.unpack_from(">I", data, 8)[0]
    samples = np.frombuffer(data[12 : 12 + 2 * count], ">u2")
    if len(samples) != count:
        raise ValueError("truncated curve")
    if count == 0:
        return lambda x: x.astype(np.float64)
    if count == 1:
        return lambda x: x.astype(np.float64) ** (samples[0] / 256)
    return lambda x: np.interp(x, np.linspace(0, 1, count), samples / 65535)


def _parametric_curve(data: bytes) -> ArrayTransform:
    kind = struct.unpack_from(">H", data, 8)[0]
    counts = (1, 3, 4, 5, 7)
    if kind >= len(counts):
        raise ValueError("unknown parametric curve")
    parameters = _fixed_point(data[12 : 12 + 4 * counts[kind]]).tolist()
    # Every kind is the last one with some parameters fixed: (ax + b)^g + e for x >= d, else cx + f.
    defaults = [1.0, 1.0, 0.0, 0.0, 0.0, 0.0, 0.0]
    g, a, b, c, d, e, f = parameters + defaults[len(parameters) :]
    if kind in (1, 2):
        d = -b / a  # below it the curve is flat
        e, f, c = (c, c, 0.0) if kind == 2 else (0.0, 0.0, 0.0)

    def parametric(x: np.ndarray) -> np.ndarray:
        x = x.astype(np.float64)
        return np.where(x >= d, np.maximum(a * x + b, 0) ** g + e, c * x + f)

    return parametric
