"""Colorization by reference: any image and any references in."""

import dataclasses
import gc
import time
import weakref
from concurrent.futures import ThreadPoolExecutor

import comfyui_colorist as colorist
import numpy as np
import pytest
import torch
from comfyui_colorist.model_defs import checkpoint, registry, xcnet
from comfyui_colorist.ops import color
from comfyui_colorist.pipeline.by_reference import (
    MAX_CACHED_SIZES,
    EncodedReferenceCache,
    ExemplarColorizer,
    reference_weight,
)
from comfyui_colorist.pipeline.postprocess import ExactRenderer

SIZES = [(1, 1), (1, 40), (40, 1), (33, 31), (300, 20), (97, 211)]
DIFFERENT = 0.01  # mean difference in sRGB of results that are not the same
ROUNDING = {"atol": 2e-3, "rtol": 0}  # which random weights make larger; a level is 4e-3


def photo(batch=1, height=50, width=70, channels=3, seed=0):
    return torch.rand(batch, height, width, channels, generator=torch.Generator().manual_seed(seed))


def plain(*rgb, height=40, width=30):
    """Return a reference of one color, which is as certain as can be."""
    return torch.tensor(rgb).expand(1, height, width, 3)


def lightness(image):
    return color.lightness(image[..., :3].movedim(-1, 1).float())


def chroma(image):
    return color.chroma(color.rgb_to_lab(image[..., :3].movedim(-1, 1).float())[:, 1:])


@pytest.fixture
def encoded(mini_exemplar, monkeypatch):
    """Calls of `network.encode_references`: sizes of the references, size of the targets."""
    calls, network = [], mini_exemplar.device_manager.acquire(0)
    encode = network.encode_references

    def counted(references, size, *rest):
        calls.append(([tuple(r.shape[2:]) for r in references], tuple(size)))
        return encode(references, size, *rest)

    monkeypatch.setattr(network, "encode_references", counted)
    return calls


@pytest.fixture
def fixed_confidence(mini_exemplar, monkeypatch):
    """Function that makes the miniature predict one confidence everywhere."""
    network = mini_exemplar.device_manager.acquire(0)
    predict = network.predict

    def set_to(value):
        def predict_with_confidence(target, references):
            prediction = predict(target, references)
            confidence = torch.full_like(prediction.confidence, value)
            return prediction._replace(confidence=confidence)

        monkeypatch.setattr(network, "predict", predict_with_confidence)

    return set_to


@pytest.fixture(scope="module")
def mini_standard(mini_exemplar_config, tmp_path_factory):
    """The miniature with attention over whole maps: references keep their own aspect ratio."""
    config = dataclasses.replace(mini_exemplar_config, attention=("standard",) * 3)
    with torch.random.fork_rng():
        torch.manual_seed(0)
        network = registry.build("exemplar", config)
        xcnet.initialize(network)
    path = tmp_path_factory.mktemp("models") / "standard.safetensors"
    info = {"architecture": "exemplar", "config": dataclasses.asdict(config)}
    path.write_bytes(checkpoint.to_bytes(network.state_dict(), info))
    return colorist.load(path, device="cpu")


def test_an_exemplar_file_gives_an_exemplar_colorizer(mini_exemplar, mini):
    assert isinstance(mini_exemplar, ExemplarColorizer)
    assert mini_exemplar.spec.role == "exemplar"
    assert not isinstance(mini, ExemplarColorizer)


@pytest.mark.parametrize("size", SIZES)
def test_any_size_keeps_size_and_lightness(mini_exemplar, size):
    rgb = photo(1, *size)
    out, sure = mini_exemplar.colorize_with_confidence(rgb, reference=photo(seed=1), resolution=64)
    assert out.shape == rgb.shape
    assert sure.shape == rgb.shape[:3]
    torch.testing.assert_close(lightness(out), lightness(rgb), atol=0.01, rtol=0)


@pytest.mark.parametrize("size", SIZES)
def test_references_of_any_size(mini_exemplar, mini_standard, size):
    for engine in (mini_exemplar, mini_standard):
        out, sure = engine.colorize_with_confidence(
            photo(), reference=photo(1, *size, seed=1), resolution=64
        )
        assert out.isfinite().all() and sure.isfinite().all()


def test_the_reference_counts(mini_exemplar):
    first, other = (
        mini_exemplar.colorize(photo(), reference=photo(seed=seed), resolution=64)
        for seed in (1, 2)
    )
    assert chroma(first).mean() > 1
    assert (first - other).abs().mean() > DIFFERENT


