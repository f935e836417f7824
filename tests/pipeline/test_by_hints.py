"""Colorization by point hints: any image, any hints, with or without a base; previews."""

import copy
import dataclasses
import logging
from types import SimpleNamespace

import comfyui_colorist as colorist
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from comfyui_colorist.model_defs import checkpoint, registry
from comfyui_colorist.ops import color, gaussian_process
from comfyui_colorist.pipeline.by_hints import PREVIEW_SIDE, PointHintColorizer, encode_hints
from comfyui_colorist.pipeline.hints.rasterize import hint_boxes, hint_windows, rasterize
from comfyui_colorist.pipeline.hints.schema import (
    Hint,
    MaskRegion,
    Region,
    Stroke,
    dump_hints,
    hint_values,
)
from comfyui_colorist.pipeline.postprocess import Finish

SIZES = [(1, 1), (1, 40), (40, 1), (33, 31), (300, 20), (97, 211)]
STRIPS = [(1, 3000), (3000, 2), (5, 900)]
DIFFERENT = 0.01  # mean difference in sRGB of results that are not the same
ROUNDING = {"atol": 1e-3, "rtol": 0}
HINTS = [Hint(0.2, 0.3, "#b04030"), Hint(0.8, 0.6, "#3060b0", 6), Hint(1, 1, "#408040")]
FINISHES = [
    Finish(strength=0.5),
    Finish(saturation=1.7, chroma_ceiling=25),
    Finish(keep_color=1),
    Finish(upsample="bilinear"),
    Finish(upsample="nearest"),
]


def photo(batch=1, height=50, width=70, channels=3, seed=0):
    return torch.rand(batch, height, width, channels, generator=torch.Generator().manual_seed(seed))


def middling(batch=1, height=64, width=64):
    """Return gray photos at a lightness at which all colors of HINTS are in gamut."""
    return 0.4 + 0.1 * photo(batch, height, width, 1)


def lightness(image):
    return color.lightness(image[..., :3].movedim(-1, 1).float())


def ab_of(image):
    return color.rgb_to_lab(image[..., :3].movedim(-1, 1).float())[:, 1:]


def scattered(count, seed=0):
    rng = np.random.default_rng(seed)
    return [Hint(*rng.random(2).tolist(), f"#{rng.integers(2**24):06x}") for _ in range(count)]


def engine_of(network, path, prior):
    info = {
        "architecture": "pointhint",
        "config": dataclasses.asdict(network.config),
        "spec": {"prior": prior},
    }
    path.write_bytes(checkpoint.to_bytes(network.state_dict(), info))
    return colorist.load(path, device="cpu")


@pytest.fixture(scope="module")
def mini(mini):
    """Automatic miniature with a small working size."""
    small = copy.copy(mini)
    small.spec = dataclasses.replace(mini.spec, resolution=64)
    return small


@pytest.fixture(scope="module")
def fresh(mini_pointhint_config, tmp_path_factory):
    """Untrained network: returns the chroma of its input."""
    network = registry.build("pointhint", mini_pointhint_config)
    return engine_of(network, tmp_path_factory.mktemp("models") / "fresh.safetensors", True)


@pytest.fixture(scope="module")
def hints_alone(mini_pointhint_network, tmp_path_factory):
    """The miniature as a network trained with zeros between hints."""
    path = tmp_path_factory.mktemp("models") / "paper.safetensors"
    return engine_of(mini_pointhint_network, path, False)


@pytest.fixture
def vivid(mini):
    """Base that predicts green to red from left to right and blue to yellow from top to bottom."""
    ramp = torch.linspace(-25, 25, 64)
    ab = torch.stack([ramp.expand(64, 64), ramp[:, None].expand(64, 64)])[None]
    return SimpleNamespace(spec=mini.spec, name="vivid", chroma=lambda rgb: ab)


def kernel_of(engine):
    return engine.device_manager.acquire(0).kernel


def spied(monkeypatch, engine):
    """Record the inputs of the engine's network."""
    seen, network = [], engine.device_manager.acquire(0)
    forward = network.forward
    monkeypatch.setattr(network, "forward", lambda x: seen.append(x.clone()) or forward(x))
    return seen


@pytest.fixture
def seen(mini_pointhint, monkeypatch):
    return spied(monkeypatch, mini_pointhint)


@pytest.fixture
def seen_base(mini, monkeypatch):
    return spied(monkeypatch, mini)


# ---- photos and options ----


def test_a_pointhint_file_gives_a_pointhint_colorizer(mini_pointhint, mini):
    assert isinstance(mini_pointhint, PointHintColorizer)
    assert mini_pointhint.spec.role == "pointhint" and mini_pointhint.spec.prior
    assert not isinstance(mini, PointHintColorizer) and not mini.spec.prior


@pytest.mark.parametrize("size", SIZES + STRIPS)
def test_any_size_keeps_size_and_lightness(mini_pointhint, mini, size):
    rgb = photo(1, *size)
    for options_list in ({"hints": HINTS}, {"hints": ""}, {"hints": HINTS, "base": mini}):
        out = mini_pointhint.colorize(rgb, resolution=64, **options_list)
        assert out.shape == rgb.shape
        assert out.min() >= 0 and out.max() <= 1
        torch.testing.assert_close(lightness(out), lightness(rgb), atol=0.01, rtol=0)


