"""Color memories: what fits whom, fusion weights, files that come back whole or say why not."""

import numpy as np
import pytest
import torch
from comfyui_colorist.model_defs import checkpoint
from comfyui_colorist.model_defs.checkpoint import CheckpointError
from comfyui_colorist.model_defs.spec import MemorySizes
from comfyui_colorist.pipeline.color_memory import memory as memories
from comfyui_colorist.pipeline.color_memory.memory import ColorMemory, Projection


def made(entries=5, width=8, groups=4, encoder="e1", projection=True, seed=0, **provenance):
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


# --- What a memory is --------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("keys", "values", "sentence"),
    [
        ((5, 8), (4, 6, 2), r"has keys \(5, 8\) and values \(4, 6, 2\); expected keys \(m, k\)"),
        ((5, 8), (4, 5, 3), "expected keys"),
        ((5,), (4, 5, 2), "expected keys"),
        ((0, 8), (4, 0, 2), "expected keys"),
    ],
)
def test_shapes_that_cannot_be(keys, values, sentence):
    with pytest.raises(ValueError, match=sentence):
        ColorMemory(keys=torch.zeros(keys), values=torch.zeros(values), encoder="e")


def test_numbers_that_are_none():
    for keys, values in (
        (torch.full((1, 2), float("nan")), torch.zeros(3, 1, 2)),
        (torch.zeros(1, 2), torch.full((3, 1, 2), float("inf"))),
    ):
        with pytest.raises(ValueError, match="NaN or infinite numbers; build it again"):
            ColorMemory(keys=keys, values=values, encoder="e")


@pytest.mark.parametrize(
    ("key", "ab", "sentence"),
    [
        (1e30, 5, r"keys up to 1e\+30, which no network can use; expected at most 10000. Build it"),
        (-20_000, 5, "keys up to 20000, which"),
        (1, 1e30, r"ab values up to 1e\+30; expected -128 to 128\.$"),
        (1, -129, r"ab values up to 129; expected -128 to 128\.$"),
        (1, 200, r"ab values up to 200; .* \(they look like the 0 to 255 coding: subtract 128\)"),
    ],
)
def test_numbers_that_no_network_can_use(key, ab, sentence):
    keys, values = torch.zeros(3, 2), torch.zeros(4, 3, 2)
    keys[1, 1], values[2, 1, 0] = key, ab
    with pytest.raises(ValueError, match=sentence):
        ColorMemory(keys=keys, values=values, encoder="e")


def test_the_largest_numbers():
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
    assert made(photos=12).describe() == "5 entries of 4 colours, keys of width 8, 12 photos"
    assert made().describe() == "5 entries of 4 colours, keys of width 8"


# --- Whom it fits ------------------------------------------------------------------------------


def test_fits_its_own_network_alone():
    sizes = MemorySizes(key_width=8, groups=4)
    memories.refuse_unless_fits(made(), sizes, "e1", "net")
    for memory, its_sizes, encoder, sentence in (
        (
            made(),
            None,
            "",
            r"net has no color memory; choose a network with a color memory \(such as",
        ),
        (made(width=9), sizes, "e1", "keys of width 9 and 4 groups; net needs width 8 and 4"),
        (made(groups=3), sizes, "e1", "width 8 and 3 groups; .* Build a memory with net."),
        (made(network="old"), sizes, "e2", r"built with the encoder of old \(e1\); net has anoth"),
        (made(), sizes, "e2", "built with the encoder of another network"),
    ):
        with pytest.raises(ValueError, match=sentence):
            memories.refuse_unless_fits(memory, its_sizes, encoder, "net")


def test_fingerprint_names_the_training_not_the_precision(mini_colorformer_network):
    import copy

    encoder = copy.deepcopy(mini_colorformer_network.encoder)
    name = memories.fingerprint(encoder)
    assert len(name) == 16
    assert memories.fingerprint(copy.deepcopy(encoder).half()) == name
    with torch.no_grad():
        encoder.stages[0][0].norm1.bias.add_(0.01)
    assert memories.fingerprint(encoder) != name


def test_a_memory_changes_the_colours_and_nothing_else(mini_colorformer, mini_colorformer_config):
    photo = torch.rand(1, 64, 64, 1, generator=torch.Generator().manual_seed(0))
    own = mini_colorformer.colorize(photo, resolution=64)
    other = mini_colorformer.with_memory(made(encoder=mini_colorformer.encoder))
    assert not torch.allclose(other.colorize(photo, resolution=64), own, atol=1e-3)
    assert torch.equal(other.with_memory(None).colorize(photo, resolution=64), own)
    assert torch.equal(mini_colorformer.colorize(photo, resolution=64), own)
    network = mini_colorformer.placement.acquire(0).memory
    same = ColorMemory(
        keys=network.keys.clone(), values=network.values.clone(), encoder=mini_colorformer.encoder
    )
    again = mini_colorformer.with_memory(same).colorize(photo, resolution=64)
    torch.testing.assert_close(again, own, atol=1e-5, rtol=0)


# --- Fusion weights ----------------------------------------------------------------------------


@pytest.mark.parametrize("spread", [0, 0.5, 0.9, 1])
def test_fusion_weights_lead_in_turn(spread):
    weights = memories.sample_fusion_weights(4, 8, seed=3, spread=spread)
    assert weights.shape == (8, 4)
    torch.testing.assert_close(weights.sum(1), torch.ones(8))
    leaders = weights.argmax(1).tolist()
    assert sorted(leaders[:4]) == sorted(leaders[4:]) == [0, 1, 2, 3]
    if spread == 1:
        assert weights.max(1).values.tolist() == [1] * 8