def test_the_network_sees_only_lightness(mini_exemplar):
    rgb = photo(channels=1)
    gray = rgb.expand(-1, -1, -1, 3)
    want = mini_exemplar.colorize(gray, reference=photo(seed=1), resolution=64)
    out = mini_exemplar.colorize(rgb, reference=photo(seed=1), resolution=64)
    assert out.shape[-1] == 3
    torch.testing.assert_close(out, want)
    rgba = torch.cat([gray, photo(channels=1, seed=3)], dim=-1)
    out = mini_exemplar.colorize(rgba, reference=photo(seed=1), resolution=64)
    assert torch.equal(out[..., 3], rgba[..., 3])
    torch.testing.assert_close(out[..., :3], want)


def test_array_in_array_out(mini_exemplar):
    array, reference = photo()[0].numpy(), photo(seed=1)[0].numpy()
    out, sure = mini_exemplar.colorize_with_confidence(array, reference=reference, resolution=64)
    assert isinstance(out, np.ndarray) and out.shape == array.shape and out.dtype == array.dtype
    assert isinstance(sure, np.ndarray) and sure.shape == array.shape[:2]
    want = mini_exemplar.colorize(photo(), reference=photo(seed=1), resolution=64)
    torch.testing.assert_close(torch.from_numpy(out), want[0])


def test_half_precision_in_half_precision_out(mini_exemplar):
    out = mini_exemplar.colorize(photo().half(), reference=photo(seed=1).half(), resolution=64)
    assert out.dtype == torch.float16
    want = mini_exemplar.colorize(photo(), reference=photo(seed=1), resolution=64)
    torch.testing.assert_close(out.float(), want, atol=0.05, rtol=0)


def test_half_precision_of_the_network(mini_exemplar, mini_exemplar_file):
    half = colorist.load(mini_exemplar_file, device="cpu", dtype="bfloat16")
    options = {"reference": photo(1, 40, 30, 4, seed=1), "resolution": 64}
    out, sure = half.colorize_with_confidence(photo(), **options)
    want, wanted = mini_exemplar.colorize_with_confidence(photo(), **options)
    assert out.dtype == sure.dtype == torch.float32
    assert (out - want).abs().mean() < 0.05
    assert (sure - wanted).abs().mean() < 0.05


def test_batch_equals_images_one_by_one(mini_exemplar, monkeypatch):
    rgb, options = photo(5), {"reference": photo(seed=1), "resolution": 64}
    apart = [mini_exemplar.colorize_with_confidence(image[None], **options) for image in rgb]
    monkeypatch.setattr(mini_exemplar.device_manager, "max_batch_size", lambda memory: 2)
    done = []
    together = mini_exemplar.colorize_with_confidence(rgb, **options, progress=done.append)
    for first, all_of_them in zip(zip(*apart, strict=True), together, strict=True):
        torch.testing.assert_close(all_of_them, torch.cat(first), **ROUNDING)
    assert done == [2, 4, 5]


def test_out_of_memory_halves_the_chunk(mini_exemplar, monkeypatch):
    rgb, options = photo(4), {"reference": photo(seed=1), "resolution": 64}
    want = mini_exemplar.colorize_with_confidence(rgb, **options)
    sizes, network = [], mini_exemplar.device_manager.acquire(0)
    answer = network.predict

    def fits_two(target, evidence):
        sizes.append(len(target))
        if len(target) > 2:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")
        return answer(target, evidence)

    monkeypatch.setattr(network, "predict", fits_two)
    monkeypatch.setattr(mini_exemplar.device_manager, "max_batch_size", lambda memory: 4)
    out = mini_exemplar.colorize_with_confidence(rgb, **options)
    torch.testing.assert_close(out, want, **ROUNDING)
    assert sizes == [4, 2, 2]


# ---- several references ----


def test_references_of_different_sizes(mini_exemplar, encoded):
    references = [photo(seed=1), photo(2, 33, 31, 4, seed=2), photo(1, 97, 21, seed=3)[0].numpy()]
    out = mini_exemplar.colorize(photo(), reference=references, resolution=64)
    assert len(encoded) == 1 and len(encoded[0][0]) == 4
    assert out.shape == photo().shape


def test_a_batch_of_references_is_as_good_as_a_list(mini_exemplar):
    batch = photo(3, seed=1)
    first, other = (
        mini_exemplar.colorize(photo(), reference=reference, resolution=64)
        for reference in (batch, list(batch))
    )
    assert torch.equal(first, other)


def test_the_same_reference_twice_changes_nothing(mini_exemplar, mini_standard):
    """Almost nothing: the color prior counts its evidence twice."""
    for engine in (mini_exemplar, mini_standard):
        once, twice = (
            engine.colorize_with_confidence(photo(), reference=reference, resolution=64)
            for reference in (photo(seed=1), [photo(seed=1), photo(seed=1)])
        )
        torch.testing.assert_close(twice, once, atol=0.02, rtol=0)