def test_hints_change_the_colors(mini_pointhint):
    none, first, other = (
        mini_pointhint.colorize(photo(), hints=hints, resolution=64)
        for hints in ("", HINTS[:1], HINTS[1:2])
    )
    for a, b in ((none, first), (none, other), (first, other)):
        assert (a - b).abs().mean() > DIFFERENT


def test_only_lightness_of_the_photo_is_used(mini_pointhint):
    rgb = photo(channels=1)
    gray = rgb.expand(-1, -1, -1, 3)
    want = mini_pointhint.colorize(gray, hints=HINTS, resolution=64)
    out = mini_pointhint.colorize(rgb, hints=HINTS, resolution=64)
    assert out.shape[-1] == 3
    torch.testing.assert_close(out, want)
    rgba = torch.cat([gray, photo(channels=1, seed=3)], dim=-1)
    out = mini_pointhint.colorize(rgba, hints=HINTS, resolution=64)
    assert torch.equal(out[..., 3], rgba[..., 3])
    torch.testing.assert_close(out[..., :3], want)
    tinted = color.to_gamut(torch.cat([lightness(gray), 9 + 0 * ab_of(gray)], dim=1))
    out = mini_pointhint.colorize(tinted.movedim(1, -1), hints=HINTS, resolution=64)
    assert (out - want).abs().mean() < 0.005


def test_array_in_array_out(mini_pointhint):
    array = photo()[0].numpy()
    before = array.copy()
    out = mini_pointhint.colorize(array, hints=HINTS, resolution=64)
    assert isinstance(out, np.ndarray) and out.shape == array.shape and out.dtype == array.dtype
    want = mini_pointhint.colorize(photo(), hints=HINTS, resolution=64)
    torch.testing.assert_close(torch.from_numpy(out), want[0])
    assert (array == before).all()


def test_half_precision_in_half_precision_out(mini_pointhint):
    out = mini_pointhint.colorize(photo().half(), hints=HINTS, resolution=64)
    assert out.dtype == torch.float16
    want = mini_pointhint.colorize(photo(), hints=HINTS, resolution=64)
    assert (out - want).abs().mean() < 0.005


def test_half_precision_of_the_network(mini_pointhint, mini_pointhint_file, mini):
    half = colorist.load(mini_pointhint_file, device="cpu", dtype="bfloat16")
    for options_list in ({"hints": HINTS}, {"hints": HINTS, "base": mini}):
        out = half.colorize(photo(), **options_list, resolution=64)
        want = mini_pointhint.colorize(photo(), **options_list, resolution=64)
        assert out.dtype == torch.float32
        assert (out - want).abs().mean() < 0.02


@pytest.mark.parametrize("with_base", [False, True])
def test_batch_equals_images_one_by_one(mini_pointhint, mini, monkeypatch, with_base):
    rgb = photo(5)
    options = {"hints": HINTS, "resolution": 64, "base": mini if with_base else None}
    apart = torch.cat([mini_pointhint.colorize(image[None], **options) for image in rgb])
    monkeypatch.setattr(mini_pointhint.device_manager, "max_batch_size", lambda memory: 2)
    done = []
    together = mini_pointhint.colorize(rgb, **options, progress=done.append)
    torch.testing.assert_close(together, apart, **ROUNDING)
    assert done == [2, 4, 5]


@pytest.mark.parametrize("with_base", [False, True])
def test_hints_per_image(mini_pointhint, mini, monkeypatch, with_base):
    rgb, each = photo(3), [HINTS, [], HINTS[:1]]
    options = {"resolution": 64, "base": mini if with_base else None}
    apart = [
        mini_pointhint.colorize(image, hints=hints, **options)
        for image, hints in zip(rgb, each, strict=True)
    ]
    monkeypatch.setattr(mini_pointhint.device_manager, "max_batch_size", lambda memory: 2)
    together = mini_pointhint.colorize(rgb, hints_per_image=each, **options)
    torch.testing.assert_close(together, torch.stack(apart), **ROUNDING)
    with pytest.raises(ValueError, match="hints for 2 images, but 3 images"):
        mini_pointhint.colorize(rgb, hints_per_image=each[:2], **options)


def test_out_of_memory_halves_the_batch(mini_pointhint, mini, monkeypatch):
    rgb, options = photo(4), {"hints": HINTS, "resolution": 64, "base": mini}
    want = mini_pointhint.colorize(rgb, **options)
    sizes, network = [], mini_pointhint.device_manager.acquire(0)
    forward = network.forward

    def fits_two(x):
        sizes.append(len(x))
        if len(x) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return forward(x)

    monkeypatch.setattr(network, "forward", fits_two)
    monkeypatch.setattr(mini_pointhint.device_manager, "max_batch_size", lambda memory: 4)
    torch.testing.assert_close(mini_pointhint.colorize(rgb, **options), want, **ROUNDING)
    assert sizes == [4, 2, 2]


