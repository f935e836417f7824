"""Evaluation: what is compared with what, the numbers of a set, and what is written."""

import copy
import csv
import dataclasses
import io
import json
import logging
import tarfile
import zlib

import numpy as np
import pytest
import torch
from comfyui_colorist.metrics import image as image_metrics
from comfyui_colorist.model_defs import registry
from comfyui_colorist.ops import color
from comfyui_colorist.trainers import evaluate
from comfyui_colorist.trainers.data.photos import Photos
from comfyui_colorist.trainers.evaluation import contact_sheet, scorers, tables, tasks
from PIL import Image
from torch import nn

SIZE = 64


def settings(photos, *models, **changes) -> evaluate.Config:
    values = {"photos": (photos,), "model": tuple(map(str, models)), "size": SIZE, "device": "cpu"}
    values["resolution"] = SIZE
    return evaluate.Config(**values | changes)


def pictures(photos) -> dict[str, torch.Tensor]:
    """Key -> (1, 3, SIZE, SIZE)."""
    found = Photos([photos])
    return {
        key: tasks.squashed(found[i], SIZE)[None]
        for i, key in enumerate(found.keys)
    }  # fmt: skip


@pytest.fixture(scope="module")
def automatic(photos, mini_file):
    """One evaluation that several tests look at."""
    return evaluate.main(settings(photos, mini_file))


# --- Numbers -----------------------------------------------------------------------------------


def test_scores_are_means_over_photos(automatic, photos, mini_file, mini):
    rows = automatic["results"]["automatic"]
    assert list(rows) == ["grey", "mean ab per lightness", str(mini_file), tasks.TRUTH]
    values, grey = [], []
    for true in pictures(photos).values():
        gray = color.gray_rgb(color.lightness(true))
        made = mini.colorize(gray.movedim(1, -1), resolution=SIZE).movedim(-1, 1)
        made = (255 * made).round() / 255
        values.append(
            [image_metrics.psnr(made, true).item(), image_metrics.ciede2000(made, true).item()]
        )
        grey.append(image_metrics.ssim((255 * gray).round() / 255, true).item())
    psnr, difference = np.mean(values, axis=0)
    assert rows[str(mini_file)]["psnr"] == pytest.approx(psnr, abs=1e-3)
    assert rows[str(mini_file)]["ciede2000"] == pytest.approx(difference, abs=1e-3)
    assert rows["grey"]["ssim"] == pytest.approx(np.mean(grey), abs=1e-6)
    assert rows["grey"]["photos"] == 6


def test_delta_colorfulness_is_between_means_as_in_the_papers():
    found = evaluate.Findings(keys=["a", "b"])
    for name, values in ((tasks.TRUTH, [10.0, 50.0]), ("net", [40.0, 30.0])):
        found.add(name, {"colorfulness": torch.tensor(values)})
    row = found.summary()["net"]
    assert row["delta_colorfulness"] == pytest.approx(5)
    assert row["photo_delta_colorfulness"] == pytest.approx(25)


def test_the_photos_themselves_are_right(automatic):
    row = automatic["results"]["automatic"][tasks.TRUTH]
    assert (row["psnr"], row["ssim"], row["ciede2000"]) == pytest.approx((50, 1, 0))
    assert row["delta_colorfulness"] == 0


@pytest.mark.parametrize("batch", [1, 4])
def test_batches_do_not_matter(automatic, photos, mini_file, batch):
    found = evaluate.main(settings(photos, mini_file, batch=batch))
    for name, row in automatic["results"]["automatic"].items():
        assert found["results"]["automatic"][name] == pytest.approx(row, abs=2e-3)


def test_a_photos_own_colours_are_not_in_its_table(photos):
    """Its lightnesses and colours are its own: what others teach says nothing about them."""
    all_photos = [rgb[0] for rgb in pictures(photos).values()]
    red = torch.full((3, 8, 8), 0.9) * torch.tensor([1.0, 0.1, 0.1])[:, None, None]
    means = tasks.Means.of([*all_photos, red]) - tasks.Means.of([red])
    others = tasks.Means.of(all_photos)
    torch.testing.assert_close(means.total, others.total)
    painted = tasks.Means.of([red]).painted(color.gray_rgb(color.lightness(red[None])))
    torch.testing.assert_close(painted, red[None], atol=2e-2, rtol=0)