def test_several_references_are_joined_by_attention_and_not_averaged(mini_exemplar):
    a, b = photo(seed=1), photo(1, 33, 31, seed=2)
    joined, backwards, of_a, of_b = (
        mini_exemplar.colorize(photo(), reference=reference, resolution=64)
        for reference in ([a, b], [b, a], a, b)
    )
    torch.testing.assert_close(joined, backwards, **ROUNDING)
    for other in (of_a, of_b, (of_a + of_b) / 2):
        assert (joined - other).abs().mean() > DIFFERENT


def test_references_are_encoded_once_per_working_size(mini_exemplar, encoded, monkeypatch):
    monkeypatch.setattr(mini_exemplar.device_manager, "max_batch_size", lambda memory: 1)
    references = mini_exemplar.prepare_references([photo(seed=1), photo(1, 33, 31, seed=2)])
    assert len(references) == 2 and not encoded
    mini_exemplar.colorize(photo(3), reference=references, resolution=64)
    mini_exemplar.colorize(photo(2, seed=5), reference=references, resolution=64)
    assert len(encoded) == 1
    mini_exemplar.colorize(photo(), reference=references, resolution=96)
    assert len(encoded) == 2
    mini_exemplar.colorize(photo(), reference=references, resolution=64)
    assert len(encoded) == 2
    assert mini_exemplar.prepare_references(references) is references


def test_encoded_references_are_kept_for_a_few_sizes(mini_exemplar, encoded):
    references = mini_exemplar.prepare_references(photo(seed=1))
    resolutions = [64 + 16 * i for i in range(MAX_CACHED_SIZES + 1)]
    for resolution in resolutions:
        mini_exemplar.colorize(photo(), reference=references, resolution=resolution)
    mini_exemplar.colorize(photo(), reference=references, resolution=resolutions[1])
    assert len(encoded) == MAX_CACHED_SIZES + 1
    mini_exemplar.colorize(photo(), reference=references, resolution=resolutions[0])
    assert len(encoded) == MAX_CACHED_SIZES + 2


def test_encoded_references_do_not_depend_on_the_finish(mini_exemplar, encoded):
    references = mini_exemplar.prepare_references(photo(seed=1))
    for finish in (None, colorist.Finish(saturation=2), colorist.Finish(strength=0.5)):
        mini_exemplar.colorize(photo(), reference=references, finish=finish, resolution=64)
    assert len(encoded) == 1
    mini_exemplar.colorize(photo(), reference=references, finish="published", resolution=64)
    assert len(encoded) == 2


def test_the_cache_can_be_cleared_and_does_not_outlive_the_references(mini_exemplar, monkeypatch):
    class Encoded:
        pass

    cache, created = EncodedReferenceCache(), []

    def encode():
        created.append(weakref.ref(value := Encoded()))
        return value

    references = mini_exemplar.prepare_references(photo(seed=1))
    assert cache.get(references, (ExactRenderer, 64, 64), encode) is created[0]()
    assert cache.get(references, (ExactRenderer, 64, 64), encode) is created[0]()
    cache.clear()
    assert created[0]() is None
    cache.get(references, (ExactRenderer, 64, 64), encode)
    assert created[1]() is not None
    del references
    gc.collect()
    assert created[1]() is None


def test_threads_share_one_encoding(mini_exemplar):
    cache, started = EncodedReferenceCache(), []
    references = mini_exemplar.prepare_references(photo(seed=1))

    def encode():
        started.append(1)
        time.sleep(0.05)
        return object()

    def get(_):
        return cache.get(references, (ExactRenderer, 64, 64), encode)

    with ThreadPoolExecutor(4) as pool:
        results = list(pool.map(get, range(4)))
    assert len(started) == 1 and len(set(map(id, results))) == 1


def test_references_read_beforehand_give_the_same(mini_exemplar):
    references = mini_exemplar.prepare_references(photo(seed=1))
    want = mini_exemplar.colorize(photo(), reference=photo(seed=1), resolution=64)
    for _ in range(2):
        out = mini_exemplar.colorize(photo(), reference=references, resolution=64)
        assert torch.equal(out, want)


@pytest.mark.parametrize("aligned", [True, False])
def test_references_keep_their_aspect_ratio_where_the_network_allows(
    mini_exemplar, encoded, monkeypatch, aligned
):
    spec = dataclasses.replace(mini_exemplar.spec, aligned=aligned)
    monkeypatch.setattr(mini_exemplar, "spec", spec)
    mini_exemplar.colorize(photo(), reference=photo(1, 128, 32, seed=1), resolution=64)
    [([size], target)] = encoded
    assert size == (target if aligned else (128, 32))


