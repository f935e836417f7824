"""Point-hint trainer: random hints, the prior between them, a base for some photos."""

import dataclasses
import json
import subprocess
import sys

import comfyui_colorist
import numpy as np
import pytest
import torch
import torch.nn.functional as F
from comfyui_colorist.metrics import image as image_metrics
from comfyui_colorist.model_defs import checkpoint, gp_kernel, pointhint, registry
from comfyui_colorist.model_store import resolve
from comfyui_colorist.ops import color, gaussian_process
from comfyui_colorist.pipeline import loader
from comfyui_colorist.pipeline.by_hints import encode_hints, network_input, predict_base_ab
from comfyui_colorist.pipeline.hints.schema import Hint
from comfyui_colorist.trainers import train_pointhint
from comfyui_colorist.trainers.data import batches as data
from comfyui_colorist.trainers.runtime import optimization, provenance, sample_grid, state
from comfyui_colorist.trainers.runtime.command_line import parse
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file


@pytest.fixture(autouse=True)
def mini_preset(monkeypatch, mini_pointhint_config):
    monkeypatch.setitem(pointhint.PRESETS, "mini", mini_pointhint_config)


@pytest.fixture
def inputs(monkeypatch):
    """What the network in training is given, each step."""
    seen = []

    def kept(*given):
        seen.append(network_input(*given))
        return seen[-1]

    monkeypatch.setattr(train_pointhint, "network_input", kept)
    return seen


def settings(photos="photos", out="out", **changes):
    values = {
        "photos": (str(photos),),
        "out": out,
        "architecture": "mini",
        "hints": (1, 8),
        "crop": (32,),
        "batch": 2,
        "steps": 4,
        "warmup": 0,
        "report_every": 2,
        "save_every": 2,
        "device": "cpu",
    }
    return train_pointhint.Config(**(values | changes))


def weights(out):
    return registry.load(out / "weights.safetensors")[0]


def lines_of(out):
    """Lines about steps, without those about photos that are not trained on."""
    lines = [json.loads(line) for line in (out / "log.jsonl").read_text().splitlines()]
    return [line for line in lines if "loss" in line]


def always(monkeypatch, rgb):
    """One batch for ever."""
    images = (255 * rgb).round().byte()

    def batches(*_, **__):
        while True:
            names = [str(row) for row in range(len(rgb))]
            yield data.Batch(range(len(rgb)), names, (images,), {})

    monkeypatch.setattr(data, "load_batches", batches)


def stop_at(monkeypatch, step):
    """The power goes off in this step."""
    calls, real = [], train_pointhint.draw_hint_cells

    def drawn(*given):
        calls.append(1)
        if len(calls) > step:
            raise KeyboardInterrupt
        return real(*given)

    monkeypatch.setattr(train_pointhint, "draw_hint_cells", drawn)


def colored(batch=1, side=32, seed=0):
    """Smooth pictures in colour, of 8 bits: (B, 3, S, S)."""
    coarse = torch.rand(batch, 3, 4, 4, generator=torch.Generator().manual_seed(seed))
    return (255 * F.interpolate(coarse, size=(side, side), mode="bilinear")).round() / 255


@pytest.fixture
def many_photos(tmp_path):
    """Two of which are held out."""
    folder = tmp_path / "many"
    folder.mkdir()
    for i, rgb in enumerate(colored(20, 48)):
        pixels = (255 * rgb).byte().movedim(0, -1).numpy()
        Image.fromarray(pixels).save(folder / f"{i:02}.png")
    return folder


# --- Runs ----------------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [False, True])
def test_resumed_run_equals_unbroken_run(photos, tmp_path, mini_file, prior):
    """Weights, optimizer, data order, hints: bit-equal after 4 and after 2 + 2."""
    changes = {"prior": prior, "base": mini_file, "base_share": 0.5}  # the paper takes no base
    train_pointhint.main(settings(photos, tmp_path / "whole", **changes))
    broken = settings(photos, tmp_path / "broken", **changes)
    stopped = pytest.raises(KeyboardInterrupt)
    with stopped, pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 3)
        train_pointhint.main(broken)
    train_pointhint.main(broken)
    for file in ("weights.safetensors", "state.safetensors"):
        whole, resumed = (load_file(tmp_path / run / file) for run in ("whole", "broken"))
        assert whole.keys() == resumed.keys()
        assert all(torch.equal(whole[key], resumed[key]) for key in whole)
    whole, resumed = (lines_of(tmp_path / run)[-1] for run in ("whole", "broken"))
    assert [whole[k] for k in ("loss", "guess", "rate")] == [
        resumed[k] for k in ("loss", "guess", "rate")
    ]