# --- Points and references ---------------------------------------------------------------------


def test_hints_are_drawn_as_in_the_field():
    """Cells of 2x2 by the photo's name, the number and the seed; their mean colour."""
    true = torch.rand(3, 20, 31, generator=torch.Generator().manual_seed(0))
    hints = tasks.random_hints(true, 7, "harbour", 3)
    rng = np.random.default_rng([3, zlib.crc32(b"harbour"), 7])
    cells = rng.choice(10 * 15, size=7, replace=False)
    lab = color.rgb_to_lab(true)
    for hint, cell in zip(hints, cells, strict=True):
        y, x = 2 * (cell // 15), 2 * (cell % 15)
        assert (hint.x * 31, hint.y * 20) == pytest.approx((x + 1, y + 1))
        expected = lab[1:, y : y + 2, x : x + 2].mean((1, 2)).tolist()
        assert hint.ab == pytest.approx(expected, abs=1.5)  # 8 bits
    assert hints == tasks.random_hints(true, 7, "harbour", 3)
    assert hints != tasks.random_hints(true, 7, "market", 3)
    assert len(tasks.random_hints(true, 1000, "harbour", 3)) == 150


def test_more_hints_are_better(photos, mini_pointhint_file):
    found = evaluate.main(settings(photos, mini_pointhint_file, hints=(1, 50)))
    rows = found["results"]["pointhint"]
    name = str(mini_pointhint_file)
    assert list(rows)[1:5] == ["kriging, 1 hint", f"{name}, 1 hint", "kriging, 50 hints",
                               f"{name}, 50 hints"]  # fmt: skip
    assert rows["kriging, 50 hints"]["psnr"] > rows["kriging, 1 hint"]["psnr"] + 1
    assert rows["kriging, 50 hints"]["psnr"] > rows["grey"]["psnr"] + 3
    for score in ("pev16", "bpsnr16", "pev32", "bpsnr32"):
        assert rows["grey"][score] > 0


def test_networks_for_points_have_no_published_picture(photos, mini_pointhint_file):
    with pytest.raises(ValueError, match="networks for points do not have; use finish ours"):
        evaluate.main(settings(photos, mini_pointhint_file, finish="published"))


def test_references_are_other_views_of_the_photo(photos, mini_exemplar_file):
    found = evaluate.main(settings(photos, mini_exemplar_file))
    rows = found["results"]["exemplar"]
    assert list(rows)[:2] == ["grey", "mean colour (Reinhard)"]
    assert rows[tasks.TRUTH]["his"] > 0.7  # two views of one photo have like colours
    assert rows["grey"]["his"] < 0.5
    assert found["protocol"]["settings"]["pairs"] == "self"


def test_views_share_the_middle():
    pixels = np.zeros((50, 100, 3), np.uint8)
    pixels[..., 0] = 2 * np.arange(100)
    target, reference = tasks.views(Image.fromarray(pixels), 0, "a", 0)
    assert target.shape == reference.shape == (3, 40, 62)
    columns = (255 * target[0, 0] / 2).round(), (255 * reference[0, 0].flip(0) / 2).round()
    assert columns[0].tolist() == list(range(62))
    assert columns[1].tolist() == list(range(38, 100))
    again = tasks.views(Image.fromarray(pixels), 0, "a", 0)
    assert torch.equal(again[1], reference)


def test_pairs_of_all_kinds_of_files(photos, tmp_path, mini_exemplar_file, caplog):
    gallery = Photos([photos])
    listed = tmp_path / "list.json"
    listed.write_text(json.dumps([{"target": "3.png", "reference": "1.png"},
                                  {"target": "0.png", "reference": "5.png"}]))  # fmt: skip
    lines = tmp_path / "pairs.tsv"
    lines.write_text("# comment\n3.png\t1.png\tnote\n\nsome/where/0.png\t5.png\n")
    table = tmp_path / "table.json"
    top = [[5, 1], [], [], [1, 0]]
    table.write_text(json.dumps({"version": 1, "keys": list("0123") + ["4", "5"],
                                 "top": top + [[], []]}))  # fmt: skip
    assert tasks.read_pairs(listed, gallery) == [(3, 1), (0, 5)]
    assert tasks.read_pairs(lines, gallery) == [(3, 1), (0, 5)]
    assert tasks.read_pairs(table, gallery) == [(0, 5), (3, 1)]
    found = evaluate.main(settings(photos, mini_exemplar_file, pairs=str(listed)))
    assert found["results"]["exemplar"]["grey"]["photos"] == 2

    lines.write_text("3.png\t1.png\n3.png\t2.png\nelse.png\t1.png\n")
    with caplog.at_level(logging.WARNING):
        assert tasks.read_pairs(lines, gallery) == [(3, 1)]  # the first of a target
    assert "2 of 3 pairs are left out" in caplog.text


@pytest.mark.parametrize(
    ("name", "text", "sentence"),
    [
        ("a.json", "[1]", "not a list of pairs"),
        ("a.json", "{", "not a list of pairs"),
        ("a.tsv", "3.png 1.png", "not a list of pairs"),
        ("a.tsv", "else.png\tother.png", "not one of its pairs is among the photos"),
    ],
)
def test_files_that_are_no_pairs_are_refused(photos, tmp_path, name, text, sentence):
    (tmp_path / name).write_text(text)
    with pytest.raises(ValueError, match=sentence):
        tasks.read_pairs(tmp_path / name, Photos([photos]))


# --- Judges ------------------------------------------------------------------------------------


class Look(nn.Module):
    """Stands in for Inception and for a classifier: looks at mean colours."""

    name = "inception_fid"

    def __init__(self, width: int):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.register_buffer("mix", torch.randn(3, width, generator=generator))

    def forward(self, rgb: torch.Tensor) -> torch.Tensor:
        return rgb.mean((2, 3)) @ self.mix


@pytest.fixture
def judged(monkeypatch, tmp_path):
    """Makes `--inception` and `--classifier` of this file work."""
    monkeypatch.setattr(scorers, "open_judge", lambda kind, path: Look(4 if kind[0] == "i" else 6))
    file = tmp_path / "judge.pth"
    file.write_bytes(b"weights")
    return str(file)


def test_fid_is_between_the_sets(photos, mini_file, judged, capsys):
    found = evaluate.main(settings(photos, mini_file, inception=judged, batch=4))
    rows = found["results"]["automatic"]
    features = Look(4)(torch.cat(list(pictures(photos).values()))).double().numpy()
    gray = [color.gray_rgb(color.lightness(rgb)) for rgb in pictures(photos).values()]
    other = Look(4)(tasks.eight_bits(torch.cat(gray))).double().numpy()
    means = features.mean(0) - other.mean(0)
    both = np.cov(features.T) @ np.cov(other.T)
    shared = np.sqrt(np.linalg.eigvals(both).real.clip(0)).sum()
    expected = means @ means + np.trace(np.cov(features.T) + np.cov(other.T)) - 2 * shared
    assert rows["grey"]["fid"] == pytest.approx(expected, abs=1e-5)
    assert rows[tasks.TRUTH]["fid"] == pytest.approx(0, abs=1e-9)
    assert "FID of fewer than 2048 photos is too high" in capsys.readouterr().out
    assert list(found["missing"]) == ["top-1 and top-5"]
    assert found["protocol"]["judges"]["inception"].startswith("inception_fid ")


def test_what_is_missing_is_told_once_with_the_way_to_get_it(automatic, photos, mini_file, capsys):
    evaluate.main(settings(photos, mini_file, limit=2))
    said = capsys.readouterr().out
    assert said.count("FID: not measured; give Inception's weights: --inception inception_fid") == 1
    assert said.count("top-1 and top-5: not measured; give a classifier") == 1
    assert "| FID" not in said
    assert list(automatic["missing"]) == ["FID", "top-1 and top-5"]
    assert "fid" not in automatic["results"]["automatic"]["grey"]


def test_top_1_and_5_count_photos_with_a_class(photos, mini_file, judged, tmp_path):
    truth = {key: Look(6)(rgb).argsort(descending=True)[0] for key, rgb in pictures(photos).items()}
    rows = [f"{key},{truth[key][rank]}" for key, rank in (("0", 0), ("1", 0), ("2", 4), ("4", 5))]
    labels = tmp_path / "labels.csv"
    labels.write_text("key,class\n" + "\n".join(rows))
    found = evaluate.main(settings(photos, mini_file, classifier=judged, labels=labels))
    row = found["results"]["automatic"][tasks.TRUTH]
    assert row["photos_with_class"] == 4
    assert (row["top1"], row["top5"]) == (50, 75)
    assert row["photos"] == 6


def shard(path, members: dict[str, bytes]):
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_classes_are_found_beside_photos_and_in_folders(photos, tmp_path):
    files = sorted(photos.glob("*.png"))
    members = {f"{p.stem}.png": p.read_bytes() for p in files} | {"0.cls": b"3\n", "5.cls": b"0"}
    tar = shard(tmp_path / "a.tar", members)
    assert scorers.classes_of(Photos([tar]), [tar], None, 4) == [3, None, None, None, None, 0]
    for i, path in enumerate(files):
        folder = tmp_path / "set" / ("n02", "n01", "n03")[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / path.name).write_bytes(path.read_bytes())
    gallery = Photos([tmp_path / "set"])
    classes = scorers.classes_of(gallery, [tmp_path / "set"], None, 3)
    assert classes == [("n01", "n02", "n03").index(folder) for folder in gallery.folders]
    assert set(classes) == {0, 1, 2}
    with pytest.raises(ValueError, match=r"not known: there are no .cls .*3 folders for 4 classes"):
        scorers.classes_of(gallery, [tmp_path / "set"], None, 4)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("photo,class\n0,1", "has columns photo, class; expected key,class"),
        ("key,class\n0,cat", "a class is no whole number .*cat"),
        ("key,class\nelse,1", "names none of the photos"),
        ("key,class\n0,4", "go from 4 to 4; the classifier has 4, 0 to 3"),
    ],
)
def test_labels_that_cannot_be_used_are_refused(photos, tmp_path, text, sentence):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        scorers.classes_of(Photos([photos]), [photos], tmp_path / "labels.csv", 4)