# ---- trust and confidence ----


@pytest.mark.parametrize("seen", [0.0, 0.3])
def test_transparent_parts_provide_no_color(mini_exemplar, mini_standard, seen):
    alpha = torch.ones(1, 50, 70, 1)
    alpha[:, 10:, :40] = 0
    alpha[:, :10, :40] = seen
    for engine in (mini_exemplar, mini_standard):
        outs = []
        for hidden in (plain(1.0, 0.0, 0.0), photo(seed=7)):
            rgb = photo(seed=1)
            rgb[:, 10:, :40] = hidden[:, :40, :1].expand(-1, 40, 40, -1)
            reference = torch.cat([rgb, alpha], dim=-1)
            outs.append(
                engine.colorize_with_confidence(photo(), reference=reference, resolution=64)
            )
        assert torch.equal(outs[0][0], outs[1][0])
        assert torch.equal(outs[0][1], outs[1][1])


def test_opaque_alpha_changes_nothing(mini_exemplar):
    reference = photo(seed=1)
    opaque = torch.cat([reference, torch.ones(1, 50, 70, 1)], dim=-1)
    first, other = (
        mini_exemplar.colorize(photo(), reference=r, resolution=64) for r in (reference, opaque)
    )
    assert torch.equal(first, other)


def test_confidence_is_a_share(mini_exemplar, mini_standard):
    for engine in (mini_exemplar, mini_standard):
        for reference in (photo(seed=1), plain(0.8, 0.3, 0.2), photo(2, 33, 31, 4, seed=2)):
            _, sure = engine.colorize_with_confidence(photo(), reference=reference, resolution=64)
            assert sure.dtype == torch.float32
            assert sure.min() >= 0 and sure.max() <= 1


def test_a_transparent_reference_has_no_confidence(mini_exemplar, mini_standard):
    nothing = torch.cat([photo(seed=1), torch.zeros(1, 50, 70, 1)], dim=-1)
    for engine in (mini_exemplar, mini_standard):
        out, sure = engine.colorize_with_confidence(photo(), reference=nothing, resolution=64)
        assert out.isfinite().all()
        assert sure.max() < 0.01


def test_reference_weight_is_a_smooth_step_that_the_threshold_moves():
    confidence = torch.linspace(0, 1, 1001)
    weights = [reference_weight(confidence, threshold) for threshold in (0.0, 0.3, 0.5, 0.7, 1.0)]
    for weight in weights:
        steps = weight.diff()
        assert weight.min() >= 0 and weight.max() <= 1
        assert (steps >= 0).all()
        assert steps.max() < 0.005  # nowhere a jump
    for more, less in zip(weights, weights[1:], strict=False):
        assert (less <= more).all()
    assert weights[0].min() > 1 - 1e-6  # never the fallback
    assert weights[-1].max() < 1e-6  # nothing else
    torch.testing.assert_close(weights[2][500], torch.tensor(0.5))
    assert reference_weight(torch.tensor([0.2, 0.8]), 0.5).tolist() == [0, 1]


# ---- fallback ----


def test_the_fallback_takes_over_where_confidence_is_low(mini_exemplar, mini, fixed_confidence):
    options = {"reference": photo(seed=1), "resolution": mini.spec.resolution}
    of_reference = mini_exemplar.colorize(photo(), **options)
    fixed_confidence(0.2)
    out = mini_exemplar.colorize(photo(), **options, fallback=mini)
    torch.testing.assert_close(out, mini.colorize(photo()), **ROUNDING)
    assert (out - of_reference).abs().mean() > DIFFERENT


def test_the_fallback_stays_away_where_confidence_is_high(mini_exemplar, mini, fixed_confidence):
    options = {"reference": photo(seed=1), "resolution": 64}
    of_reference = mini_exemplar.colorize(photo(), **options)
    fixed_confidence(0.8)
    out = mini_exemplar.colorize(photo(), **options, fallback=mini)
    torch.testing.assert_close(out, of_reference)


