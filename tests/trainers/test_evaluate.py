"""Evaluation from end to end: scores, tasks, reports, contact sheets."""

import copy
import csv
import dataclasses
import io
import json
import tarfile

import numpy as np
import pytest
import torch
from comfyui_colorist.metrics import image as image_metrics
from comfyui_colorist.model_defs import registry
from comfyui_colorist.ops import color
from comfyui_colorist.trainers import evaluate
from comfyui_colorist.trainers.data.photos import Photos
from comfyui_colorist.trainers.evaluation import feature_networks, samples, tables, tasks
from comfyui_colorist.trainers.evaluation.scores import TaskScores
from PIL import Image
from torch import nn

SIZE = 64


def settings(photos, *models, **changes) -> evaluate.Config:
    values = {"photos": (photos,), "model": tuple(map(str, models)), "size": SIZE, "device": "cpu"}
    values["resolution"] = SIZE
    return evaluate.Config(**values | changes)


def tensors(photos) -> dict[str, torch.Tensor]:
    """Return key -> (1, 3, SIZE, SIZE)."""
    opened = Photos([photos])
    keys = enumerate(opened.keys)
    return {key: samples.resize_to_square(opened[i], SIZE)[None] for i, key in keys}


@pytest.fixture(scope="module")
def automatic(photos, mini_file):
    """One evaluation shared by several tests."""
    return evaluate.main(settings(photos, mini_file))


# --- Scores ------------------------------------------------------------------------------------


def test_scores_are_means_over_photos(automatic, photos, mini_file, mini):
    rows = automatic["results"]["automatic"]
    assert list(rows) == ["grey", "mean ab per lightness", str(mini_file), tasks.GROUND_TRUTH]
    values, gray_ssim = [], []
    for truth in tensors(photos).values():
        gray = color.gray_rgb(color.lightness(truth))
        rgb = mini.colorize(gray.movedim(1, -1), resolution=SIZE).movedim(-1, 1)
        rgb = (255 * rgb).round() / 255
        values.append(
            [image_metrics.psnr(rgb, truth).item(), image_metrics.ciede2000(rgb, truth).item()]
        )
        gray_ssim.append(image_metrics.ssim((255 * gray).round() / 255, truth).item())
    psnr, difference = np.mean(values, axis=0)
    assert rows[str(mini_file)]["psnr"] == pytest.approx(psnr, abs=1e-3)
    assert rows[str(mini_file)]["ciede2000"] == pytest.approx(difference, abs=1e-3)
    assert rows["grey"]["ssim"] == pytest.approx(np.mean(gray_ssim), abs=1e-6)
    assert rows["grey"]["photos"] == 6


def test_delta_colorfulness_compares_means_as_in_the_papers():
    scores = TaskScores(keys=["a", "b"])
    for name, values in ((tasks.GROUND_TRUTH, [10.0, 50.0]), ("net", [40.0, 30.0])):
        column = torch.tensor(values)
        scores.add(name, {"colorfulness": column, "paper_colorfulness": 2 * column})
    row = scores.summary()["net"]
    assert row["paper_delta_colorfulness"] == pytest.approx(10)
    assert row["delta_colorfulness"] == pytest.approx(5)
    assert row["photo_delta_colorfulness"] == pytest.approx(25)


def test_the_ground_truth_has_perfect_scores(automatic):
    row = automatic["results"]["automatic"][tasks.GROUND_TRUTH]
    assert (row["psnr"], row["ssim"], row["ciede2000"]) == pytest.approx((50, 1, 0))
    assert row["delta_colorfulness"] == 0


@pytest.mark.parametrize("batch", [1, 4])
def test_the_batch_size_does_not_matter(automatic, photos, mini_file, batch):
    report = evaluate.main(settings(photos, mini_file, batch=batch))
    for name, row in automatic["results"]["automatic"].items():
        assert report["results"]["automatic"][name] == pytest.approx(row, abs=2e-3)


def test_mean_colors_exclude_the_photo_itself(photos):
    """A photo's own colors would leak into its result."""
    all_photos = [rgb[0] for rgb in tensors(photos).values()]
    red = torch.full((3, 8, 8), 0.9) * torch.tensor([1.0, 0.1, 0.1])[:, None, None]
    means = tasks.MeanColorByLightness.of([*all_photos, red]).without(red)
    others = tasks.MeanColorByLightness.of(all_photos)
    torch.testing.assert_close(means.total, others.total)
    gray = color.gray_rgb(color.lightness(red[None]))
    rgb = tasks.MeanColorByLightness.of([red]).colorize(gray)
    torch.testing.assert_close(rgb, red[None], atol=2e-2, rtol=0)