# --- Photos ------------------------------------------------------------------------------------


def test_shards_and_folders_give_the_same_numbers(automatic, photos, mini_file, tmp_path):
    members = {path.name: path.read_bytes() for path in sorted(photos.glob("*.png"))}
    found = evaluate.main(settings(shard(tmp_path / "a.tar", members), mini_file))
    assert found["results"] == automatic["results"]


def test_photos_that_cannot_be_read_are_skipped_and_named(photos, mini_file, tmp_path, caplog):
    for path in photos.glob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    (tmp_path / "2.png").write_bytes((photos / "2.png").read_bytes()[:300])
    Image.new("RGB", (40, 32)).save(tmp_path / "small.png")
    report = tmp_path / "out" / "scores.json"
    found = evaluate.main(settings(tmp_path, mini_file, size=0, json=report))
    assert found["results"]["automatic"]["grey"]["photos"] == 5
    assert [path.rpartition("/")[2] for path in found["skipped"]] == ["2.png", "small.png"]
    assert caplog.text.count("small.png: 40x32 pixels; 33 are needed") == 1
    assert json.loads(report.read_text())["skipped"] == found["skipped"]


def test_photos_are_chosen(photos, mini_file, tmp_path):
    for path in photos.glob("*.png"):
        (tmp_path / path.name).write_bytes(path.read_bytes())
    Image.new("RGB", (64, 48), "grey").save(tmp_path / "1.png")
    gallery, skipped = Photos([tmp_path]), {}

    def chosen(**changes):
        return tasks.chosen(gallery, settings(tmp_path, mini_file, **changes), skipped)

    assert chosen() == [0, 1, 2, 3, 4, 5]
    assert chosen(min_chroma=4.0) == [0, 2, 3, 4, 5]
    assert chosen(min_chroma=4.0, limit=2) == [0, 2]
    assert chosen(skip=4, limit=5) == [4, 5]
    with pytest.raises(ValueError, match="no photos left of 6; lower --skip or --min-chroma"):
        chosen(min_chroma=120.0)