@pytest.mark.parametrize("confidence", [0.0, 0.5, 1.0])
def test_the_threshold_goes_from_never_to_everywhere(
    mini_exemplar, mini, fixed_confidence, confidence
):
    options = {"reference": photo(seed=1), "resolution": 64}
    of_reference = mini_exemplar.colorize(photo(), **options)
    fixed_confidence(confidence)
    never, half, everywhere = (
        mini_exemplar.colorize(photo(), **options, fallback=mini, threshold=threshold)
        for threshold in (0.0, 0.5, 1.0)
    )
    torch.testing.assert_close(never, of_reference)
    assert (everywhere - of_reference).abs().mean() > DIFFERENT
    if confidence == 0.5:
        assert (half - never).abs().mean() > DIFFERENT
        assert (half - everywhere).abs().mean() > DIFFERENT
    else:
        torch.testing.assert_close(half, never if confidence else everywhere)


def test_the_fallback_does_not_change_the_confidence(mini_exemplar, mini):
    options = {"reference": photo(seed=1), "resolution": 64}
    _, sure = mini_exemplar.colorize_with_confidence(photo(), **options, fallback=mini)
    assert torch.equal(sure, mini_exemplar.colorize_with_confidence(photo(), **options)[1])


# ---- published finish ----


@pytest.mark.parametrize("size", [(300, 400), (250, 250), (100, 120)])
def test_published_finish_is_224_from_the_middle(mini_exemplar, size):
    rgb = photo(1, *size, 4)
    options = {"reference": photo(1, 260, 230, seed=1), "finish": "published"}
    out, sure = mini_exemplar.colorize_with_confidence(rgb, **options)
    assert out.shape == (1, 224, 224, 3)
    assert sure.shape == (1, 224, 224)
    if size == (300, 400):
        middle = rgb[:, 38:262, 88:312, :3]
        torch.testing.assert_close(mini_exemplar.colorize(middle, **options), out)


def test_the_official_program_supports_no_mask_and_no_fallback(mini_exemplar, mini):
    options = {"reference": photo(seed=1), "finish": "published"}
    with pytest.raises(ValueError, match="supports no mask"):
        mini_exemplar.colorize(photo(), **options, mask=torch.ones(50, 70))
    with pytest.raises(ValueError, match="supports no fallback"):
        mini_exemplar.colorize(photo(), **options, fallback=mini)


# ---- refusals ----


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"reference": []}, "the list of references is empty; give at least one color image"),
        ({"reference": photo(channels=1)}, "is gray; expected a color image"),
        (
            {"reference": torch.zeros(1, 9, 9, 3, dtype=torch.uint8)},
            r"the reference has dtype torch.uint8; .* \(divide by 255\)",
        ),
        (
            {"reference": [photo(seed=1), torch.zeros(3, 9, 9)]},
            r"the reference has shape \(3, 9, 9\); expected",
        ),
        ({"threshold": 1.5}, "threshold is 1.5; expected 0 to 1"),
        ({"threshold": float("nan")}, "threshold is nan; expected 0 to 1"),
        ({"finish": "fast"}, "finish is 'fast'; expected a Finish or 'published'"),
        ({"resolution": 8}, "resolution is 8; this network needs at least 16"),
        ({"mask": torch.ones(9, 9)}, r"the mask has shape \(1, 9, 9\); expected \(1 or 1, 50, 70"),
    ],
)
def test_refusals(mini_exemplar, options, words):
    with pytest.raises(ValueError, match=words):
        mini_exemplar.colorize(photo(), **{"reference": photo(seed=1), **options})


def test_a_fallback_of_another_role_is_refused(mini_exemplar):
    words = "fallback is mini-exemplar.safetensors, a network of the role 'exemplar'; expected an"
    with pytest.raises(ValueError, match=words):
        mini_exemplar.colorize(photo(), reference=photo(seed=1), fallback=mini_exemplar)


def test_only_automatic_networks_have_variations(mini_exemplar):
    assert not hasattr(mini_exemplar, "vary")


def test_the_official_program_supports_no_transparency(mini_exemplar):
    reference = torch.cat([photo(seed=1), torch.zeros(1, 50, 70, 1)], dim=-1)
    with pytest.raises(ValueError, match="transparent parts"):
        mini_exemplar.colorize(photo(), reference=reference, finish="published", resolution=64)


@pytest.mark.parametrize("reference", ["photo.png", None, [None]])
def test_references_that_are_not_images(mini_exemplar, reference):
    with pytest.raises(ValueError, match="expected a tensor or an array"):
        mini_exemplar.colorize(photo(), reference=reference)


def test_references_count_in_the_memory_that_is_asked_for(mini_exemplar):
    asked = []
    acquire = mini_exemplar.device_manager.acquire
    mini_exemplar.device_manager.acquire = lambda memory: asked.append(memory) or acquire(memory)
    try:
        for count in (1, 8):
            mini_exemplar.colorize(photo(), reference=photo(count, seed=1), resolution=64)
    finally:
        del mini_exemplar.device_manager.acquire
    assert asked[1] > asked[0]
