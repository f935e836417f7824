"""Algorithm 1 recovers planted clusters, in chunks, and handles unsuitable photos."""

import copy
import dataclasses
import sys
import tempfile
import threading
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from comfyui_colorist.media import image_io
from comfyui_colorist.model_defs import colorformer
from comfyui_colorist.model_defs.spec import MemorySizes, Spec
from comfyui_colorist.ops import color
from comfyui_colorist.pipeline.automatic import Colorizer
from comfyui_colorist.pipeline.color_memory import builder, clustering, projection
from comfyui_colorist.pipeline.device_manager import DeviceManager
from torch import nn

SIDE = 78  # 64 x 96 pixels stay what they are: 2 x 3 patches
# Lightness of a patch, which is all the network sees -> the colors such patches have.
PALETTES = {
    25: [(30, 20), (-10, 25), (5, -30)],
    45: [(40, 5), (-30, 10), (-5, -30)],
    65: [(10, -25), (20, 40), (-40, 20)],
    85: [(8, 12)],
}


class Planted(nn.Module):
    """Network whose features are lightness alone: each patch reveals its planted cluster."""

    def __init__(self):
        super().__init__()
        self.seen = []
        self.memory = nn.Module()
        self.memory.register_buffer("keys", torch.ones(5, 2))
        self.memory.register_buffer("components", torch.tensor([[2.0, 0, 0], [0, 0, 1]]))
        self.memory.register_buffer("offset", torch.tensor([0.0, 3]))

    def semantics(self, gray: torch.Tensor) -> torch.Tensor:
        self.seen.append(tuple(gray.shape))
        assert torch.equal(gray[:, 0], gray[:, 1]), "the network must see the gray image"
        level = F.avg_pool2d(gray[:, :1], 32)
        return torch.cat([level, torch.zeros_like(level), level**2], dim=1).movedim(1, -1) * 10


def colorizer(network: nn.Module, groups: int = 3, device_manager: DeviceManager | None = None):
    spec = Spec(
        architecture="planted",
        role="automatic",
        model_input="gray_rgb",
        multiple=32,
        resolution=64,
        activation_bytes_per_pixel=4,
        memory=MemorySizes(key_width=2, groups=groups),
    )
    device_manager = device_manager or DeviceManager(network)
    options = {
        "info": {},
        "dtype": torch.float32,
        "device_manager": device_manager,
        "encoder_id": "fed",
    }
    return Colorizer(spec, name="planted.safetensors", **options)


def planted_photo(rng: np.random.Generator, height: int = 2, width: int = 3) -> torch.Tensor:
    """Return (32 height, 32 width, 3) with patches of uniform color."""
    levels = rng.choice(list(PALETTES), (height, width))
    lab = np.array([[(L, *PALETTES[L][rng.integers(len(PALETTES[L]))]) for L in r] for r in levels])
    small = color.lab_to_rgb(torch.from_numpy(lab).movedim(-1, 0).float())
    assert small.min() >= 0 and small.max() <= 1
    return small.repeat_interleave(32, 1).repeat_interleave(32, 2).movedim(0, -1)


@pytest.fixture
def photos():
    rng = np.random.default_rng(0)
    return [planted_photo(rng) for _ in range(40)]


def by_key(memory) -> tuple[torch.Tensor, torch.Tensor]:
    order = memory.keys[:, 0].argsort()
    return memory.keys[order], memory.values[:, order]


def assert_planted(memory) -> None:
    keys, values = by_key(memory)
    gray = color.gray_rgb(torch.tensor(list(PALETTES))[:, None, None, None].float())[:, 0].flatten()
    torch.testing.assert_close(keys[:, 0], 20 * gray, atol=0.05, rtol=0)
    torch.testing.assert_close(keys[:, 1], 10 * gray**2 + 3, atol=0.05, rtol=0)
    for i, palette in enumerate(PALETTES.values()):
        ordered = sorted(palette, key=lambda ab: np.degrees(np.arctan2(ab[1], ab[0])) % 360)
        expected = torch.tensor([ordered[j % len(ordered)] for j in range(3)])
        torch.testing.assert_close(values[:, i], expected.float(), atol=0.51, rtol=0)


# --- Results -----------------------------------------------------------------------------------