# --- Hint points and references ----------------------------------------------------------------


def test_more_hints_are_better(photos, mini_pointhint_file):
    report = evaluate.main(settings(photos, mini_pointhint_file, hints=(1, 50)))
    rows = report["results"]["pointhint"]
    name = str(mini_pointhint_file)
    assert list(rows)[1:5] == [
        "kriging, 1 hint",
        f"{name}, 1 hint",
        "kriging, 50 hints",
        f"{name}, 50 hints",
    ]
    assert rows["kriging, 50 hints"]["psnr"] > rows["kriging, 1 hint"]["psnr"] + 1
    assert rows["kriging, 50 hints"]["psnr"] > rows["grey"]["psnr"] + 3
    for score in ("pev16", "bpsnr16", "pev32", "bpsnr32"):
        assert rows["grey"][score] > 0


def test_point_hint_models_have_no_published_finish(photos, mini_pointhint_file):
    with pytest.raises(ValueError, match="no published finish; use --finish ours"):
        evaluate.main(settings(photos, mini_pointhint_file, finish="published"))


def test_references_are_other_views_of_the_photo(photos, mini_exemplar_file):
    report = evaluate.main(settings(photos, mini_exemplar_file))
    rows = report["results"]["exemplar"]
    assert list(rows)[:2] == ["grey", "mean colour (Reinhard)"]
    assert rows[tasks.GROUND_TRUTH]["his"] > 0.7  # two views of one photo have similar colors
    assert rows["grey"]["his"] < 0.5
    assert report["protocol"]["settings"]["pairs"] == "self"


def test_references_from_a_list_of_pairs(photos, tmp_path, mini_exemplar_file):
    pairs = [
        {"target": "3.png", "reference": "1.png"},
        {"target": "0.png", "reference": "5.png"},
    ]
    path = tmp_path / "list.json"
    path.write_text(json.dumps(pairs))
    report = evaluate.main(settings(photos, mini_exemplar_file, pairs=str(path)))
    assert report["results"]["exemplar"]["grey"]["photos"] == 2


# --- Feature networks --------------------------------------------------------------------------


class MeanColors(nn.Module):
    """Stand-in for Inception and classifiers: a random projection of mean colors."""

    name = "inception_fid"

    def __init__(self, width: int):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("mix", torch.randn(3, width, generator=generator))

    def forward(self, rgb: torch.Tensor) -> torch.Tensor:
        return rgb.mean((2, 3)) @ self.mix


@pytest.fixture
def weights(monkeypatch, tmp_path):
    """A file that loads as `MeanColors` for `--inception` and `--classifier`."""
    monkeypatch.setattr(feature_networks, "load_inception", lambda path: MeanColors(4))
    monkeypatch.setattr(feature_networks, "load_classifier", lambda path: MeanColors(6))
    file = tmp_path / "weights.pth"
    file.write_bytes(b"weights")
    return str(file)


def test_fid_compares_the_sets(photos, mini_file, weights, capsys):
    report = evaluate.main(settings(photos, mini_file, inception=weights, batch=4))
    rows = report["results"]["automatic"]
    features = MeanColors(4)(torch.cat(list(tensors(photos).values()))).double().numpy()
    gray = [color.gray_rgb(color.lightness(rgb)) for rgb in tensors(photos).values()]
    other = MeanColors(4)(samples.quantize_8bit(torch.cat(gray))).double().numpy()
    means = features.mean(0) - other.mean(0)
    both = np.cov(features.T) @ np.cov(other.T)
    shared = np.sqrt(np.linalg.eigvals(both).real.clip(0)).sum()
    expected = means @ means + np.trace(np.cov(features.T) + np.cov(other.T)) - 2 * shared
    assert rows["grey"]["fid"] == pytest.approx(expected, abs=1e-5)
    assert rows[tasks.GROUND_TRUTH]["fid"] == pytest.approx(0, abs=1e-9)
    assert "FID of fewer than 2048 photos is too high" in capsys.readouterr().out
    assert list(report["missing"]) == ["top-1 and top-5"]
    assert report["protocol"]["judges"]["inception"].startswith("inception_fid ")


def test_missing_scores_are_named_once_with_the_remedy(automatic, photos, mini_file, capsys):
    evaluate.main(settings(photos, mini_file, limit=2))
    out = capsys.readouterr().out
    assert out.count("FID: not measured; give Inception's weights: --inception inception_fid") == 1
    assert out.count("top-1 and top-5: not measured; give a classifier") == 1
    assert "| FID" not in out
    assert list(automatic["missing"]) == ["FID", "top-1 and top-5"]
    assert "fid" not in automatic["results"]["automatic"]["grey"]