def test_a_training_state_of_version_1_0_0_resumes(photos, tmp_path):
    """The state of step 2, with the tensor names of 1.0.0, leads to the same weights."""
    train_pointhint.main(settings(photos, tmp_path / "whole", prior=True))
    broken = settings(photos, tmp_path / "broken", prior=True)
    with pytest.raises(KeyboardInterrupt), pytest.MonkeyPatch.context() as patch:
        stop_at(patch, 3)
        train_pointhint.main(broken)
    file = tmp_path / "broken" / "state.safetensors"
    old_names = {new: old for old, new in registry.TENSOR_ALIASES.items()}
    with safe_open(file, "pt") as opened:
        metadata = opened.metadata()
    tensors = load_file(file)
    renamed = {}
    for key, tensor in tensors.items():
        group, _, name = key.partition("/")
        renamed[f"{group}/{old_names.get(name, name)}" if name else key] = tensor
    assert sum(old not in tensors for old in renamed) == 2 * len(old_names)
    save_file(renamed, file, metadata)
    train_pointhint.main(broken)
    whole, resumed = (
        load_file(tmp_path / run / "weights.safetensors") for run in ("whole", "broken")
    )
    assert all(torch.equal(whole[key], resumed[key]) for key in whole)


def test_a_batch_in_parts_is_the_same_batch(photos, tmp_path, mini_file):
    """Hints, the photos with a base and the mean of the loss are those of the whole batch."""
    lines = []
    for parts in (1, 4):
        changes = {"prior": True, "base": mini_file, "batch": 4, "accumulate": parts, "steps": 3}
        out = tmp_path / str(parts)
        train_pointhint.main(settings(photos, out, report_every=1, **changes))
        lines.append(
            [[x[k] for k in ("loss", "error", "guess", "gradient")] for x in lines_of(out)]
        )
    np.testing.assert_allclose(lines[1], lines[0], rtol=1e-4, atol=2e-4)


def test_files_and_provenance(photos, tmp_path, mini_pointhint_config, mini_file):
    changes = {"prior": True, "base": str(mini_file), "resolution": 96, "licence": "CC0"}
    train_pointhint.main(settings(photos, tmp_path / "run", **changes))
    network, spec, info = registry.load(tmp_path / "run" / "weights.safetensors")
    assert network.config == mini_pointhint_config
    assert spec.role == "pointhint" and spec.resolution == 96 and spec.prior
    assert info["spec"] == {"resolution": 96, "prior": True} and info["licence"] == "CC0"
    assert info["training"]["steps"] == 4 and info["training"]["photos"] == 6
    assert info["training"]["config"]["base"] == mini_file.name
    assert info["training"]["config"]["hints"] == [1, 8]
    for folder in (tmp_path, photos, mini_file.parent):
        assert str(folder) not in json.dumps(info), "no folder of the machine in the metadata"
    assert [line["step"] for line in lines_of(tmp_path / "run")] == [2, 4]
    names = {"weights.safetensors", "state.safetensors", "log.jsonl", "tensorboard"}
    assert {path.name for path in (tmp_path / "run").iterdir()} == names


@pytest.mark.parametrize("prior", [False, True])
def test_samples_of_photos_that_are_not_trained_on(many_photos, tmp_path, monkeypatch, prior):
    sheets, real = [], sample_grid.contact_sheet

    def sheet(rows, *more, **others):
        sheets.append(rows)
        return real(rows, *more, **others)

    monkeypatch.setattr(sample_grid, "contact_sheet", sheet)
    changes = {"prior": prior, "steps": 1, "report_every": 1, "learning_rate": 0.0}
    train_pointhint.main(settings(many_photos, tmp_path / "run", **changes))
    assert (tmp_path / "run" / "samples" / "0000001.jpg").exists()
    (rows,) = sheets
    assert len(rows) == 2 and all(len(row) == 3 + prior for row in rows)
    for hinted, *between, result, true in rows:
        grey = hinted.std(1) < 1e-6
        assert 0.5 < grey.float().mean() < 0.999, "ten discs on a grey picture"
        assert image_metrics.psnr(true, color.gray_rgb(color.lightness(true))) < image_metrics.psnr(
            result, true
        )
        if prior:  # which is what a new network answers
            assert image_metrics.psnr(result, between[0]) > 30
    lines = [json.loads(x) for x in (tmp_path / "run" / "log.jsonl").read_text().splitlines()]
    scores = {key: value for line in lines for key, value in line.items() if "psnr" in key}
    assert scores["held_out_psnr"] == scores["held_out_psnr_10"]
    assert scores["held_out_psnr_1"] < scores["held_out_psnr_10"] < scores["held_out_psnr_50"]


