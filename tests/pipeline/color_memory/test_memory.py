"""Color memories: validation, fit to networks, fusion weights and files."""

import numpy as np
import pytest
import torch
from comfyui_colorist.model_defs import checkpoint
from comfyui_colorist.model_defs.checkpoint import CheckpointError
from comfyui_colorist.model_defs.spec import MemorySizes
from comfyui_colorist.pipeline.color_memory.memory import (
    ColorMemory,
    Projection,
    check_memory_fits,
    export_npy,
    identify_encoder,
    import_npy,
    load_memory,
    sample_fusion_weights,
    save_memory,
)


def make_memory(entries=5, width=8, groups=4, encoder="e1", projection=True, seed=0, **provenance):
    random = torch.Generator().manual_seed(seed)
    return ColorMemory(
        keys=torch.randn(entries, width, generator=random),
        values=torch.randn(groups, entries, 2, generator=random) * 30,
        encoder=encoder,
        projection=Projection(torch.randn(width, 6, generator=random), torch.ones(width))
        if projection
        else None,
        provenance=provenance,
    )


# --- Validation --------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "values", "sentence"),
    [
        ((5, 8), (4, 6, 2), r"has keys \(5, 8\) and values \(4, 6, 2\); expected keys \(m, k\)"),
        ((5, 8), (4, 5, 3), "expected keys"),
        ((5,), (4, 5, 2), "expected keys"),
        ((0, 8), (4, 0, 2), "expected keys"),
    ],
)
def test_invalid_shapes(keys, values, sentence):
    with pytest.raises(ValueError, match=sentence):
        ColorMemory(keys=torch.zeros(keys), values=torch.zeros(values), encoder="e")


def test_nan_and_infinite_values():
    for keys, values in (
        (torch.full((1, 2), float("nan")), torch.zeros(3, 1, 2)),
        (torch.zeros(1, 2), torch.full((3, 1, 2), float("inf"))),
    ):
        with pytest.raises(ValueError, match="NaN or infinite values; build it again"):
            ColorMemory(keys=keys, values=values, encoder="e")


@pytest.mark.parametrize(
    ("key", "ab", "sentence"),
    [
        (1e30, 5, r"keys up to 1e\+30, which no network can use; expected at most 10000. Build it"),
        (-20_000, 5, "keys up to 20000, which"),
        (1, 1e30, r"ab values up to 1e\+30; expected -128 to 128\.$"),
        (1, -129, r"ab values up to 129; expected -128 to 128\.$"),
        (1, 200, r"ab values up to 200; .* \(they look like the 0 to 255 encoding: subtract 128\)"),
    ],
)
def test_values_out_of_range(key, ab, sentence):
    keys, values = torch.zeros(3, 2), torch.zeros(4, 3, 2)
    keys[1, 1], values[2, 1, 0] = key, ab
    with pytest.raises(ValueError, match=sentence):
        ColorMemory(keys=keys, values=values, encoder="e")


def test_largest_allowed_values():
    values = torch.tensor([-128.0, 128]).expand(4, 3, 2)
    ColorMemory(keys=torch.full((3, 2), -1e4), values=values, encoder="e")


def test_projection_of_another_width():
    with pytest.raises(ValueError, match="keys of width 8, but its projection makes keys of width"):
        ColorMemory(
            keys=torch.zeros(1, 8),
            values=torch.zeros(4, 1, 2),
            encoder="e",
            projection=Projection(torch.zeros(7, 6), torch.zeros(7)),
        )


def test_projection_is_linear():
    projection = Projection(torch.tensor([[1.0, 2, 0], [0, 0, -1]]), torch.tensor([10.0, 20]))
    assert projection(torch.tensor([[1.0, 1, 1]])).tolist() == [[13, 19]]


def test_description():
    assert make_memory(photos=12).describe() == "5 entries of 4 colors, keys of width 8, 12 photos"
    assert make_memory().describe() == "5 entries of 4 colors, keys of width 8"


# --- Fit to networks ---------------------------------------------------------------------------


def test_fits_only_its_own_network():
    sizes = MemorySizes(key_width=8, groups=4)
    check_memory_fits(make_memory(), sizes, "e1", "net")
    for memory, its_sizes, encoder, sentence in (
        (
            make_memory(),
            None,
            "",
            r"net has no color memory; choose a network with a color memory \(such as",
        ),
        (
            make_memory(width=9),
            sizes,
            "e1",
            "keys of width 9 and 4 groups; net needs width 8 and 4",
        ),
        (make_memory(groups=3), sizes, "e1", "width 8 and 3 groups; .* Build a memory with net."),
        (
            make_memory(network="old"),
            sizes,
            "e2",
            r"built with the encoder of old \(e1\), but net has",
        ),
        (make_memory(), sizes, "e2", "built with the encoder of another network"),
    ):
        with pytest.raises(ValueError, match=sentence):
            check_memory_fits(memory, its_sizes, encoder, "net")