def test_accuracy_counts_photos_with_a_class(photos, mini_file, weights, tmp_path):
    ranked = {
        key: MeanColors(6)(rgb).argsort(descending=True)[0] for key, rgb in tensors(photos).items()
    }
    ranks = (("0", 0), ("1", 0), ("2", 4), ("4", 5))
    labels = tmp_path / "labels.csv"
    labels.write_text("key,class\n" + "\n".join(f"{key},{ranked[key][n]}" for key, n in ranks))
    report = evaluate.main(settings(photos, mini_file, classifier=weights, labels=labels))
    row = report["results"]["automatic"][tasks.GROUND_TRUTH]
    assert row["photos_with_class"] == 4
    assert (row["top1"], row["top5"]) == (50, 75)
    assert row["photos"] == 6


# --- Photos ------------------------------------------------------------------------------------


def test_shards_and_folders_give_the_same_scores(automatic, photos, mini_file, tmp_path):
    with tarfile.open(tmp_path / "a.tar", "w") as tar:
        for path in sorted(photos.glob("*.png")):
            info = tarfile.TarInfo(path.name)
            info.size = path.stat().st_size
            tar.addfile(info, io.BytesIO(path.read_bytes()))
    report = evaluate.main(settings(tmp_path / "a.tar", mini_file))
    assert report["results"] == automatic["results"]


def test_unreadable_photos_are_skipped_and_named(photos, mini_file, tmp_path, caplog):
    for path in photos.glob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "2.png").write_bytes((photos / "2.png").read_bytes()[:300])
    Image.new("RGB", (40, 32)).save(tmp_path / "small.png")
    path = tmp_path / "out" / "scores.json"
    report = evaluate.main(settings(tmp_path, mini_file, size=0, json=path))
    assert report["results"]["automatic"]["grey"]["photos"] == 5
    assert [name.rpartition("/")[2] for name in report["skipped"]] == ["2.png", "small.png"]
    assert caplog.text.count("small.png: 40x32 pixels; both sides must be at least 33") == 1
    assert json.loads(path.read_text())["skipped"] == report["skipped"]


def test_photos_keep_their_size_and_shape(photos, mini_file):
    report = evaluate.main(settings(photos, mini_file, size=0, limit=2))
    truth = samples.as_tensor(Photos([photos])[0])
    assert truth.shape == (1, 3, 48, 64)
    gray = samples.quantize_8bit(color.gray_rgb(color.lightness(truth)))
    psnr = report["results"]["automatic"]["grey"]["psnr"]
    assert psnr == pytest.approx(image_metrics.psnr(gray, truth).item(), abs=2)


def test_default_sizes_are_those_of_the_papers(photos, mini_file, mini_pointhint_file):
    def size(*models):
        config = settings(photos, *models, size=None, limit=1, hints=(1,))
        return evaluate.main(config)["protocol"]["settings"]["size"]

    assert size(mini_file) == 256
    assert size(mini_file, mini_pointhint_file) == 224


def test_published_results_must_have_the_size_of_the_photos(photos, mini_colorformer_file):
    side = 256  # ColorFormer's official result has the working size
    config = settings(
        photos, mini_colorformer_file, size=side, finish="published", resolution=0, limit=1
    )
    assert evaluate.main(config)["protocol"]["settings"]["finish"] == "published"
    with pytest.raises(ValueError, match=f"{side}x{side} pixels, but the size is 64. Give --size"):
        evaluate.main(settings(photos, mini_colorformer_file, finish="published", resolution=0))


# --- Reports -----------------------------------------------------------------------------------


def test_all_files_are_written(
    photos, mini_file, mini_colorformer_file, mini_exemplar_file, tmp_path
):
    files = {name: tmp_path / "out" / f"scores.{name}" for name in ("json", "csv")}
    config = settings(
        photos,
        *(mini_file, mini_colorformer_file, mini_exemplar_file),
        **files,
        sheet=tmp_path / "out" / "sheet.png",
    )
    report = evaluate.main(config)
    assert json.loads(files["json"].read_text()) == report
    protocol = report["protocol"]
    assert protocol["settings"]["photos"] == [photos.name]  # no folders of this machine
    assert protocol["settings"]["seed"] == 0
    assert len(protocol["networks"][str(mini_file)]["sha256"]) == 12
    assert {"colorist", "commit", "torch"} <= set(protocol["versions"])
    rows = list(csv.DictReader(files["csv"].open()))
    assert len(rows) == 6 * (5 + 4)
    psnr = [float(row["psnr"]) for row in rows if row["method"] == str(mini_file)]
    assert np.mean(psnr) == pytest.approx(report["results"]["automatic"][str(mini_file)]["psnr"])
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["scores.csv", "scores.json", "sheet-automatic.png", "sheet-exemplar.png"]
    with Image.open(tmp_path / "out" / "sheet-automatic.png") as sheet:
        assert sheet.width == 6 + 5 * (176 + 6)