def test_the_state_names_no_folders(
    photos,
    tmp_path,
):
    train_pointhint.main(settings(photos, tmp_path, steps=2))
    _, info = checkpoint.read(tmp_path / "state.safetensors")
    assert info["step"] == 2 and str(tmp_path) not in json.dumps(info)


def test_the_result_colours(
    photos,
    tmp_path,
):
    train_pointhint.main(settings(photos, tmp_path, prior=False))
    colorizer = loader.load(tmp_path / "weights.safetensors", device="cpu")
    assert not colorizer.spec.prior and colorizer.spec.resolution == 224
    hints = [Hint(0.5, 0.5, "#b04030")]
    out = colorizer.colorize(torch.full((1, 32, 32, 1), 0.5), hints=hints, resolution=32)
    assert color.rgb_to_lab(out.movedim(-1, 1))[0, 1, 17, 17] > 20


def test_bfloat16_trains(
    photos,
    tmp_path,
):
    train_pointhint.main(settings(photos, tmp_path, prior=True, dtype="bfloat16", steps=2))
    (line,) = lines_of(tmp_path)
    assert 0 < line["loss"] < 100


def test_crops_grow(photos, tmp_path, inputs):
    train_pointhint.main(settings(photos, tmp_path, crop=(32, 64), crop_until=(1,), steps=2))
    assert [tuple(x.shape) for x in inputs] == [(2, 4, 32, 32), (2, 4, 64, 64)]


def test_weights_to_start_from(photos, tmp_path, mini_pointhint_file):
    start = tmp_path / "secret place" / "start.safetensors"
    start.parent.mkdir()
    start.write_bytes(mini_pointhint_file.read_bytes())
    changes = {"architecture": "", "weights": str(start), "learning_rate": 0.0, "prior": True}
    train_pointhint.main(settings(photos, tmp_path / "run", steps=2, **changes))
    got, want = weights(tmp_path / "run").state_dict(), registry.load(start)[0].state_dict()
    for key, tensor in want.items():
        torch.testing.assert_close(got[key], tensor.half().float(), atol=1e-4, rtol=1e-3)
    _, info = checkpoint.read(tmp_path / "run" / "weights.safetensors")
    assert info["training"]["config"]["weights"] == "start.safetensors"
    assert "secret place" not in json.dumps(info)


def test_weights_with_another_input_are_refused(photos, tmp_path, mini_pointhint_file):
    changes = {"architecture": "", "weights": mini_pointhint_file}
    with pytest.raises(
        ValueError, match="trained with interpolated colors between hints; give --prior"
    ):
        train_pointhint.main(settings(photos, tmp_path / "run", **changes))


def test_weights_are_there_before_the_state(photos, tmp_path, monkeypatch):
    """Stopped between the two, a run makes both again."""
    written = []
    for where, name in ((provenance, "write_weights"), (state.TrainingState, "save")):
        monkeypatch.setattr(where, name, lambda *_, name=name: written.append(name))
    train_pointhint.main(settings(photos, tmp_path, steps=2))
    assert written == ["write_weights", "save"]


# --- Objective -----------------------------------------------------------------------------------


@pytest.mark.parametrize("delta", [1.0, 10.0])
def test_loss_is_huber_s_in_lab_units(tmp_path, monkeypatch, photos, delta):
    """Eq. 13 of a new network without hints, which says ab = 0; as a part of delta."""
    rgb = colored(2)
    always(monkeypatch, rgb)
    changes = {"without": 1.0, "huber": delta, "steps": 1, "report_every": 1}
    train_pointhint.main(settings(photos, tmp_path, **changes))
    error = color.rgb_to_lab(rgb)[:, 1:].abs()
    want = torch.where(error <= delta, error**2 / 2, delta * (error - delta / 2)).mean() / delta
    (line,) = lines_of(tmp_path)
    assert line["loss"] == pytest.approx(want.item(), abs=1e-3)
    assert line["error"] == line["guess"] == pytest.approx(error.square().mean().item(), rel=1e-4)


def test_grey_photos_are_passed_over(photos, tmp_path, caplog):
    """Alone they are no photos to learn from; the loss is a mean over all that is left."""
    grey = tmp_path / "grey"
    grey.mkdir()
    rng = np.random.default_rng(0)
    for i in range(2):
        Image.fromarray(rng.integers(0, 255, (40, 40), np.uint8)).save(grey / f"{i}.png")
    changes = {"without": 1.0, "steps": 2, "batch": 4, "report_every": 1}
    both = settings(photos, tmp_path / "both", **changes)
    train_pointhint.main(dataclasses.replace(both, photos=(str(photos), str(grey))))
    assert "grey/0.png: it has no colors to learn from" in caplog.text.replace("\\", "/")
    assert all(line["loss"] > 1 for line in lines_of(tmp_path / "both"))
    with pytest.raises(ValueError, match="none of the photos is readable and colored"):
        train_pointhint.main(settings(grey, tmp_path / "run", **changes))