def test_recovers_planted_clusters(photos):
    memory = builder.build_memory(colorizer(Planted()), photos, entries=4, side=SIDE)
    assert_planted(memory)
    assert memory.keys.dtype == memory.values.dtype == torch.float32
    assert not memory.keys.is_inference()
    assert memory.encoder == "fed"
    assert torch.equal(memory.projection.components, Planted().memory.components)
    assert memory.provenance == {
        "network": "planted.safetensors",
        "photos": 40,
        "grey": 0,
        "unreadable": 0,
        "skipped": [],
        "patches": 240,
        "entries": 4,
        "entries_asked": 4,
        "seed": 0,
        "side": SIDE,
        "projection": "the network's own",
    }


def test_recovers_planted_clusters_in_small_chunks(photos, monkeypatch):
    """The k-means sample, the chunks and the pending images are each smaller than the input."""
    monkeypatch.setattr(clustering, "MAX_KMEANS_ROWS", 70)
    monkeypatch.setattr(clustering, "CHUNK_ROWS", 7)
    monkeypatch.setattr(builder, "MAX_PENDING", 3)
    taken = []
    original = clustering.FeatureSpool.keys_of
    monkeypatch.setattr(
        clustering.FeatureSpool,
        "keys_of",
        lambda self, rows: taken.append(len(rows)) or original(self, rows),
    )
    assert_planted(builder.build_memory(colorizer(Planted()), photos, entries=4, side=SIDE))
    assert taken == [70]


def test_batches_of_equal_shape(photos, monkeypatch):
    rng, network = np.random.default_rng(1), Planted()
    mixed = [photo for wide in photos for photo in (wide, planted_photo(rng, 3, 2))]
    engine = colorizer(network)
    monkeypatch.setattr(engine.device_manager, "max_batch_size", lambda memory: 4)
    done = []
    memory = builder.build_memory(
        engine, mixed, entries=4, side=SIDE, progress=lambda *now: done.append(now)
    )
    assert_planted(memory)
    assert set(network.seen) == {(4, 3, 64, 96), (4, 3, 96, 64)}
    assert done == sorted(done) and done[-1] == (80, 80)


def test_the_same_seed_gives_the_same_memory(mini_colorformer, smooth_photos):
    first, again, other = (
        builder.build_memory(mini_colorformer, smooth_photos, entries=8, side=96, seed=seed)
        for seed in (1, 1, 2)
    )
    assert torch.equal(first.keys, again.keys) and torch.equal(first.values, again.values)
    assert not torch.equal(first.keys, other.keys)
    mini_colorformer.with_memory(first)


def test_result_does_not_depend_on_batch_size(mini_colorformer, smooth_photos, monkeypatch):
    """Photos of three alternating shapes, with batches of 1, 3 or 16."""
    shapes = (slice(64), slice(96)), (slice(64), slice(64)), (slice(32), slice(96))
    photos = [photo[shapes[i % 3]] for i, photo in enumerate(smooth_photos)]
    memories = []
    for fit in (1, 3, 16):
        monkeypatch.setattr(
            mini_colorformer.device_manager, "max_batch_size", lambda _, fit=fit: fit
        )
        memories.append(builder.build_memory(mini_colorformer, photos, entries=8, side=64))
    for other in memories[1:]:
        torch.testing.assert_close(other.keys, memories[0].keys, atol=1e-3, rtol=1e-3)
        torch.testing.assert_close(other.values, memories[0].values, atol=0.05, rtol=1e-3)


def test_every_step_uses_the_seed(photos, monkeypatch):
    seeds, real = [], clustering.kmeans_class()

    def noted(*sizes, random_state, **options):
        seeds.append(random_state)
        return real(*sizes, random_state=random_state, **options)

    monkeypatch.setattr(clustering, "kmeans_class", lambda: noted)
    builder.build_memory(colorizer(Planted(), groups=2), photos, entries=4, side=SIDE, seed=7)
    assert len(seeds) >= 4 and set(seeds) == {7}