@pytest.mark.parametrize("size", [(150, 335), (33, 33), (1, 3000)])
def test_memory_is_acquired_for_the_padded_image(mini_pointhint, monkeypatch, size):
    """The estimate that `colorize` derives the batch size from."""
    wanted, acquired, device_manager = [], [], mini_pointhint.device_manager
    acquire = device_manager.acquire
    monkeypatch.setattr(device_manager, "max_batch_size", lambda memory: wanted.append(memory) or 1)
    monkeypatch.setattr(device_manager, "acquire", lambda n: acquired.append(n) or acquire(n))
    mini_pointhint.colorize(photo(1, *size), hints=HINTS)
    assert acquired == wanted


def test_mask(mini_pointhint):
    rgb, mask = photo(2), torch.zeros(50, 70)
    mask[:, 35:] = 1
    out = mini_pointhint.colorize(rgb, hints=HINTS, mask=mask, resolution=64)
    assert torch.equal(out[:, :, :35], rgb[:, :, :35])
    assert (out - rgb)[:, :, 35:].abs().mean() > DIFFERENT


def test_finish_controls(mini_pointhint):
    rgb, options = photo(), {"hints": HINTS, "resolution": 64}

    def render(**controls):
        return mini_pointhint.colorize(rgb, **options, finish=Finish(**controls))

    torch.testing.assert_close(render(), mini_pointhint.colorize(rgb, **options))
    assert torch.equal(render(strength=0), rgb)
    assert ab_of(render(saturation=0)).abs().max() < 0.1
    bent = render(chroma_ceiling=12, upsample="bilinear")
    assert 8 < color.chroma(ab_of(bent)).max() < 12.1
    assert (render(upsample="nearest") - render()).abs().mean() > 1e-3
    sepia = torch.cat([lightness(rgb), 20 + 0 * ab_of(rgb)], dim=1)
    sepia = color.to_gamut(sepia).movedim(1, -1)
    kept = mini_pointhint.colorize(sepia, **options, finish=Finish(keep_color=1))
    colored = color.chroma(ab_of(sepia)) > 16
    assert colored.float().mean() > 0.5
    difference = (ab_of(kept) - ab_of(sepia)).abs().amax(1, keepdim=True)
    assert difference[colored].max() < 0.5


def test_bad_values_are_repaired_with_a_warning(mini_pointhint, caplog):
    rgb = photo()
    rgb[0, 3, 3] = float("nan")
    rgb[0, 4, 4] = 2.0
    with caplog.at_level(logging.WARNING):
        out = mini_pointhint.colorize(rgb, hints=HINTS, resolution=64)
    assert out.isfinite().all() and out.min() >= 0 and out.max() <= 1
    assert "NaN or values outside 0..1" in caplog.text


@pytest.mark.parametrize(
    ("dtype", "sentence"),
    [
        ("float16", "colors that are NaN or infinite in float16; choose float32 or bfloat16"),
        ("float32", "infinite in float32; its weights or its color memory are damaged"),
    ],
)
def test_nan_predictions_are_refused(mini_pointhint_file, dtype, sentence):
    engine = colorist.load(mini_pointhint_file, device="cpu", dtype=dtype)
    with torch.no_grad():
        engine.device_manager.acquire(0).embed.weight.view(-1)[0] = float("inf")
    with pytest.raises(ValueError, match=sentence):
        engine.colorize(photo(), hints=HINTS, resolution=64)
    prepared = engine.prepare(photo(), resolution=64)
    with pytest.raises(ValueError, match=sentence):
        engine.preview(prepared, HINTS)


# ---- hints ----


def test_all_forms_of_hints_give_the_same_result(mini_pointhint):
    options, as_text = {"resolution": 64}, dump_hints(HINTS)
    want = mini_pointhint.colorize(photo(), hints=HINTS, **options)
    points = [hint_values(hint) for hint in HINTS]
    for hints in (as_text, tuple(HINTS), points, {"version": 1, "points": points}):
        assert torch.equal(mini_pointhint.colorize(photo(), hints=hints, **options), want)


def test_hints_are_optional(mini_pointhint, seen):
    want = mini_pointhint.colorize(photo(), resolution=64)
    for hints in ("", [], '{"version": 1, "points": []}'):
        assert torch.equal(mini_pointhint.colorize(photo(), hints=hints, resolution=64), want)
    assert len(seen) == 4 and not any(x[:, 3:].any() for x in seen)
    L = 50 * (seen[0][:, :1] + 1)
    none = torch.zeros(len(L), 0, 2)
    mean = gaussian_process.krige(L, none, none, none[..., 0] > 0, kernel_of(mini_pointhint)(L))
    torch.testing.assert_close(110 * seen[0][:, 1:3], mean, atol=1e-3, rtol=0)
    assert color.chroma(ab_of(want)).mean() > 0.5  # the network chooses the colors