def test_the_table_has_a_line_for_each_method(automatic):
    table = tables.to_markdown(automatic["results"]["automatic"]).splitlines()
    assert table[0] == (
        "| method | CF | delta-CF | CF, papers | delta-CF, papers | PSNR | SSIM | CIEDE2000 |"
    )
    assert len(table) == 6
    assert table[-1].startswith(f"| {tasks.GROUND_TRUTH} | ")
    assert table[-1].endswith("| - | - | - | - |")


def test_scores_are_stamped_into_the_metadata(photos, mini_file, mini_pointhint_file, tmp_path):
    models = []
    for source in (mini_file, mini_pointhint_file):
        models.append(tmp_path / source.name)
        models[-1].write_bytes(source.read_bytes())
    report = evaluate.main(settings(photos, *models, stamp=True, hints=(1, 10)))
    scores = registry.load(models[0])[2]["training"]["scores"]
    expected = report["results"]["automatic"][str(models[0])]
    assert scores["psnr"] == pytest.approx(expected["psnr"], abs=1e-3)
    assert (scores["photos"], scores["size"]) == (6, SIZE)
    scores = registry.load(models[1])[2]["training"]["scores"]
    expected = report["results"]["pointhint"][f"{models[1]}, 10 hints"]
    assert scores["10 hints"]["psnr"] == pytest.approx(expected["psnr"], abs=1e-3)


def test_published_checkpoints_cannot_be_stamped(photos, mini, monkeypatch):
    published = copy.copy(mini)
    published.info = {}
    monkeypatch.setattr(evaluate.loader, "load", lambda *_, **__: published)
    monkeypatch.setattr(evaluate, "score_task", None)  # the refusal comes first
    with pytest.raises(ValueError, match="theirs.pth: a published checkpoint has no metadata"):
        evaluate.main(settings(photos, "theirs.pth", stamp=True))


def test_invalid_settings_are_rejected(photos, mini_file):
    for changes, sentence in (
        ({"photos": ()}, "name at least one folder"),
        ({"finish": "official"}, "finish is 'official'; expected ours or published"),
        ({"finish": "published", "saturation": 1.2}, "leave them out, or use --finish ours"),
        ({"finish": "published", "fade": 5.0}, "leave them out, or use --finish ours"),
        ({"size": 20}, "size is 20; expected 0, or 33 or more"),
        ({"sheet": photos / "a.tar"}, "must end in .jpg"),
        ({"hints": (0, 10)}, "expected 1 or more"),
        ({"batch": 0}, "expected 1 or more"),
        ({"skip": -3}, "skip is -3; expected 0 or more"),
    ):
        with pytest.raises(ValueError, match=sentence):
            dataclasses.replace(settings(photos, mini_file), **changes)


def test_sheets_show_best_median_and_worst_photos(photos, mini_file, monkeypatch):
    sheet = {}

    def remember(rows, names, captions, headings):
        sheet.update(names=names, captions=captions, headings=headings)
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr(evaluate, "contact_sheet", remember)
    scores = TaskScores(indices=list(range(6)), keys=list("012345"))
    for name, shift in (("mean ab per lightness", 10.0), (str(mini_file), 0.0)):
        scores.add(name, {"psnr": shift + torch.tensor([20.0, 25, 22, 21, 24, 23])})
    config = settings(photos, mini_file)
    models = {str(mini_file): evaluate.loader.load(mini_file, device="cpu")}
    task = tasks.automatic(Photos([photos]), models, config, SIZE, {})
    evaluate.draw_sheet(task, scores, config, group=1)
    assert [row[0] for row in sheet["captions"]] == ["1", "5", "0"]
    assert sheet["captions"][0][1:] == ["35.0 dB", "25.0 dB", ""]
    assert sheet["headings"] == {0: f"Best by the PSNR of {mini_file}", 1: "Median", 2: "Worst"}