def test_entry_with_few_colors_repeats_them():
    """The official program pads with gray instead."""
    bins = np.array([[0, 30, 0, 5], [1, -5, 5, 1], [1, 5, 5, 9]])
    values = clustering.cluster_colors(bins, 2, 4, 0, lambda: None)
    assert values[:, 0].tolist() == [[30, 0]] * 4
    assert values[:, 1].tolist() == [[5, 5]] * 2 + [[-5, 5]] * 2


def test_colors_are_weighted_by_their_patches():
    bins = np.array([[0, 10, 0, 3], [0, 14, 0, 1], [0, -20, 0, 1]])
    values = clustering.cluster_colors(bins, 1, 2, 0, lambda: None)
    assert values[:, 0].tolist() == [[11, 0], [-20, 0]]


def test_color_clustering_can_be_interrupted():
    bins, asked = np.array([[i, 30, 0, 5] for i in range(5)]), []

    def stop():
        asked.append(1)
        if len(asked) == 3:
            raise Stop

    with pytest.raises(Stop):
        clustering.cluster_colors(bins, 5, 4, 0, stop)
    assert len(asked) == 3


def test_hue_is_counterclockwise_from_plus_a():
    ab = np.array([[1, 0], [0, 1], [-1, 0], [0, -1], [1, -1]])
    assert clustering.hue_degrees(ab).tolist() == [0, 90, 180, 270, 315]


@pytest.mark.parametrize(
    ("photo", "working"),
    [
        ((256, 256), (256, 256)),
        ((2000, 3000), (224, 320)),  # 7 x 10 patches
        ((160, 240), (224, 320)),
        ((1, 1), (256, 256)),
        ((10, 10_000), (32, 1024)),  # not longer than 4 sides
    ],
)
def test_patch_aligned_size_keeps_proportions(photo, working):
    assert builder.patch_aligned_size(*photo, 256, 32) == working


# --- Projections -------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def smooth_photos():
    generator = torch.Generator().manual_seed(0)
    small = torch.rand(60, 3, 4, 6, generator=generator)
    return list(F.interpolate(small, (64, 96), mode="bicubic").clamp(0, 1).movedim(1, -1))


@pytest.fixture(scope="module")
def without_projection(mini_colorformer_network, mini_colorformer_config):
    """Return the miniature as if it came from an official file."""
    config = dataclasses.replace(mini_colorformer_config, projection=False)
    network = colorformer.ColorFormer(config).eval()
    state = mini_colorformer_network.state_dict()
    network.load_state_dict({key: state[key] for key in network.state_dict()})
    options = {"info": {}, "dtype": torch.float32, "device_manager": DeviceManager(network)}
    return Colorizer(colorformer.spec(config), name="published.pth", encoder_id="x", **options)


def test_fresh_projection_is_the_pca_of_the_features(mini_colorformer, smooth_photos):
    from sklearn.decomposition import PCA

    memory = builder.build_memory(mini_colorformer, smooth_photos, entries=8, side=78, fresh=True)
    features = features_of(mini_colorformer, smooth_photos)
    pca = PCA(8).fit(features.double())
    explained = memory.provenance["explained_variance"]
    assert explained == pytest.approx(pca.explained_variance_ratio_.sum(), abs=1e-3)
    assert memory.provenance["projection"] == "PCA of these photos"
    result, expected = memory.projection(features), torch.from_numpy(pca.transform(features))
    expected *= projection.KEY_NORM / pca.explained_variance_.sum() ** 0.5
    torch.testing.assert_close(result.abs(), expected.abs().float(), atol=1e-3, rtol=1e-2)
    assert result.mean(0).abs().max() < 1e-3
    assert result.square().sum(1).mean().sqrt() == pytest.approx(projection.KEY_NORM, rel=0.01)


def test_fresh_projection_needs_enough_channels(photos):
    engine = colorizer(Planted())
    engine.spec = dataclasses.replace(engine.spec, memory=MemorySizes(key_width=7, groups=3))
    with pytest.raises(ValueError, match="keys of width 7, but its features have 3 channels"):
        builder.build_memory(engine, photos, fresh=True, side=SIDE)