def test_photos_keep_their_own_size_and_shape(photos, mini_file):
    found = evaluate.main(settings(photos, mini_file, size=0, limit=2))
    true = tasks.as_tensor(Photos([photos])[0])
    assert true.shape == (1, 3, 48, 64)
    gray = tasks.eight_bits(color.gray_rgb(color.lightness(true)))
    grey = found["results"]["automatic"]["grey"]["psnr"]
    assert grey == pytest.approx(image_metrics.psnr(gray, true).item(), abs=2)


def test_sizes_are_those_of_the_papers(photos, mini_file, mini_pointhint_file):
    def size(*models):
        config = settings(photos, *models, size=None, limit=1, hints=(1,))
        return evaluate.main(config)["protocol"]["settings"]["size"]

    assert size(mini_file) == 256
    assert size(mini_file, mini_pointhint_file) == 224


def test_published_pictures_have_the_photos_size(photos, mini_colorformer_file):
    side = 256  # ColorFormer's official picture is of its working size
    found = evaluate.main(
        settings(
            photos, mini_colorformer_file, size=side, finish="published", resolution=0, limit=1
        )
    )
    assert found["protocol"]["settings"]["finish"] == "published"
    with pytest.raises(ValueError, match=f"{side}x{side} pixels, but the size is 64. Give --size"):
        evaluate.main(settings(photos, mini_colorformer_file, finish="published", resolution=0))