@pytest.mark.parametrize("with_base", [False, True])
def test_an_untrained_network_returns_the_colors_of_hints(fresh, mini, with_base):
    """Photo and working image have one size, so the result has the colors of the hints."""
    rgb = middling()
    options = {"resolution": 64, "base": mini if with_base else None}
    ab = ab_of(fresh.colorize(rgb, hints=HINTS, **options))[0]
    for hint, (top, left, bottom, right) in zip(HINTS, hint_boxes(HINTS, 64, 64), strict=True):
        got = ab[:, top:bottom, left:right]
        torch.testing.assert_close(got.flatten(1), torch.tensor(hint.ab)[:, None].expand(
            -1, got[0].numel()), atol=1, rtol=0)  # fmt: skip


def test_hints_keep_their_colors_on_a_larger_photo(fresh):
    """Edge-aware upsampling keeps the colors of hints approximately."""
    small = middling(height=48, width=80)
    rgb = F.interpolate(small.movedim(-1, 1), scale_factor=4, mode="bilinear").movedim(1, -1)
    hints = [Hint(0.3, 0.3, "#b04030", 6), Hint(0.7, 0.7, "#3060b0", 6)]
    ab = ab_of(fresh.colorize(rgb, hints=hints, resolution=62))[0]
    for hint in hints:
        y, x = int(hint.y * 192), int(hint.x * 320)
        near = ab[:, y - 3 : y + 4, x - 3 : x + 4].flatten(1).mean(1)
        assert (near - torch.tensor(hint.ab)).norm() < 6


def test_position_of_a_hint_on_the_working_image(mini_pointhint, seen):
    """A photo of 60x200 has a working size of 35x117; cells are those of the unpadded image."""
    mini_pointhint.colorize(photo(1, 60, 200), hints=[Hint(0.5, 0.25, "#b04030")], resolution=64)
    [x] = seen
    assert x.shape == (1, 4, 35, 117)
    assert x[0, 3].nonzero().tolist() == [[8, 58], [8, 59], [9, 58], [9, 59]]


def test_network_input(mini_pointhint, hints_alone, monkeypatch, mini):
    rgb = photo(2, 64, 64)
    L = lightness(rgb)
    ab, mask = rasterize(HINTS, 64, 64)[:2]
    for engine, base in ((hints_alone, None), (mini_pointhint, None), (mini_pointhint, mini)):
        with monkeypatch.context() as patch:
            inputs = spied(patch, engine)
            engine.colorize(rgb, hints=HINTS, resolution=64, base=base)
        assert len(inputs) == 2
        for x, light in zip(inputs, L.split(1), strict=True):
            assert x.dtype == torch.float32 and x.shape == (1, 4, 64, 64)
            torch.testing.assert_close(x[:, :1], light / 50 - 1, atol=1e-5, rtol=0)
            assert torch.equal(x[:, 3:], mask)
            torch.testing.assert_close(x[:, 1:3] * mask, ab / 110)
            between = (x[:, 1:3] * (1 - mask)).abs().mean()
            assert between > 0.01 if engine.spec.prior else between == 0


@pytest.mark.parametrize("learned", [False, True])
def test_the_prior_between_hints_is_kriged(
    mini_pointhint_config, mini_pointhint, tmp_path, monkeypatch, learned
):
    """With position and lightness, or with the network's kernel."""
    engine, kernel = mini_pointhint, kernel_of(mini_pointhint)
    if not learned:
        config = dataclasses.replace(mini_pointhint_config, kernel=None)
        network = registry.build("pointhint", config)
        engine, kernel = engine_of(network, tmp_path / "plain.safetensors", True), None
    seen = spied(monkeypatch, engine)
    rgb = photo(1, 64, 64)
    engine.colorize(rgb, hints=HINTS, resolution=64)
    centers = torch.from_numpy(hint_boxes(HINTS, 64, 64)).view(3, 2, 2).float().mean(1)
    assert centers[[0, 2]].tolist() == [[19, 13], [63, 63]]
    values = torch.tensor([hint.ab for hint in HINTS])
    there = torch.ones(1, 3, dtype=torch.bool)
    covariance = kernel(lightness(rgb)) if learned else gaussian_process.COLOR_KERNEL
    want = gaussian_process.krige(lightness(rgb), centers[None], values[None], there, covariance)
    outside = seen[0][:, 3:] == 0
    got, want = (x * outside for x in (110 * seen[0][:, 1:3], want))
    torch.testing.assert_close(got, want, atol=1e-3, rtol=0)


def test_the_prior_is_clamped_to_the_input_range():
    """Corrections of a saturated base must not exceed the range of training."""
    base = torch.full((1, 2, 16, 16), 100.0)
    base[..., :8] = -60
    hints = [Hint(0.1, 0.5, "#ffff00"), Hint(0.2, 0.2, "#ff0000")]
    ab, mask = encode_hints(torch.full((1, 1, 16, 16), 50.0), hints, base, prior=True)
    assert ab.abs().max() == 110 and mask.sum() == 8


def test_three_hundred_hints(mini_pointhint, fresh):
    hints = scattered(300)
    out = mini_pointhint.colorize(photo(1, 97, 131), hints=hints)
    assert out.isfinite().all()
    torch.testing.assert_close(lightness(out), lightness(photo(1, 97, 131)), atol=0.01, rtol=0)
    last = HINTS[0]
    rgb = middling(1, 96, 96)
    ab = ab_of(fresh.colorize(rgb, hints=[*hints, last], resolution=96))[0]
    y, x = hint_boxes([last], 96, 96)[0, :2]
    assert ab[:, y, x].tolist() == pytest.approx(last.ab, abs=1)