@pytest.mark.parametrize("fresh", [True, False])
def test_projection_is_fitted_to_a_sample(without_projection, smooth_photos, monkeypatch, fresh):
    """Photos of the sample count twice in the progress."""
    monkeypatch.setattr(projection, "MAX_PHOTOS", 10)
    asked, done = [], []

    class Asked(list):
        def __getitem__(self, index):
            asked.append(index)
            return super().__getitem__(index)

    options = {"entries": 8, "side": 78, "fresh": fresh, "seed": 3}
    builder.build_memory(
        without_projection, Asked(smooth_photos), progress=lambda *now: done.append(now), **options
    )
    assert len(asked) == 70
    assert set(asked[:10]) == set(clustering.sample_indices(60, 10, 3).tolist())
    assert done == sorted(done) and done[-1] == (70, 70)
    assert {total for _, total in done} == {70} and (10, 70) in done


def features_of(engine, photos) -> torch.Tensor:
    """Return features (rows, c) of photos that have working size already."""
    rgb = torch.stack(photos).movedim(-1, 1)
    with torch.no_grad():
        result = engine.device_manager.acquire(0).semantics(color.gray_rgb(color.lightness(rgb)))
    return result.flatten(0, 2).clone()


def test_fitted_projection_ranks_patches_as_the_network_does(without_projection, smooth_photos):
    """Compare keys of patches with keys attended to, on photos that were not used for fitting."""
    seen, unseen = smooth_photos[:45], smooth_photos[45:]
    memory = builder.build_memory(without_projection, seen, entries=16, side=78)
    assert memory.provenance["projection"] == "fitted to the network's attention"
    assert memory.provenance["explained_variance"] > 0.5
    network = without_projection.device_manager.acquire(0)
    gray = color.gray_rgb(color.lightness(torch.stack(unseen).movedim(-1, 1)))
    with torch.no_grad():
        module, x = network.memory, network.encode(gray).features.permute(0, 2, 3, 1)
        attended = module.attend(x, module.keys.expand(len(gray), -1, -1))
        queries = module.project_query(module.query_norm(x))
        attended, queries = (
            F.avg_pool2d(maps.movedim(-1, 1), 8).movedim(1, -1).flatten(0, 2)
            for maps in (attended, queries)
        )
        keys = memory.projection(features_of(without_projection, unseen))
        result, true = (queries @ module.project_key(k).mT for k in (keys, attended))
        chance = queries @ module.project_key(keys.roll(7, 0)).mT
    assert rank_correlation(result, true) > 0.6
    assert abs(rank_correlation(chance, true)) < 0.3


def rank_correlation(a: torch.Tensor, b: torch.Tensor) -> float:
    """Return Spearman's rank correlation, averaged over rows."""
    ranks = [x.argsort(1).argsort(1).float() for x in (a, b)]
    a, b = (r - r.mean(1, keepdim=True) for r in ranks)
    return float(((a * b).sum(1) / (a.norm(dim=1) * b.norm(dim=1))).mean())


def test_fitted_keys_are_spread_like_those_the_network_uses(without_projection, smooth_photos):
    memory = builder.build_memory(without_projection, smooth_photos, entries=24, side=78)
    network = without_projection.device_manager.acquire(0)
    gray = color.gray_rgb(color.lightness(torch.stack(smooth_photos).movedim(-1, 1)))
    with torch.no_grad():
        x = network.encode(gray).features.permute(0, 2, 3, 1)
        everywhere = torch.eye(16).expand(len(gray), -1, -1)
        use = network.memory.attend(x, everywhere).mean((0, 1, 2))  # how often each key is used
    network_keys = network.memory.keys
    spread = (use[:, None] * (network_keys - use @ network_keys).square()).sum()
    labels = torch.cdist(
        memory.projection(features_of(without_projection, smooth_photos)), memory.keys
    ).argmin(1)
    keys = memory.keys[labels]  # of all patches
    result = (keys - keys.mean(0)).square().sum(1).mean()
    assert float(result) == pytest.approx(float(spread), rel=0.05)


def test_keys_that_differ_by_rounding_are_not_rescaled():
    keys, counts = np.array([[1.0, 2], [1, 2 + 1e-6]]), np.array([5, 5])
    original = projection.Projection(torch.ones(2, 3), torch.ones(2))
    result, same = projection.rescale_variance(4.0, keys, counts, original)
    assert result is keys and same is original
    result, wider = projection.rescale_variance(4.0, keys + [[0, 0], [0, 1]], counts, original)
    assert counts @ np.square(result - result.mean(0)).sum(1) / 10 == pytest.approx(4)
    assert (wider.components > 1).all()