# --- What is written ---------------------------------------------------------------------------


def test_everything_is_written(
    photos, mini_file, mini_colorformer_file, mini_exemplar_file, tmp_path
):
    files = {name: tmp_path / "out" / f"scores.{name}" for name in ("json", "csv")}
    config = settings(
        photos,
        *(mini_file, mini_colorformer_file, mini_exemplar_file),
        **files,
        sheet=tmp_path / "out" / "sheet.png",
    )
    found = evaluate.main(config)
    assert json.loads(files["json"].read_text()) == found
    protocol = found["protocol"]
    assert protocol["settings"]["photos"] == [photos.name]  # no folders of this machine
    assert protocol["settings"]["seed"] == 0
    assert len(protocol["networks"][str(mini_file)]["sha256"]) == 12
    assert {"colorist", "commit", "torch"} <= set(protocol["versions"])
    rows = list(csv.DictReader(files["csv"].open()))
    assert len(rows) == 6 * (5 + 4)
    mine = [float(row["psnr"]) for row in rows if row["method"] == str(mini_file)]
    assert np.mean(mine) == pytest.approx(found["results"]["automatic"][str(mini_file)]["psnr"])
    names = sorted(path.name for path in (tmp_path / "out").iterdir())
    assert names == ["scores.csv", "scores.json", "sheet-automatic.png", "sheet-exemplar.png"]
    with Image.open(tmp_path / "out" / "sheet-automatic.png") as sheet:
        assert sheet.width == 6 + 5 * (176 + 6)


def test_the_table_has_a_line_for_each_method(automatic, capsys):
    table = tables.table(automatic["results"]["automatic"]).splitlines()
    assert table[0] == "| method | CF | delta-CF | PSNR | SSIM | CIEDE2000 |"
    assert len(table) == 6
    assert table[-1].startswith(f"| {tasks.TRUTH} | ") and table[-1].endswith("| - | - | - | - |")


def test_scores_are_stamped_into_the_metadata(photos, mini_file, mini_pointhint_file, tmp_path):
    models = []
    for source in (mini_file, mini_pointhint_file):
        models.append(tmp_path / source.name)
        models[-1].write_bytes(source.read_bytes())
    found = evaluate.main(settings(photos, *models, stamp=True, hints=(1, 10)))
    scores = registry.load(models[0])[2]["training"]["scores"]
    expected = found["results"]["automatic"][str(models[0])]
    assert scores["psnr"] == pytest.approx(expected["psnr"], abs=1e-3)
    assert (scores["photos"], scores["size"]) == (6, SIZE)
    scores = registry.load(models[1])[2]["training"]["scores"]
    expected = found["results"]["pointhint"][f"{models[1]}, 10 hints"]
    assert scores["10 hints"]["psnr"] == pytest.approx(expected["psnr"], abs=1e-3)