@pytest.mark.parametrize("with_base", [False, True])
def test_a_covered_hint_has_no_influence(with_base):
    """A later hint replaces an earlier one in the same cell, as a correcting click must."""
    L = 100 * photo(1, 32, 32, 1).movedim(-1, 1)
    base = 20 * photo(1, 32, 32, 2, seed=1).movedim(-1, 1) if with_base else None
    wrong, right = Hint(0.5, 0.5, "#b04030"), Hint(0.51, 0.52, "#3060b0")
    other = Hint(0.2, 0.9, "#408040")
    for hidden in (wrong, dataclasses.replace(wrong, size=1)):
        got, _ = encode_hints(L, [hidden, other, right], base, prior=True)
        want, _ = encode_hints(L, [other, right], base, prior=True)
        torch.testing.assert_close(got, want, atol=1e-3, rtol=0)
    larger = dataclasses.replace(right, size=12)
    got, _ = encode_hints(L, [wrong, other, larger], base, prior=True)
    want, _ = encode_hints(L, [other, larger], base, prior=True)
    torch.testing.assert_close(got, want, atol=1e-3, rtol=0)


def test_a_gray_hint_removes_color(fresh, vivid):
    gray = [Hint(0.2, 0.2, "#777777")]
    ab = ab_of(fresh.colorize(middling(), base=vivid, hints=gray, resolution=64))[0].norm(dim=0)
    assert ab[12, 12] < 1 and ab[10:16, 10:16].max() < 8 and ab[55, 55] > 15


# ---- base ----


def test_without_hints_the_result_is_that_of_the_base(mini_pointhint, mini, seen):
    """Exactly, if both have the same working size."""
    for rgb in (photo(2), photo(1, 97, 31, 4)):
        out = mini_pointhint.colorize(rgb, base=mini, resolution=64)
        assert torch.equal(out, mini.colorize(rgb))
    assert not seen


def test_without_hints_other_working_sizes_only_resample_the_base(mini_pointhint, mini):
    y, x = torch.meshgrid(torch.linspace(0, 1, 90), torch.linspace(0, 1, 120), indexing="ij")
    rgb = (0.5 + 0.3 * torch.sin(5 * x + 3 * y))[None, :, :, None]
    for resolution in (48, 96, 224):
        out = mini_pointhint.colorize(rgb, base=mini, resolution=resolution)
        assert (out - mini.colorize(rgb)).abs().mean() < 0.01


def test_hints_correct_a_base(mini_pointhint, mini, seen):
    """The prior is the base's chroma with corrections near the hints."""
    rgb = middling(height=64, width=128)
    mini_pointhint.colorize(rgb, base=mini, hints=HINTS[:1], resolution=90)
    [x] = seen
    base_result = F.interpolate(
        mini.chroma(rgb.movedim(-1, 1).expand(-1, 3, -1, -1)),
        size=x.shape[2:],
        mode="bilinear",
        antialias=True,
    )
    moved = (110 * x[:, 1:3] - base_result).norm(dim=1)[0]
    top, left, bottom, right = hint_boxes(HINTS[:1], *x.shape[2:])[0]
    at_hint = torch.tensor(HINTS[0].ab) - base_result[0, :, top, left]
    assert moved[top, left].item() == pytest.approx(at_hint.norm().item(), abs=1e-2)
    assert moved[top:bottom, right].mean() > 0.5 * at_hint.norm()
    assert moved[:, -10:].mean() < 0.2 * moved[top:bottom, right].mean()


def test_hints_in_the_colors_of_the_base_change_nothing(fresh, vivid):
    """Except for rounding to #rrggbb: only differences from the base are interpolated."""
    rgb = middling()
    base_result = fresh.colorize(rgb, base=vivid, resolution=64)
    hints = []
    for y, x in ((11, 13), (41, 51), (31, 9)):
        red, green, blue = (255 * base_result[0, y, x]).round().int().tolist()
        hints.append(Hint((x + 0.5) / 64, (y + 0.5) / 64, f"#{red:02x}{green:02x}{blue:02x}"))
    out = fresh.colorize(rgb, base=vivid, hints=hints, resolution=64)
    assert (ab_of(out) - ab_of(base_result)).abs().max() < 1.5


def test_base_works_at_its_own_resolution(mini_pointhint, mini, seen, seen_base):
    mini_pointhint.colorize(photo(2, 60, 60), base=mini, hints=HINTS, resolution=96)
    assert [tuple(x.shape) for x in seen] == [(1, 4, 96, 96)] * 2
    assert [tuple(x.shape) for x in seen_base] == [(1, 3, 64, 64)] * 2


# ---- previews ----


def no_stop():
    raise AssertionError("a preview runs outside the queue and must not check for its interrupt")