def test_variance_of_keys_far_from_zero(without_projection):
    """Squares of large keys keep only two digits in bfloat16."""
    network = copy.deepcopy(without_projection.device_manager.acquire(0))
    network.memory.keys.add_(8)
    network = network.bfloat16()  # keys are rounded here, for both
    exact = copy.deepcopy(network).float()
    gray = torch.rand(4, 1, 64, 96, generator=torch.Generator().manual_seed(1)).expand(
        -1, 3, -1, -1
    )
    variances = []
    for model in (network, exact):
        with torch.inference_mode():
            maps = projection.extract_attended_keys(model, gray.to(next(model.parameters()).dtype))
        rows = tuple(x.float().flatten(0, 2).clone() for x in maps)
        variances.append(projection.fit_ridge([rows], 8)[2])
    keys = exact.memory.keys
    assert 0.1 < variances[1] < (keys - keys.mean(0)).square().sum(1).max()
    assert variances[0] == pytest.approx(variances[1], rel=0.02)


def test_single_patch_gives_one_key(without_projection):
    """All covariances are 0."""
    even = torch.tensor([0.2, 0.5, 0.7]).expand(32, 32, 3)
    memory = builder.build_memory(without_projection, [even], side=32)
    assert memory.keys.shape == (1, 8)
    network_keys = without_projection.device_manager.acquire(0).memory.keys
    assert memory.keys.norm() < network_keys.norm(dim=1).max()
    torch.testing.assert_close(
        memory.projection(torch.zeros(64)), memory.keys[0], atol=0.01, rtol=0
    )


def test_fewer_patches_than_channels_are_not_overfitted():
    """Channels are nearly equal; their differences are noise and must have no effect."""
    random = torch.Generator().manual_seed(0)
    level = torch.randn(40, 1, generator=random)
    features = level + 1e-4 * torch.randn(40, 20, generator=random)
    keys = torch.cat([level, -level], 1) + 0.3 * torch.randn(40, 2, generator=random)
    result, explained, _ = projection.fit_ridge([(features, keys, torch.zeros(40, 1))], 2)
    assert 0.7 < explained < 0.95
    assert result.components.abs().max() < 1


def test_empty_projection_is_replaced_by_a_fitted_one(photos, monkeypatch):
    """Networks trained with a random memory have an empty projection."""
    network = Planted()
    network.memory.components.zero_()
    called = []

    def fitted(rows, width):
        called.append(width)
        return *projection.fit_pca(rows, width), 1.0

    monkeypatch.setattr(projection, "extract_attended_keys", projection.extract_features)
    monkeypatch.setattr(projection, "fit_ridge", fitted)
    builder.build_memory(colorizer(network), photos, side=SIDE)
    assert called == [2]


def test_network_with_empty_memory_needs_fresh(photos):
    network = Planted()
    network.memory.keys.zero_()
    with pytest.raises(
        ValueError, match="its own color memory is empty.*trainers/build_color_memory.py --fresh"
    ):
        builder.build_memory(colorizer(network), Unread(photos), side=SIDE)
    builder.build_memory(colorizer(network), photos, side=SIDE, fresh=True)


class Unread(list):
    """List of photos that must not be read."""

    def __getitem__(self, index):
        raise AssertionError("photos were read before the arguments were checked")


# --- Unsuitable photos -------------------------------------------------------------------------


def test_unreadable_and_gray_photos_are_skipped(tmp_path, photos, caplog):
    paths = []
    for i, photo in enumerate(photos):
        paths.append(tmp_path / f"{i}.png")
        image_io.write_image(paths[-1], photo.numpy())
    (tmp_path / "bad.jpg").write_text("hello")
    image_io.write_image(tmp_path / "grey.png", np.full((9, 9, 1), 0.5, np.float32))
    image_io.write_image(tmp_path / "neutral.png", np.full((9, 9, 3), 0.5, np.float32))
    extra = [tmp_path / name for name in ("bad.jpg", "grey.png", "neutral.png", "missing.png")]
    engine, done = colorizer(Planted()), []
    memory = builder.build_memory(
        engine, paths + extra, entries=4, side=SIDE, progress=lambda *now: done.append(now)
    )
    assert_planted(memory)
    result = memory.provenance
    assert (result["photos"], result["grey"], result["unreadable"]) == (40, 2, 2)
    assert result["skipped"] == ["bad.jpg", "missing.png"]
    assert "skipped: bad.jpg: not an image." in caplog.text
    assert str(tmp_path) not in str(result)
    assert done[-1] == (44, 44)