def test_decay_on_matrices_alone(mini_pointhint_network):
    """None on norms, biases and tables of position bias."""
    network = mini_pointhint_network
    decayed, others = optimization.parameter_groups(network, 0.05)
    assert decayed["weight_decay"] == 0.05 and others["weight_decay"] == 0
    names = {id(parameter): name for name, parameter in network.named_parameters()}
    decayed, others = (
        {names[id(parameter)] for parameter in group["params"]} for group in (decayed, others)
    )
    assert decayed | others == set(names.values()) and not decayed & others
    norms = {
        f"{path}.{name}"
        for path, module in network.named_modules()
        if isinstance(module, torch.nn.LayerNorm)
        for name, _ in module.named_parameters()
    }
    tables = {name for name in names.values() if "position_bias" in name}
    biases = {name for name in names.values() if name.endswith(".bias")}
    scalars = ("amplitude", "constant", "noise")
    scalars += ("inverse_spatial_scale", "inverse_lightness_scale")
    numbers = {f"kernel.{name}" for name in scalars}
    scales = {name for name in names.values() if name.endswith(".gamma")}
    assert len(norms) == 52 and len(tables) == 8 and len(biases) > 20 and len(scales) == 3
    assert others == norms | tables | biases | numbers | scales
    assert all(name.endswith(".weight") for name in decayed)


def test_the_optimizer_is_the_paper_s(photos, tmp_path, monkeypatch):
    result, real = [], torch.optim.AdamW
    monkeypatch.setattr(
        torch.optim, "AdamW", lambda *a, **k: result.append(real(*a, **k)) or result[-1]
    )
    train_pointhint.main(settings(photos, tmp_path, steps=2, weight_decay=0.07))
    groups = result[0].param_groups
    assert [group["weight_decay"] for group in groups] == [0.07, 0]
    assert all(group["betas"] == (0.9, 0.95) for group in groups)


@pytest.mark.parametrize("last", [0.0, 0.02])
def test_learning_rate_rises_and_falls(last):
    config = settings(warmup=10, steps=110, last_rate=last)
    rates = [train_pointhint.rate_factor(config, step) for step in range(111)]
    assert rates[0] == pytest.approx(0.1) and rates[9] == rates[10] == 1
    assert all(a > b for a, b in zip(rates[10:], rates[11:], strict=False))
    assert rates[60] == pytest.approx((1 + last) / 2) and rates[110] == pytest.approx(last)


# --- Hints ---------------------------------------------------------------------------------------


def cells_of(batch=64, step=0, **changes):
    values = {"batch": batch, "hints": (1, 64), "without": 0.1}
    return train_pointhint.draw_hint_cells(settings(**(values | changes)), step)


def drawn_of(batch=64, **changes):
    true_ab = color.rgb_to_lab(colored(batch))[:, 1:]
    return true_ab, train_pointhint.hints_from_cells(true_ab, *cells_of(batch, **changes))


def test_hints_are_cells_in_their_mean_colour():
    true_ab, drawn = drawn_of()
    means = F.avg_pool2d(true_ab, 2)
    assert drawn.ab.shape == (64, 2, 32, 32) and drawn.mask.shape == (64, 1, 32, 32)
    assert drawn.centers.shape == drawn.values.shape == (64, 64, 2)
    for i in range(64):
        at = drawn.centers[i][drawn.valid[i]]
        rows, columns = ((at - 1) / 2).long().unbind(-1)
        assert torch.equal(torch.stack([rows, columns], -1) * 2 + 1.0, at)  # the aligned grid
        assert len({*zip(rows.tolist(), columns.tolist(), strict=True)}) == len(at)  # each once
        values = means[i, :, rows, columns].T
        torch.testing.assert_close(drawn.values[i][drawn.valid[i]], values, atol=1e-4, rtol=0)
        mask = torch.zeros(16, 16)
        mask[rows, columns] = 1
        assert torch.equal(drawn.mask[i, 0], mask.repeat_interleave(2, 0).repeat_interleave(2, 1))
        filled = (means[i] * mask).repeat_interleave(2, 1).repeat_interleave(2, 2)
        torch.testing.assert_close(drawn.ab[i], filled, atol=1e-4, rtol=0)