def test_files_of_others_are_refused_before_the_work(photos, mini, monkeypatch):
    foreign = copy.copy(mini)
    foreign.info = {}  # as of published files
    monkeypatch.setattr(evaluate.loader, "load", lambda *_, **__: foreign)
    monkeypatch.setattr(evaluate, "run", None)
    with pytest.raises(ValueError, match="theirs.pth: not a file of ours"):
        evaluate.main(settings(photos, "theirs.pth", stamp=True))


def test_settings_that_cannot_be_are_refused(photos, mini_file):
    for changes, sentence in (
        ({"photos": ()}, "name at least one folder"),
        ({"finish": "official"}, "finish is 'official'; expected ours or published"),
        ({"finish": "published", "saturation": 1.2}, "leave out the one or the other"),
        ({"finish": "published", "fade": 5.0}, "leave out the one or the other"),
        ({"size": 20}, "size is 20; expected 0, or 33 or more"),
        ({"sheet": photos / "a.tar"}, "must end in .jpg"),
        ({"hints": (0, 10)}, "expected 1 or more"),
        ({"batch": 0}, "expected 1 or more"),
        ({"skip": -3}, "skip is -3; expected 0 or more"),
    ):
        with pytest.raises(ValueError, match=sentence):
            dataclasses.replace(settings(photos, mini_file), **changes)


# --- Contact sheets ----------------------------------------------------------------------------


def test_contact_sheets_have_names_headings_and_captions():
    rows = [[torch.zeros(1, 3, 20, 40), torch.ones(1, 3, 10, 20)]] * 3
    bare = contact_sheet.contact_sheet(rows)
    assert bare.size == (6 + 2 * 182, 6 + 3 * (88 + 6))
    named = contact_sheet.contact_sheet(
        rows, ["a", "two words " * 12], [["x", "y"]] * 3, {0: "Best", 2: "Worst"}
    )
    assert named.width == bare.width
    assert named.height > bare.height + 3 * 13 + 2 * 13
    assert np.asarray(named)[:14, :20].min() < 100  # letters of the first name


def test_long_names_keep_their_end():
    font = contact_sheet.ImageFont.load_default(13)
    (line,) = contact_sheet._lines(
        "runs/of/many/networks/with/long/names/weights.safetensors", 150, font
    )
    assert line.startswith("\u2026") and line.endswith("weights.safetensors")
    assert font.getlength(line) <= 150


def test_sheets_show_best_middle_and_worst(photos, mini_file, monkeypatch):
    seen = {}

    def remember(rows, names, captions, headings):
        seen.update(names=names, captions=captions, headings=headings)
        return Image.new("RGB", (1, 1))

    monkeypatch.setattr(evaluate, "contact_sheet", remember)
    found = evaluate.Findings(places=list(range(6)), keys=list("012345"))
    for name, shift in (("mean ab per lightness", 10.0), (str(mini_file), 0.0)):
        found.add(name, {"psnr": shift + torch.tensor([20.0, 25, 22, 21, 24, 23])})
    config = settings(photos, mini_file)
    engines = {str(mini_file): evaluate.loader.load(mini_file, device="cpu")}
    study = tasks.automatic(Photos([photos]), engines, config, SIZE, {})
    evaluate.sheet(study, found, config, each=1)
    assert [row[0] for row in seen["captions"]] == ["1", "5", "0"]
    assert seen["captions"][0][1:] == ["35.0 dB", "25.0 dB", ""]
    assert seen["headings"] == {
        0: f"Best by the PSNR of {mini_file}", 1: "In the middle", 2: "Worst"
    }  # fmt: skip


def test_pictures_are_written_by_suffix(tmp_path):
    contact_sheet.save(Image.new("RGB", (3, 3)), tmp_path / "a.jpg")
    assert Image.open(tmp_path / "a.jpg").format == "JPEG"
    with pytest.raises(ValueError, match="must end in .jpg, .jpeg, .png, .webp"):
        contact_sheet.save(Image.new("RGB", (3, 3)), tmp_path / "a.tar")