def test_photos_by_plain_names(tmp_path, photos):
    names = [str(tmp_path / f"{i}.png") for i in range(len(photos))]
    for name, photo in zip(names, photos, strict=True):
        image_io.write_image(name, photo.numpy())
    assert_planted(builder.build_memory(colorizer(Planted()), names, entries=4, side=SIDE))


def test_nan_pixels_are_sanitized(photos, caplog):
    photos[3][40, 40] = float("nan")
    memory = builder.build_memory(colorizer(Planted()), photos, side=SIDE)
    assert memory.provenance["photos"] == 40
    assert "photo 4: the image contains NaN" in caplog.text


def test_names_of_unreadable_photos_are_capped(tmp_path, photos, monkeypatch):
    monkeypatch.setattr(builder, "MAX_SKIPPED_NAMES", 2)
    missing = [tmp_path / f"{i}.jpg" for i in range(5)]
    result = builder.build_memory(colorizer(Planted()), photos + missing, entries=4, side=SIDE)
    assert result.provenance["skipped"] == ["0.jpg", "1.jpg"]
    assert result.provenance["unreadable"] == 5


def test_no_usable_photos(tmp_path):
    engine = colorizer(Planted())
    for fresh in (False, True):
        with pytest.raises(
            ValueError, match="none of the 2 photos has colors to learn from: 1 gray"
        ):
            builder.build_memory(engine, [torch.zeros(9, 9, 3), tmp_path / "no.jpg"], fresh=fresh)
    with pytest.raises(ValueError, match="no photos to build a color memory from; add color"):
        builder.build_memory(engine, [])


def test_few_photos_give_few_entries(photos, caplog):
    memory = builder.build_memory(colorizer(Planted()), photos[:9], entries=512, side=SIDE)
    assert len(memory.keys) == 3
    assert memory.provenance["entries_asked"] == 512
    assert "9 photos have 54 patches, enough for 3 entries instead of 512." in caplog.text


def test_one_photo_is_enough_for_one_entry(photos):
    memory = builder.build_memory(colorizer(Planted()), photos[:1], side=SIDE)
    assert memory.keys.shape == (1, 2) and memory.values.shape == (3, 1, 2)


def test_empty_clusters_are_dropped():
    """All patches of a uniform photo are equal."""
    even = torch.tensor([0.2, 0.5, 0.7]).expand(128, 128, 3)
    memory = builder.build_memory(colorizer(Planted()), [even] * 4, entries=4, side=128)
    assert len(memory.keys) == memory.provenance["entries"] == 1
    assert memory.values[0].equal(memory.values[2])


# --- Errors, interruption, memory --------------------------------------------------------------


def test_invalid_settings(mini, photos):
    engine = colorizer(Planted())
    for options, sentence in (
        ({"entries": 0}, "entries is 0; expected at least 1."),
        ({"side": 31}, "side is 31; this network needs at least 32."),
        ({"seed": -1}, "seed is -1; expected 0 to 4294967295."),
        ({"seed": 2**32}, "seed is 4294967296; expected"),
    ):
        with pytest.raises(ValueError, match=sentence):
            builder.build_memory(engine, Unread(photos), **options)
    for path in ("town", Path("town")):
        with pytest.raises(ValueError, match="photos is one path, 'town'; expected a list of ph"):
            builder.build_memory(engine, path)
    with pytest.raises(
        ValueError, match="mini.safetensors has no color memory; choose a network with"
    ):
        builder.build_memory(mini, photos)
    with pytest.raises(ValueError, match=r"photo 1 has shape \(2, 64, 96, 3\); expected \(H, W, C"):
        builder.build_memory(engine, [torch.stack(photos[:2])], side=SIDE)