def test_encoder_identifier_depends_on_weights_not_precision(mini_colorformer_network):
    import copy

    encoder = copy.deepcopy(mini_colorformer_network.encoder)
    name = identify_encoder(encoder)
    assert len(name) == 16
    assert identify_encoder(copy.deepcopy(encoder).half()) == name
    with torch.no_grad():
        encoder.stages[0][0].norm1.bias.add_(0.01)
    assert identify_encoder(encoder) != name


def test_memory_changes_only_colors(mini_colorformer, mini_colorformer_config):
    photo = torch.rand(1, 64, 64, 1, generator=torch.Generator().manual_seed(0))
    original = mini_colorformer.colorize(photo, resolution=64)
    other = mini_colorformer.with_memory(make_memory(encoder=mini_colorformer.encoder_id))
    assert not torch.allclose(other.colorize(photo, resolution=64), original, atol=1e-3)
    assert torch.equal(other.with_memory(None).colorize(photo, resolution=64), original)
    assert torch.equal(mini_colorformer.colorize(photo, resolution=64), original)
    network = mini_colorformer.device_manager.acquire(0).memory
    same = ColorMemory(
        keys=network.keys.clone(),
        values=network.values.clone(),
        encoder=mini_colorformer.encoder_id,
    )
    again = mini_colorformer.with_memory(same).colorize(photo, resolution=64)
    torch.testing.assert_close(again, original, atol=1e-5, rtol=0)


# --- Fusion weights ----------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [0, 0.5, 0.9, 1])
def test_each_group_leads_in_turn(spread):
    weights = sample_fusion_weights(4, 8, seed=3, spread=spread)
    assert weights.shape == (8, 4)
    torch.testing.assert_close(weights.sum(1), torch.ones(8))
    leaders = weights.argmax(1).tolist()
    assert sorted(leaders[:4]) == sorted(leaders[4:]) == [0, 1, 2, 3]
    if spread == 1:
        assert weights.max(1).values.tolist() == [1] * 8