def test_hints_are_as_the_pipeline_has_them():
    """What a person draws at these places is what the network learned from."""
    true_ab, drawn = drawn_of(batch=1, hints=(5, 5), without=0.0)
    L = torch.rand(1, 1, 32, 32) * 20 + 40
    hints = []
    for (y, x), ab in zip(drawn.centers[0].tolist(), drawn.values[0], strict=True):
        rgb = color.to_gamut(torch.tensor([60.0, *ab.tolist()]).view(3, 1, 1))
        code = "".join(f"{round(255 * v):02x}" for v in rgb.flatten().tolist())
        hints.append(Hint(x / 32, y / 32, f"#{code}"))
    # in the colours that #rrggbb can have
    values = torch.tensor([hint.ab for hint in hints])[None]
    ab = torch.zeros_like(drawn.ab)
    for (y, x), value in zip(drawn.centers[0].long().tolist(), values[0], strict=True):
        ab[0, :, y - 1 : y + 1, x - 1 : x + 1] = value[:, None, None]
    given = drawn._replace(values=values, ab=ab)
    want_ab, want_mask = encode_hints(L, hints, None, prior=True)
    assert torch.equal(given.mask, want_mask)
    ab = train_pointhint.compute_prior(L, given, None, [False])
    torch.testing.assert_close(ab, want_ab, atol=1e-3, rtol=0)


@pytest.mark.parametrize("number", [(1, 1), (1, 2), (3, 3), (1, 64), (5, 20), (256, 256)])
def test_how_many_hints(number):
    _, drawn = drawn_of(batch=500, hints=number, without=0.0)
    counts = drawn.valid.sum(1)
    assert counts.min() == number[0]
    assert number[0] <= counts.max() <= number[1] and counts.max() > 0.8 * number[1]
    assert torch.equal(drawn.mask.sum((1, 2, 3)), counts * 4.0)


def test_few_and_many_are_drawn_alike():
    """The logarithm of the number is uniform: as often 1 as 2 or 3, 4 to 7, ..., 32 to 63."""
    _, valid = cells_of(batch=6000, hints=(1, 63), without=0.0)
    octave = valid.sum(1).float().log2().floor().long()
    shares = octave.bincount(minlength=6) / 6000
    torch.testing.assert_close(shares, torch.full((6,), 1 / 6), atol=0.03, rtol=0)


@pytest.mark.parametrize("without", [0.0, 0.1, 0.5, 1.0])
def test_some_get_none(without):
    _, valid = cells_of(batch=3000, hints=(1, 4), without=without)
    none = (valid.sum(1) == 0).float().mean().item()
    assert none == pytest.approx(without, abs=0.03 if 0 < without < 1 else 0)
    _, drawn = drawn_of(batch=20, hints=(1, 4), without=without)
    none = drawn.valid.sum(1) == 0
    assert not drawn.mask[none].any() and not drawn.ab[none].any()


def test_places_are_everywhere():
    cells, _ = cells_of(batch=4000, hints=(1, 1), without=0.0)
    often = cells.flatten().bincount(minlength=256).view(4, 4, 4, 4).sum((1, 3)) / 4000
    torch.testing.assert_close(often, torch.full((4, 4), 1 / 16), atol=0.02, rtol=0)


def test_draws_are_of_seed_and_step():
    """And of nothing else: a resumed run, and each of several processes, draws the same."""
    draws = []
    for i, (seed, step) in enumerate([(0, 5), (0, 5), (0, 6), (1, 5)]):
        torch.manual_seed(i)
        draws.append(cells_of(seed=seed, step=step))
    first, same, *others = draws
    assert all(torch.equal(a, b) for a, b in zip(first, same, strict=True))
    assert not any(torch.equal(first[0], other[0]) for other in others)


# --- The guess -----------------------------------------------------------------------------------


def test_the_guess_is_kriged_and_exact_at_hints():
    true_ab, drawn = drawn_of(batch=6)
    L = color.rgb_to_lab(colored(6))[:, :1]
    ab = train_pointhint.compute_prior(L, drawn, 0 * true_ab, [False] * 6)
    kriged = gaussian_process.krige(L, drawn.centers, drawn.values, drawn.valid)
    assert torch.equal(ab, torch.where(drawn.mask > 0, drawn.ab, kriged))
    many = drawn.valid.sum(1) > 9
    error, nothing = ((x - true_ab)[many].square().mean() for x in (ab, 0 * ab))
    assert error < 0.5 * nothing  # reached: 0.37