@pytest.mark.parametrize("channels", [3, 4])
@pytest.mark.parametrize(
    "size", [(1, 1), (1, 40), (33, 31), (97, 211), (2 * PREVIEW_SIDE, PREVIEW_SIDE // 2)]
)
def test_preview_of_a_small_photo_equals_the_result(mini_pointhint, mini, size, channels):
    rgb = photo(1, *size, channels)
    mask = photo(1, *size, 1, seed=5)[..., 0]
    options_list = [{}, {"base": mini}, {"base": mini, "mask": mask}]
    for options in options_list[2 if max(size) > PREVIEW_SIDE else 0 :]:
        prepared = mini_pointhint.prepare(rgb, **options, resolution=64)
        assert torch.equal(prepared.rgb, rgb[0, ..., :3])
        assert prepared.size == (size[1], size[0])
        for hints in (HINTS, ""):
            want = mini_pointhint.colorize(rgb, **options, hints=hints, resolution=64)
            out = mini_pointhint.preview(prepared, hints)
            assert out.dtype == torch.float32
            assert torch.equal(out, want[0, ..., :3])


def test_preview_of_a_gray_photo(mini_pointhint):
    """Equal except for rounding, because the memory layout of the channels differs."""
    rgb = photo(1, 97, 131, 1)
    prepared = mini_pointhint.prepare(rgb[0], resolution=64)
    assert torch.equal(prepared.rgb, rgb[0].expand(-1, -1, 3))
    want = mini_pointhint.colorize(rgb, hints=HINTS, resolution=64)[0]
    out = mini_pointhint.preview(prepared, HINTS)
    torch.testing.assert_close(out, want, atol=1e-5, rtol=0)
    assert torch.equal((out * 255).round(), (want * 255).round())


@pytest.mark.parametrize("finish", FINISHES)
def test_previews_apply_the_controls(mini_pointhint, finish):
    rgb = photo(channels=4)
    prepared = mini_pointhint.prepare(rgb, resolution=64)
    want = mini_pointhint.colorize(rgb, hints=HINTS, resolution=64, finish=finish)
    assert torch.equal(mini_pointhint.preview(prepared, HINTS, finish), want[0, ..., :3])


@pytest.mark.parametrize("size", [(700, 900), (3000, 100)])
@pytest.mark.parametrize("with_base", [False, True])
def test_preview_of_a_large_photo_has_the_same_chroma(mini_pointhint, mini, seen, size, with_base):
    small = photo(1, 30, 30, 1).movedim(-1, 1)
    rgb = F.interpolate(small, size=size, mode="bilinear").movedim(1, -1)
    options = {"base": mini if with_base else None, "resolution": 64}
    want = mini_pointhint.colorize(rgb, hints=HINTS, **options)
    prepared = mini_pointhint.prepare(rgb, **options)
    out = mini_pointhint.preview(prepared, HINTS)
    assert torch.equal(*seen)
    assert out.shape == prepared.rgb.shape and prepared.size == (size[1], size[0])
    height, width = out.shape[:2]
    assert height * width < 1.005 * PREVIEW_SIDE**2
    assert height * width > 0.98 * PREVIEW_SIDE**2 or max(height, width) == 4 * PREVIEW_SIDE
    assert height / width == pytest.approx(size[0] / size[1], rel=0.02)
    want = F.interpolate(want.movedim(-1, 1), size=(height, width), mode="bilinear", antialias=True)
    assert (out - want[0].movedim(0, -1)).abs().mean() < 0.003


@pytest.mark.parametrize("size", [(1, 300_000), (600_000, 1), (2, 200_000), (3, 1_000_000)])
def test_preview_of_a_strip_has_a_limited_size(mini_pointhint, size):
    prepared = mini_pointhint.prepare(torch.full((1, *size, 1), 0.5), resolution=64)
    height, width = prepared.rgb.shape[:2]
    assert height * width < 1.005 * PREVIEW_SIDE**2


@pytest.mark.parametrize("size", [(40, 60), (700, 900)])
def test_preview_with_a_mask(mini_pointhint, size):
    mask = torch.zeros(size)
    mask[:, size[1] // 2 :] = 1
    prepared = mini_pointhint.prepare(photo(1, *size), mask=mask, resolution=64)
    out = mini_pointhint.preview(prepared, HINTS)
    middle = out.shape[1] // 2
    assert prepared.mask.shape == (1, *out.shape[:2])
    assert torch.equal(out[:, : middle - 2], prepared.rgb[:, : middle - 2])
    moved = (out - prepared.rgb)[:, middle + 2 :].abs()
    assert moved.mean() > DIFFERENT and moved.amax(-1).median() > 0


def test_previews_run_neither_base_nor_kernel(mini_pointhint, mini, seen, seen_base, monkeypatch):
    kernel, kernel_inputs = kernel_of(mini_pointhint), []
    real = kernel.forward
    monkeypatch.setattr(kernel, "forward", lambda L: kernel_inputs.append(L) or real(L))
    prepared = mini_pointhint.prepare(photo(), base=mini, resolution=64)
    assert len(seen_base) == 1 and not seen
    for engine in (mini_pointhint, mini):
        monkeypatch.setattr(engine.device_manager, "check_interrupt", no_stop)
    first = mini_pointhint.preview(prepared, HINTS)
    mini_pointhint.preview(prepared, HINTS[:1], Finish(saturation=2))
    mini_pointhint.preview(prepared, "")
    assert torch.equal(mini_pointhint.preview(prepared, HINTS), first)  # previews do not change it
    assert len(seen_base) == 1 and len(kernel_inputs) == 1
    assert len(seen) == 3  # a base without hints needs no network


def test_prepare_does_not_change_the_photo(mini_pointhint):
    rgb = photo()
    prepared = mini_pointhint.prepare(rgb, resolution=64)
    mini_pointhint.preview(prepared, HINTS)
    assert torch.equal(rgb, photo()) and torch.equal(prepared.rgb, photo()[0])


def test_prepared_images_are_copies(mini_pointhint):
    """Prepared images outlive the run, and nodes may write to the photo or free it."""
    batch, masks = photo(8), photo(8, channels=1)[..., 0]
    prepared = mini_pointhint.prepare(batch[2:3], mask=masks[2:3], resolution=64)
    want = mini_pointhint.preview(prepared, HINTS)
    batch.fill_(0.5)
    masks.fill_(0)
    assert torch.equal(mini_pointhint.preview(prepared, HINTS), want)
    assert prepared.rgb.untyped_storage().nbytes() < batch.untyped_storage().nbytes()


def test_preview_of_half_precision_and_arrays(mini_pointhint, mini_pointhint_file):
    want = mini_pointhint.preview(mini_pointhint.prepare(photo(), resolution=64), HINTS)
    for rgb in (photo().half(), photo()[0].numpy()):
        prepared = mini_pointhint.prepare(rgb, resolution=64)
        assert prepared.rgb.dtype == torch.float32 and prepared.rgb.shape == (50, 70, 3)
        out = mini_pointhint.preview(prepared, HINTS)
        assert (out - want).abs().mean() < 0.005
    half = colorist.load(mini_pointhint_file, device="cpu", dtype="bfloat16")
    out = half.preview(half.prepare(photo(), resolution=64), HINTS)
    assert torch.equal(out, half.colorize(photo(), hints=HINTS, resolution=64)[0])


# ---- reach, strokes and regions ----

SHAPES = [
    Hint(0.2, 0.3, "#b04030", reach=0.2),
    Stroke([(0.7, 0.2), (0.9, 0.3)], "#408040", 4, 0.1),
    Region([(0.6, 0.6), (0.9, 0.6), (0.9, 0.9)], "#3060b0", 0.05),
]


@pytest.mark.parametrize("with_base", [False, True])
@pytest.mark.parametrize("free", [[], [Hint(0.5, 0.9, "#b0a030")]])
def test_outside_all_reaches_nothing_changes(mini_pointhint, mini, seen, with_base, free):
    L = lightness(photo(1, 64, 64))
    base_ab = mini_pointhint.predict_ab(L, HINTS, None) / 2 if with_base else None
    seen.clear()
    ab = mini_pointhint.predict_ab(L, [*SHAPES, *free], base_ab)
    assert len(seen) == (1 if with_base and not free else 2)
    want = mini_pointhint.predict_ab(L, free, base_ab)
    windows = hint_windows(SHAPES, 64, 64).amax(-1)[None, None]
    coverage = F.interpolate(windows, scale_factor=2, mode="bilinear")[0, 0]
    assert torch.equal(ab[..., coverage == 0], want[..., coverage == 0])
    assert 0.2 < (coverage == 0).float().mean() < 0.9
    assert (ab - want)[..., coverage == 1].abs().mean() > 1


def test_hints_without_reach_need_one_pass(mini_pointhint, seen):
    mini_pointhint.predict_ab(lightness(photo(1, 64, 64)), HINTS, None)
    assert len(seen) == 1


@pytest.mark.parametrize("with_base", [False, True])
def test_shapes_have_their_colors(fresh, mini, with_base):
    ab = ab_of(
        fresh.colorize(middling(), hints=SHAPES, resolution=64, base=mini if with_base else None)
    )[0]
    for hint, (y, x) in zip(SHAPES, ((19, 12), (16, 51), (44, 52)), strict=True):
        assert ab[:, y, x].tolist() == pytest.approx(hint.ab, abs=1.5)


def test_networks_without_prior_accept_shapes(hints_alone, monkeypatch):
    seen = spied(monkeypatch, hints_alone)
    hints_alone.colorize(middling(), hints=SHAPES, resolution=64)
    assert not (seen[0][:, 1:3] * (1 - seen[0][:, 3:])).any() and seen[0][:, 3:].sum() > 20


def test_regions_with_masks(fresh):
    rgb, mask = middling(2), torch.zeros(2, 64, 64)
    mask[0, :, 40:], mask[1, :, :24] = 1, 1
    regions = [(mask, "#b04030"), (np.float32(mask[0].numpy() == 0), "#3060b0")]
    options = {"resolution": 64, "hints": [Hint(0.5, 0.5, "#408040")]}
    out = fresh.colorize(rgb, regions=regions[:1], **options)
    ab, without = ab_of(out), ab_of(fresh.colorize(rgb, **options))
    red = torch.tensor([MaskRegion(mask[0], "#b04030").ab])[..., None]
    torch.testing.assert_close(ab[0][:, :, 41:].flatten(1), red[0].expand(-1, 64 * 23), atol=1.5,
                               rtol=0)  # fmt: skip
    assert torch.equal(ab[0][:, :, :38], without[0][:, :, :38])
    torch.testing.assert_close(ab[1][:, 5, 5], red[0, :, 0], atol=1.5, rtol=0)
    single = fresh.colorize(rgb[0], regions=[(mask[0], "#b04030")], **options)
    torch.testing.assert_close(single, out[0])
    both = ab_of(fresh.colorize(rgb[:1], regions=[(mask[:1], "red"), regions[1]], **options))
    assert both[0, 2 - 1, 5, 5] < -20  # blue
    prepared = fresh.prepare(rgb[0], regions=[(mask[0], "#b04030")], resolution=64)
    torch.testing.assert_close(fresh.preview(prepared, options["hints"]), out[0])
    suggested = fresh.suggest_points(prepared, 2, SHAPES).suggested
    assert all(hint.x < 40 / 64 for hint in suggested)
    assert prepared.area_of_effect(Hint(0.3, 0.5, "red"), SHAPES)[16, 25] < 0.2  # of the region


@pytest.mark.parametrize(
    ("region", "sentence"),
    [
        ((torch.ones(9, 9), "red"), r"region 2: the mask has shape \(1, 9, 9\); expected"),
        ((torch.ones(64, 64), "reddish"), "region 2: color is 'reddish'; expected #rrggbb"),
        ((torch.ones(64, 64), "red", 2), "region 2: reach is 2; expected a number from 0 to 1"),
        ((torch.zeros(64, 64), "red"), "region 2: the mask is empty; paint the area to color"),
    ],
)
def test_refuses_bad_regions(mini_pointhint, region, sentence):
    good = torch.ones(64, 64), "red"
    for run in (mini_pointhint.colorize, mini_pointhint.prepare):
        with pytest.raises(ValueError, match=f"^{sentence}"):
            run(middling(), regions=[good, region])


# ---- refusals ----


def test_refuses_the_published_finish(mini_pointhint):
    sentence = "finish is 'published', but pointhint networks have no official program"
    with pytest.raises(ValueError, match=sentence):
        mini_pointhint.colorize(photo(), hints=HINTS, finish="published")


def test_refuses_a_base_of_another_role(mini_pointhint, mini_exemplar):
    for base, role in ((mini_exemplar, "exemplar"), (mini_pointhint, "pointhint")):
        sentence = f"base is {base.name}, a network of the role '{role}'; expected an automatic one"
        for run in (mini_pointhint.colorize, mini_pointhint.prepare):
            with pytest.raises(ValueError, match=sentence):
                run(photo(), base=base)


def test_refuses_a_base_for_networks_without_prior(hints_alone, mini):
    sentence = r"paper.safetensors was trained on hints alone and cannot correct .*pointhint-nano"
    for run in (hints_alone.colorize, hints_alone.prepare):
        with pytest.raises(ValueError, match=sentence):
            run(photo(), base=mini)


@pytest.mark.parametrize(
    ("hints", "sentence"),
    [
        ("[]", "expected an object with version"),
        ('{"version": 3, "points": []}', "the hints have version 3; this release reads versions"),
        ([HINTS[0], {"x": 2, "y": 0, "color": "#000000"}], "point 2: x is 2; expected a number"),
        ([HINTS[0]] * 1001, "there are 1001 hints; at most 1000"),
    ],
)
def test_refuses_bad_hints(mini_pointhint, hints, sentence, seen):
    with pytest.raises(ValueError, match=sentence):
        mini_pointhint.colorize(photo(), hints=hints)
    prepared = mini_pointhint.prepare(photo(), resolution=64)
    with pytest.raises(ValueError, match=sentence):
        mini_pointhint.preview(prepared, hints)
    assert not seen


@pytest.mark.parametrize(
    ("rgb", "options", "words"),
    [
        (torch.zeros(2, 2, 3, dtype=torch.uint8), {}, "divide by 255"),
        (torch.zeros(1, 3, 5, 5), {}, r"expected \(B, H, W, C\)"),
        (torch.zeros(0, 5, 5, 3), {}, r"expected \(B, H, W, C\)"),
        (photo(), {"mask": torch.ones(9, 9)}, r"mask has shape \(1, 9, 9\); expected \(1 or 1, 50"),
        (photo(), {"resolution": 31}, "resolution is 31; this network needs at least 32"),
    ],
)
def test_refuses_unusable_images_and_options(mini_pointhint, rgb, options, words):
    for run in (mini_pointhint.colorize, mini_pointhint.prepare):
        with pytest.raises(ValueError, match=words):
            run(rgb, **options)


def test_a_preview_needs_a_single_image(mini_pointhint):
    with pytest.raises(ValueError, match="a preview needs a single image; 3 were given"):
        mini_pointhint.prepare(photo(3))