def test_fusion_weights_depend_on_the_seed():
    first, again, other = (sample_fusion_weights(4, 4, seed, 0.5) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    longer = sample_fusion_weights(4, 8, 1, 0.5)
    assert torch.equal(longer[:4], first)


@pytest.mark.parametrize(
    ("count", "spread", "sentence"),
    [
        (0, 0.5, "count is 0; expected 1 to 64 results."),
        (65, 0.5, "count is 65"),
        (4, 1.5, "spread is 1.5; expected 0"),
        (4, float("nan"), "spread is nan"),
    ],
)
def test_invalid_fusion_weights(count, spread, sentence):
    with pytest.raises(ValueError, match=sentence):
        sample_fusion_weights(4, count, 0, spread)


def test_negative_seed():
    with pytest.raises(ValueError, match="seed is -1; expected 0 or more."):
        sample_fusion_weights(4, 4, -1, 0.5)


# --- Files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("projection", [True, False])
def test_round_trip(tmp_path, projection):
    before = make_memory(projection=projection, photos=3, skipped=["ä.jpg"])
    save_memory(before, tmp_path / "new" / "m.safetensors")
    after = load_memory(tmp_path / "new" / "m.safetensors")
    assert torch.equal(after.keys, before.keys) and torch.equal(after.values, before.values)
    assert (after.encoder, after.provenance) == (before.encoder, before.provenance)
    assert (after.projection is None) == (not projection)
    if projection:
        assert torch.equal(after.projection.components, before.projection.components)
        assert torch.equal(after.projection.offset, before.projection.offset)


def test_files_that_are_not_memories(tmp_path, mini_file):
    path = tmp_path / "m.safetensors"

    def refused(sentence):
        with pytest.raises(CheckpointError, match=sentence):
            load_memory(path)

    refused("no such file")
    path.write_bytes(mini_file.read_bytes())
    refused("m.safetensors: not a color memory. Build one")
    save_memory(make_memory(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    refused("m.safetensors: damaged or truncated")
    state, info = checkpoint.read(_written(path, whole))
    path.write_bytes(checkpoint.to_bytes(state, info | {"version": 2}))
    refused("a color memory of version 2; this program reads version 1. Update it, or build")
    path.write_bytes(checkpoint.to_bytes(state, {k: info[k] for k in ("kind", "version")}))
    refused(r"not a usable color memory \('encoder'\)")
    path.write_bytes(checkpoint.to_bytes({"keys": state["keys"]}, info))
    refused(r"not a usable color memory \('values'\)")
    path.write_bytes(checkpoint.to_bytes(state | {"keys": state["keys"][:2]}, info))
    refused("not a usable color memory .the color memory has keys")


@pytest.mark.parametrize(
    ("state", "info", "sentence"),
    [
        ({"keys": torch.zeros(5, 8, dtype=torch.int64)}, {}, r"keys is \(5, 8\) of int64"),
        ({"values": torch.zeros(4, 5, 2, dtype=torch.complex64)}, {}, "of complex64"),
        ({"keys": torch.zeros(0, 8)}, {}, r"keys \(0, 8\)"),
        ({"components": torch.zeros(())}, {}, r"components is \(\) of float32; expected 2"),
        ({"offset": torch.full((8,), float("nan"))}, {}, "projection contains NaN"),
        ({}, {"encoder": 3}, "its metadata has no encoder"),
        ({}, {"provenance": []}, "a provenance that is not an object"),
        ({}, {"provenance": {"photos": {"a": 1}}}, "'photos' in its metadata is a dict"),
        ({}, {"provenance": {"network": 10**4000}}, "'network' in its metadata is a whole"),
    ],
)
def test_malformed_memory_files(tmp_path, state, info, sentence):
    path = tmp_path / "m.safetensors"
    save_memory(make_memory(), path)
    tensors, metadata = checkpoint.read(path)
    path.write_bytes(checkpoint.to_bytes(tensors | state, metadata | info))
    with pytest.raises(CheckpointError, match=f"^m.safetensors: .*{sentence}.*Build it again"):
        load_memory(path)


def test_memory_is_not_a_network(tmp_path):
    import comfyui_colorist

    save_memory(make_memory(), tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="m.safetensors: a color memory, not a network"):
        comfyui_colorist.load(tmp_path / "m.safetensors")


def _written(path, data):
    path.write_bytes(data)
    return path


# --- Official files ----------------------------------------------------------------------------


def test_npy_round_trip(tmp_path):
    before = make_memory(projection=False)
    colors, semantics = tmp_path / "color_embed.npy", tmp_path / "semantic_embed.npy"
    export_npy(before, colors, semantics)
    assert np.load(colors).dtype == np.float64 and np.load(semantics).dtype == np.float32
    after = import_npy(colors, semantics, encoder="e1", network="net")
    assert torch.equal(after.keys, before.keys)
    assert torch.equal(after.values, before.values.round())
    assert after.provenance == {
        "network": "net",
        "imported": ["color_embed.npy", "semantic_embed.npy"],
    }


def test_invalid_npy_files(tmp_path):
    good, bad = tmp_path / "good.npy", tmp_path / "bad.npy"
    np.save(good, np.zeros((4, 5, 2)))

    def refused(sentence):
        with pytest.raises(CheckpointError, match=sentence):
            import_npy(good, bad, encoder="e", network="n")

    refused("bad.npy: not a .npy file of numbers")
    bad.write_bytes(b"hello")
    refused("bad.npy: not a .npy file of numbers")
    np.save(bad, np.zeros((5, 8), np.float32))
    bad.write_bytes(bad.read_bytes()[:-20])
    refused("bad.npy: not a .npy file of numbers")
    with bad.open("wb") as file:  # says that it holds four million gigabytes
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**9, 10**6)}
        np.lib.format.write_array_header_1_0(file, header)
    refused("bad.npy: not a .npy file of numbers")
    bad.write_bytes(b"PK\x03\x04 a broken archive")
    refused("bad.npy: not a .npy file of numbers")
    with bad.open("wb") as file:
        np.savez(file, np.zeros((5, 8)))
    refused("bad.npy: expected an array of numbers with 2 dimensions")
    np.save(bad, np.zeros((5, 8, 1)))
    refused("with 2 dimensions")
    np.save(bad, np.full((5, 8), "x"))
    refused("an array of numbers")
    np.save(bad, np.zeros((6, 8)))
    refused(r"good.npy, bad.npy: the color memory has keys \(6, 8\)")


def test_pickles_are_rejected_without_running(tmp_path):
    """Unpickling an array of objects runs code."""
    bad, ran = tmp_path / "bad.npy", tmp_path / "ran"

    class Trap:
        def __reduce__(self):
            return open, (str(ran), "w")

    np.save(bad, np.array([[Trap()]], dtype=object), allow_pickle=True)
    np.save(tmp_path / "good.npy", np.zeros((4, 1, 2)))
    with pytest.raises(CheckpointError, match="bad.npy: not a .npy file .*Python objects"):
        import_npy(tmp_path / "good.npy", bad, encoder="e", network="n")
    assert not ran.exists()