def test_a_base_is_the_guess_and_is_corrected(mini):
    true_ab, drawn = drawn_of(batch=4, hints=(1, 3), without=0.0)
    L = color.rgb_to_lab(colored(4))[:, :1]
    with torch.no_grad():
        own = predict_base_ab(mini, color.gray_rgb(L), L)
    none = drawn._replace(ab=0 * drawn.ab, mask=0 * drawn.mask, valid=drawn.valid & False)
    torch.testing.assert_close(train_pointhint.compute_prior(L, none, own, [True] * 4), own)
    known = train_pointhint.base_colors(L, mini, [True] * 4)
    torch.testing.assert_close(known, own)
    ab = train_pointhint.compute_prior(L, drawn, known, [True] * 4)
    assert torch.equal(ab * drawn.mask, drawn.ab)
    at = drawn.centers.long()
    there = own[torch.arange(4)[:, None], :, at[..., 0], at[..., 1]]
    moved = gaussian_process.krige(
        L, drawn.centers, drawn.values - there, drawn.valid, gaussian_process.CORRECTION_KERNEL
    )
    want = torch.where(drawn.mask > 0, drawn.ab, own + moved)
    torch.testing.assert_close(ab, want, atol=1e-3, rtol=0)


def test_each_photo_gets_its_own_guess(mini):
    _, drawn = drawn_of(batch=4, hints=(1, 3), without=0.0)
    L = color.rgb_to_lab(colored(4))[:, :1]

    def guess(given):
        return train_pointhint.compute_prior(
            L, drawn, train_pointhint.base_colors(L, mini, given), given
        )

    every, none = (guess([given] * 4) for given in (True, False))
    assert (every - none).abs().amax((1, 2, 3)).min() > 1
    mixed = guess([True, False, False, True])
    want = torch.stack([every[0], none[1], none[2], every[3]])
    torch.testing.assert_close(mixed, want, atol=1e-3, rtol=0)


@pytest.mark.parametrize(("share", "count"), [(0.0, 0), (0.15, 3), (0.25, 4), (0.5, 8), (1.0, 16)])
def test_a_base_for_its_share_in_each_process(share, count):
    config, turns = settings(batch=16, base_share=share), set()
    for step in range(16):
        given = train_pointhint.rows_with_base(config, step, range(16))
        parts = [
            train_pointhint.rows_with_base(config, step, range(i, i + 4)) for i in (0, 4, 8, 12)
        ]
        assert sum(parts, []) == given and sum(given) == count
        assert all(abs(sum(part) - count / 4) < 1.1 for part in parts)
        turns |= {row for row, yes in enumerate(given) if yes}
    assert len(turns) == (16 if share else 0), "no row is always left out"


def test_the_base_s_colours_are_given(
    photos, tmp_path, mini_pointhint_config, mini_file, inputs, monkeypatch
):
    """Without hints the input tells: the base's colours, or none."""
    plain = dataclasses.replace(mini_pointhint_config, kernel=None)
    monkeypatch.setitem(pointhint.PRESETS, "mini", plain)
    rgb = colored(4)
    always(monkeypatch, rgb)
    changes = {"prior": True, "base": mini_file, "base_share": 0.5, "batch": 4, "steps": 1}
    config = settings(photos, tmp_path, without=1.0, **changes)
    train_pointhint.main(config)
    L = color.rgb_to_lab(rgb)[:, :1]
    with torch.no_grad():
        base = comfyui_colorist.load(mini_file, device="cpu")
        own = predict_base_ab(base, color.gray_rgb(L), L)
    given = torch.tensor(train_pointhint.rows_with_base(config, 0, range(4)))
    assert given.sum() == 2
    want = torch.where(given.view(-1, 1, 1, 1), own, 0)
    [x] = inputs
    torch.testing.assert_close(x, network_input(L, want, torch.zeros_like(L)), atol=1e-4, rtol=0)


@pytest.mark.parametrize("prior", [False, True])
def test_what_lies_between_hints(photos, tmp_path, inputs, prior):
    changes = {"prior": prior, "without": 0.0, "steps": 2, "batch": 4}
    train_pointhint.main(settings(photos, tmp_path, **changes))
    for x in inputs:
        between = x[:, 1:3][(x[:, 3:] == 0).expand(-1, 2, -1, -1)]
        assert between.abs().mean() > 0.01 if prior else not between.any()
        assert (x[:, 3:].sum((1, 2, 3)) >= 4).all()


# --- The kernel of the guess ---------------------------------------------------------------------


@pytest.mark.parametrize("part", ["all", "kernel", "network"])
def test_what_is_trained(photos, tmp_path, mini_pointhint_file, part):
    changes = {"architecture": "", "weights": mini_pointhint_file, "prior": True, "part": part}
    train_pointhint.main(settings(photos, tmp_path, **changes, learning_rate=1e-2, average=0.0))
    got, start = weights(tmp_path).state_dict(), registry.load(mini_pointhint_file)[0].state_dict()
    moved = {
        name.startswith("kernel.")
        for name, tensor in got.items()
        if (tensor - start[name]).abs().max() > 2e-3
    }
    assert moved == {"all": {True, False}, "kernel": {True}, "network": {False}}[part]