def test_without_scikit_learn(photos, monkeypatch):
    monkeypatch.setitem(sys.modules, "sklearn.cluster", None)
    with pytest.raises(RuntimeError, match="needs scikit-learn.*: pip install scikit-learn"):
        builder.build_memory(colorizer(Planted()), photos)


def test_no_space_for_the_temporary_file(photos, monkeypatch):
    monkeypatch.setattr(clustering.shutil, "disk_usage", lambda _: SimpleNamespace(free=1000))
    with pytest.raises(
        OSError, match="has only 0 MB of free space. Free some space, choose another folder"
    ):
        builder.build_memory(colorizer(Planted()), photos, side=SIDE)


def test_nan_features(photos):
    network = Planted()
    network.memory.offset.fill_(float("nan"))
    with pytest.raises(ValueError, match="NaN or too large for float16; choose float32"):
        builder.build_memory(colorizer(network), photos, side=SIDE)


class Stop(Exception):
    pass


def test_interruption_cleans_up(photos, tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path))
    engine, asked = colorizer(Planted()), []

    def stop():
        asked.append(1)
        if len(asked) == 12:
            raise Stop

    monkeypatch.setattr(engine.device_manager, "check_interrupt", stop)
    threads = threading.active_count()
    with pytest.raises(Stop):
        builder.build_memory(engine, photos, side=SIDE)
    assert list(tmp_path.iterdir()) == []
    assert threading.active_count() == threads


@pytest.mark.parametrize("after", ["assign_and_average", "cluster_colors"])
def test_interruption_of_the_clustering(photos, monkeypatch, after):
    """Stop during k-means and between entries; progress does not report the end before."""
    engine, done, ran = colorizer(Planted()), [], []
    stopped = False

    def stop():
        if stopped:
            raise Stop

    def last(*args):
        nonlocal stopped
        stopped = True
        return before(*args)

    def unreached(*args):
        ran.append(1)

    before = {
        "assign_and_average": clustering.fit_centers,
        "cluster_colors": clustering.assign_and_average,
    }[after]
    monkeypatch.setattr(clustering, before.__name__, last)
    if after == "assign_and_average":
        monkeypatch.setattr(clustering, after, unreached)
    monkeypatch.setattr(engine.device_manager, "check_interrupt", stop)
    if after == "cluster_colors":  # its own chunks do not ask once more
        original = before
        before = lambda spool, centers, _: original(spool, centers, lambda: None)  # noqa: E731
    with pytest.raises(Stop):
        builder.build_memory(
            engine, photos, entries=4, side=SIDE, progress=lambda *now: done.append(now)
        )
    assert not ran
    assert done[-1] == (39, 40)


def test_out_of_memory_halves_the_batch(photos):
    class Small(DeviceManager):
        released = 0

        def max_batch_size(self, memory_per_image):
            return 8

        def empty_cache(self):
            self.released += 1

    class Hungry(Planted):
        most = 2

        def semantics(self, gray):
            if len(gray) > self.most:
                raise torch.OutOfMemoryError("no more")
            return super().semantics(gray)

    network = Hungry()
    device_manager = Small(network)
    engine = colorizer(network, device_manager=device_manager)
    assert_planted(builder.build_memory(engine, photos, entries=4, side=SIDE))
    assert {shape[0] for shape in network.seen} == {2}
    assert device_manager.released
    network.most = 0
    with pytest.raises(MemoryError, match="out of memory on one image of 96x64. Lower the side"):
        builder.build_memory(engine, photos, entries=4, side=SIDE)


def test_spool_round_trip(monkeypatch):
    monkeypatch.setattr(clustering, "CHUNK_ROWS", 4)
    keys, ab = torch.arange(30).reshape(10, 3).float(), torch.rand(10, 2)
    with tempfile.TemporaryFile() as file:
        spool = clustering.FeatureSpool(file, 3, 10)
        spool.append(keys[:7], ab[:7], "x")
        spool.append(keys[7:], ab[7:], "x")
        chunks = list(spool.chunks())
        assert [len(chunk) for chunk in chunks] == [4, 4, 2]
        assert np.array_equal(np.concatenate([chunk["ab"] for chunk in chunks]), ab)
        rows = np.array([0, 3, 4, 9])
        assert np.array_equal(spool.keys_of(rows), keys[rows])