def test_fusion_weights_come_from_the_seed():
    first, again, other = (memories.sample_fusion_weights(4, 4, seed, 0.5) for seed in (1, 1, 2))
    assert torch.equal(first, again) and not torch.equal(first, other)
    longer = memories.sample_fusion_weights(4, 8, 1, 0.5)
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
def test_fusion_weights_that_cannot_be(count, spread, sentence):
    with pytest.raises(ValueError, match=sentence):
        memories.sample_fusion_weights(4, count, 0, spread)


def test_fusion_weights_of_a_negative_seed():
    with pytest.raises(ValueError, match="seed is -1; expected 0 or more."):
        memories.sample_fusion_weights(4, 4, -1, 0.5)


# --- Files -------------------------------------------------------------------------------------


@pytest.mark.parametrize("projection", [True, False])
def test_round_trip(tmp_path, projection):
    before = made(projection=projection, photos=3, skipped=["ä.jpg"])
    memories.save(before, tmp_path / "new" / "m.safetensors")
    after = memories.load(tmp_path / "new" / "m.safetensors")
    assert torch.equal(after.keys, before.keys) and torch.equal(after.values, before.values)
    assert (after.encoder, after.provenance) == (before.encoder, before.provenance)
    assert (after.projection is None) == (not projection)
    if projection:
        assert torch.equal(after.projection.components, before.projection.components)
        assert torch.equal(after.projection.offset, before.projection.offset)


def test_files_that_are_no_memories(tmp_path, mini_file):
    path = tmp_path / "m.safetensors"

    def refused(sentence):
        with pytest.raises(CheckpointError, match=sentence):
            memories.load(path)

    refused("no such file")
    path.write_bytes(mini_file.read_bytes())
    refused("m.safetensors: holds no color memory. Build one")
    memories.save(made(), path)
    whole = path.read_bytes()
    path.write_bytes(whole[:-10])
    refused("m.safetensors: damaged or truncated")
    state, info = checkpoint.read(_written(path, whole))
    path.write_bytes(checkpoint.to_bytes(state, info | {"version": 2}))
    refused("a color memory of version 2; this program reads version 1. Update it, or build")
    path.write_bytes(checkpoint.to_bytes(state, {k: info[k] for k in ("kind", "version")}))
    refused(r"no usable color memory \('encoder'\)")
    path.write_bytes(checkpoint.to_bytes({"keys": state["keys"]}, info))
    refused(r"no usable color memory \('values'\)")
    path.write_bytes(checkpoint.to_bytes(state | {"keys": state["keys"][:2]}, info))
    refused("no usable color memory .the color memory has keys")


def test_a_memory_is_no_network(tmp_path):
    import comfyui_colorist

    memories.save(made(), tmp_path / "m.safetensors")
    with pytest.raises(CheckpointError, match="m.safetensors: a color memory, not a network"):
        comfyui_colorist.load(tmp_path / "m.safetensors")


def _written(path, data):
    path.write_bytes(data)
    return path


# --- The published pair --------------------------------------------------------------------------


def test_npy_round_trip(tmp_path):
    before = made(projection=False)
    colors, semantics = tmp_path / "color_embed.npy", tmp_path / "semantic_embed.npy"
    memories.export_npy(before, colors, semantics)
    assert np.load(colors).dtype == np.float64 and np.load(semantics).dtype == np.float32
    after = memories.import_npy(colors, semantics, encoder="e1", network="net")
    assert torch.equal(after.keys, before.keys)
    assert torch.equal(after.values, before.values.round())
    assert after.provenance == {
        "network": "net",
        "imported": ["color_embed.npy", "semantic_embed.npy"],
    }


def test_npy_files_that_cannot_be(tmp_path):
    good, bad = tmp_path / "good.npy", tmp_path / "bad.npy"
    np.save(good, np.zeros((4, 5, 2)))

    def refused(sentence):
        with pytest.raises(CheckpointError, match=sentence):
            memories.import_npy(good, bad, encoder="e", network="n")

    refused("bad.npy: no .npy file of numbers")
    bad.write_bytes(b"hello")
    refused("bad.npy: no .npy file of numbers")
    np.save(bad, np.zeros((5, 8), np.float32))
    bad.write_bytes(bad.read_bytes()[:-20])
    refused("bad.npy: no .npy file of numbers")
    with bad.open("wb") as file:  # says that it holds four million gigabytes
        header = {"descr": "<f4", "fortran_order": False, "shape": (10**9, 10**6)}
        np.lib.format.write_array_header_1_0(file, header)
    refused("bad.npy: no .npy file of numbers")
    bad.write_bytes(b"PK\x03\x04 a broken archive")
    refused("bad.npy: no .npy file of numbers")
    with bad.open("wb") as file:
        np.savez(file, np.zeros((5, 8)))
    refused("bad.npy: expected an array of numbers with 2 dimensions")
    np.save(bad, np.zeros((5, 8, 1)))
    refused("with 2 dimensions")
    np.save(bad, np.full((5, 8), "x"))
    refused("an array of numbers")
    np.save(bad, np.zeros((6, 8)))
    refused(r"good.npy, bad.npy: the color memory has keys \(6, 8\)")


def test_pickles_are_refused_not_run(tmp_path):
    """An array of objects runs code when it is opened."""
    bad, ran = tmp_path / "bad.npy", tmp_path / "ran"

    class Trap:
        def __reduce__(self):
            return open, (str(ran), "w")

    np.save(bad, np.array([[Trap()]], dtype=object), allow_pickle=True)
    np.save(tmp_path / "good.npy", np.zeros((4, 1, 2)))
    with pytest.raises(CheckpointError, match="bad.npy: no .npy file of numbers .*pickle"):
        memories.import_npy(tmp_path / "good.npy", bad, encoder="e", network="n")
    assert not ran.exists()