def test_a_kernel_can_only_be_trained_where_there_is_one(
    photos, tmp_path, monkeypatch, mini_pointhint_config
):
    plain = dataclasses.replace(mini_pointhint_config, kernel=None)
    monkeypatch.setitem(pointhint.PRESETS, "mini", plain)
    with pytest.raises(ValueError, match="part is 'kernel', but this network has no kernel"):
        train_pointhint.main(settings(photos, tmp_path, prior=True, part="kernel"))
    with pytest.raises(ValueError, match="part is 'half'; expected one of all, kernel, network"):
        settings(part="half")


def test_networks_without_a_prior_have_no_kernel(photos, tmp_path):
    train_pointhint.main(settings(photos, tmp_path, prior=False, steps=1))
    assert weights(tmp_path).kernel is None


def test_the_kernel_starts_from_an_encoder(mini_file):
    config = settings(prior=True, encoder=str(mini_file))
    network, _ = train_pointhint.build(config)
    encoder = registry.load(mini_file)[0].encoder
    ours, theirs = network.kernel.backbone, encoder
    assert torch.equal(ours.stages[1][0].depthwise.weight, theirs.stages[1][0].depthwise.weight)
    assert len(ours.stages[2]) == 1 and len(theirs.stages[2]) == 2  # the first of them


def test_an_efficientnet_lite_is_copied_and_frozen(photos, tmp_path, monkeypatch, mini_file):
    config = dataclasses.replace(
        pointhint.PRESETS["pointhint-nano"],
        kernel=dataclasses.replace(gp_kernel.LITE, width=8, kernel_count=1),
    )
    monkeypatch.setitem(pointhint.PRESETS, "mini", config)
    changes = {"prior": True, "encoder": "ddcolor-nano", "part": "kernel", "frozen_stages": 7}
    train_pointhint.main(settings(photos, tmp_path, **changes, steps=2, average=0.0))
    theirs = registry.load(resolve.model_path("ddcolor-nano"))[0].encoder.state_dict()
    trained = weights(tmp_path).kernel
    for key, tensor in trained.backbone.state_dict().items():
        assert torch.equal(tensor, theirs[key].half().float()), key
    with pytest.raises(ValueError, match="a ddcolor network; this backbone needs an EfficientNet"):
        train_pointhint.build(settings(prior=True, encoder=str(mini_file)))
    with pytest.raises(ValueError, match="frozen_stages is 8; this encoder has 7 stages"):
        train_pointhint.main(settings(photos, tmp_path / "b", **changes | {"frozen_stages": 8}))


def test_the_kernel_of_a_guess_learns(photos, tmp_path, monkeypatch):
    """The guess of one batch, alone; the network behind it stays what it was: nothing."""
    always(monkeypatch, colored(2))
    changes = {
        "prior": True,
        "part": "kernel",
        "hints": (1, 4),
        "steps": 60,
        "learning_rate": 5e-3,
        "huber": 10.0,
        "warmup": 5,
        "report_every": 20,
        "save_every": 60,
    }
    train_pointhint.main(settings(photos, tmp_path, **changes))
    first, *_, last = lines_of(tmp_path)
    assert last["error"] < 0.5 * first["error"] and last["error"] == last["guess"]


# --- It learns -----------------------------------------------------------------------------------


@pytest.mark.parametrize("prior", [False, True])
def test_learns_a_batch_by_heart(photos, tmp_path, monkeypatch, prior):
    always(monkeypatch, colored(2))
    changes = {
        "prior": prior,
        "hints": (1, 4),
        "without": 0.3,
        "steps": 50,
        "learning_rate": 5e-3,
        "huber": 10.0,
        "warmup": 5,
        "report_every": 10,
        "save_every": 50,
    }
    train_pointhint.main(settings(photos, tmp_path, **changes))
    lines = lines_of(tmp_path)
    assert lines[-1]["error"] < 0.3 * lines[-1]["guess"]
    assert lines[-1]["loss"] < 0.5 * lines[0]["loss"]


def test_a_new_network_starts_with_the_guess(
    photos,
    tmp_path,
):
    changes = {"prior": True, "steps": 1, "report_every": 1}
    train_pointhint.main(settings(photos, tmp_path, **changes))
    (line,) = lines_of(tmp_path)
    assert line["error"] == pytest.approx(line["guess"], rel=1e-3) and line["guess"] > 0


# --- Refusals ------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"photos": ()}, "name at least one folder"),
        ({"architecture": "pointhint-huge"}, "expected one of pointhint-s, pointhint-t, .*start"),
        ({"architecture": ""}, "name one with --weights, such as mini"),
        ({"crop": (50,)}, "multiple of 32"),
        ({"crop": (32, 64)}, "expected one step fewer than sides, in rising order"),
        (
            {"hints": (0, 5)},
            r"hints is \(0, 5\); expected the smallest and the largest number, each from 1 to 125",
        ),
        ({"hints": (6, 5)}, r"hints is \(6, 5\); expected the smallest"),
        ({"hints": (5,)}, r"hints is \(5,\); expected the smallest"),
        ({"hints": (1, 2, 3)}, "expected the smallest and the largest number"),
        ({"hints": (1, 257), "crop": (32,)}, "each from 1 to 256"),
        ({"hints": (1, 257), "crop": (64, 32), "crop_until": (5,)}, "each from 1 to 256"),
        ({"without": -0.1}, "without is -0.1; expected 0.0 to 1.0"),
        ({"without": float("nan")}, "without is nan; expected 0.0 to 1.0"),
        ({"base_share": 1.1, "prior": True}, "base_share is 1.1; expected 0.0 to 1.0"),
        ({"last_rate": 5e-5 - 1}, "last_rate is .*; expected 0.0 to 1.0"),
    ],
)
def test_settings_refusals(tmp_path, changes, sentence):
    with pytest.raises(ValueError, match=sentence):
        train_pointhint.Config(**({"photos": (str(tmp_path),)} | changes))


def test_a_hint_on_every_cell_is_allowed(tmp_path):
    train_pointhint.Config(photos=(str(tmp_path),), hints=(256, 256), crop=(32,))


def test_refuses_weights_of_another_architecture(photos, tmp_path, mini_file):
    sentence = r"weights is .*mini.safetensors, a ddcolor network; expected one of the architecture"
    with pytest.raises(ValueError, match=sentence):
        train_pointhint.main(settings(photos, tmp_path, weights=mini_file))


def test_refuses_a_base_of_another_role(photos, tmp_path, mini_exemplar_file):
    sentence = "base is .*mini-exemplar.safetensors, a model with the role 'exemplar'; expected"
    with pytest.raises(ValueError, match=sentence):
        train_pointhint.main(settings(photos, tmp_path, prior=True, base=mini_exemplar_file))


def test_stops_on_a_loss_that_is_not_a_number(
    photos,
    tmp_path,
):
    """The last good state stays; the photos of the batch are named."""
    config = settings(photos, tmp_path, save_every=1, report_every=1, steps=1)
    train_pointhint.main(config)
    before = (tmp_path / "state.safetensors").read_bytes()
    sentence = r"step \d: a loss is not finite \(loss nan.* photos (\d, \d)\. The state of"
    with pytest.raises(SystemExit, match=sentence):
        train_pointhint.main(
            dataclasses.replace(config, learning_rate=1e30, steps=4, save_every=4, clip=0.0)
        )
    assert (tmp_path / "state.safetensors").read_bytes() == before


def test_refuses_the_state_of_another_network(photos, tmp_path, monkeypatch):
    train_pointhint.main(settings(photos, tmp_path, steps=2))
    other = dataclasses.replace(pointhint.PRESETS["mini"], inner=(4, 4, 4, 8))
    monkeypatch.setitem(pointhint.PRESETS, "mini", other)
    with pytest.raises(ValueError, match="belongs to a run with another network"):
        train_pointhint.main(settings(photos, tmp_path))


# --- By hand -------------------------------------------------------------------------------------


def test_every_preset_parses():
    for preset in train_pointhint.PRESETS:
        argv = ["--photos", "p", "--preset", preset, "--weights", "a.safetensors"]
        config = parse(train_pointhint.Config, train_pointhint.PRESETS, argv)
        assert config.steps > config.warmup
        assert config.prior is (preset not in ("paper", "8gb"))
        assert config.base == ("ddcolor-nano" if config.prior else None)


def test_the_paper_s_settings():
    """Sections 3.5 and 4.3: AdamW at 5e-4, Huber with delta 1, crops of 224."""
    config, small = (
        parse(train_pointhint.Config, train_pointhint.PRESETS, ["--photos", "p", *more])
        for more in ([], ["--preset", "8gb"])
    )
    assert small == dataclasses.replace(config, accumulate=8, dtype="auto")
    assert config.learning_rate == 5e-4 and config.huber == 1 and config.crop == (224,)
    assert config.architecture == "pointhint-s" and not config.prior


def test_hints_on_the_command_line():
    argv = ["--photos", "p", "--hints", "10", "10", "--no-prior"]
    config = parse(train_pointhint.Config, train_pointhint.PRESETS, argv)
    assert config.hints == (10, 10) and config.prior is False


def test_runs_by_path(root):
    run = subprocess.run(
        [sys.executable, str(root / "trainers" / "train_pointhint.py"), "--help"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0 and "--base-share" in run.stdout
