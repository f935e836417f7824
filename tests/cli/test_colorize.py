"""`colorist colorize`, as a user types it."""

import json
import os
import runpy
import struct
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest
import torch
from comfyui_colorist.cli import jobs as cli_jobs
from comfyui_colorist.cli import options as cli_options
from comfyui_colorist.media import atomic, image_data, image_io
from comfyui_colorist.ops import color
from PIL import Image

helpers = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("helpers.py"))))
make_image = helpers.make_image
run = helpers.run
list_files = helpers.list_files
is_colorized = helpers.is_colorized
color_photos = helpers.color_photos


def test_single_image_with_output_name(tmp_path, model, capsys):
    assert (
        run("colorize", make_image(tmp_path / "a.png"), "-o", tmp_path / "new" / "b.jpg", *model)
        == 0
    )
    assert is_colorized(tmp_path / "new" / "b.jpg")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("[1/1] a.png ")
    assert err.endswith("1 written.\n")


def test_folder_tree_is_repeated(tmp_path, model, capsys):
    source, out = tmp_path / "in", tmp_path / "in" / "colorized"
    for name in ("a.jpg", "b.PNG", "sub/c.tif", "sub/deep/d.webp", "e.gif", "f.bmp"):
        make_image(source / name)
    (source / "notes.txt").write_text("not an image")
    (source / "._a.jpg").write_text("what macOS leaves on foreign disks")
    (source / "g.png").mkdir()
    assert run("colorize", source, "-o", out, *model) == 0
    written = ["a.jpg", "b.PNG", "e.png", "f.bmp", "sub/c.tif", "sub/deep/d.webp"]
    assert list_files(out) == written
    assert all(is_colorized(out / name) for name in written)

    # Again: nothing to do, and the results inside IN are not taken for photos
    capsys.readouterr()
    assert run("colorize", source, "-o", out, *model) == 0
    assert list_files(out) == written
    assert capsys.readouterr().err == "6 skipped.\n"


def test_existing_outputs_are_kept_unless_overwrite(tmp_path, model):
    source, out = make_image(tmp_path / "a.png"), tmp_path / "out"
    out.mkdir()
    (out / "a.png").write_bytes(b"mine")
    assert run("colorize", source, "-o", out, *model) == 0
    assert (out / "a.png").read_bytes() == b"mine"
    assert run("colorize", source, "-o", out, *model, "--overwrite") == 0
    assert is_colorized(out / "a.png")
    (out / "a.png").write_bytes(b"")  # of another program's full disk; ours leaves none
    assert run("colorize", source, "-o", out, *model) == 0
    assert is_colorized(out / "a.png")


def test_repeated_input_is_one_job(tmp_path):
    make_image(tmp_path / "in" / "a.png")
    jobs = cli_jobs.plan_jobs([tmp_path / "in", tmp_path / "in" / "a.png"], tmp_path / "out")
    assert [job.target for job in jobs] == [tmp_path / "out" / "a.png"]


def test_bit_depth_and_alpha_are_kept(tmp_path, model):
    values = np.random.default_rng(0).integers(0, 65536, (30, 40, 1)).astype(np.float32) / 65535
    values = np.concatenate([values, values, values, 1 - values], axis=2)
    for name in ("a.png", "b.tif"):
        image_io.write_image(tmp_path / name, values, image_data.ImageMetadata(bit_depth=16))
        assert run("colorize", tmp_path / name, "-o", tmp_path / "out", *model) == 0
        result = image_io.read_image(tmp_path / "out" / name)
        assert result.metadata.bit_depth == 16
        assert np.allclose(result.pixels[..., 3], values[..., 3], atol=1e-6)


def test_finish_options_reach_the_engine(tmp_path, model):
    source, gray = make_image(tmp_path / "a.png"), tmp_path / "gray"
    assert run("colorize", source, "-o", gray, *model, "--strength", 0) == 0
    assert not is_colorized(gray / "a.png")
    mask = np.zeros((30, 40), np.uint8)
    mask[:, 20:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    half = tmp_path / "half"
    assert run("colorize", source, "-o", half, *model, "--mask", tmp_path / "mask.png") == 0
    spread = np.ptp(image_io.read_image(half / "a.png").pixels, axis=2)
    assert spread[:, :20].max() < 0.01 < spread[:, 20:].max()
    published = tmp_path / "published"
    assert run("colorize", source, "-o", published, *model, "--finish", "published") == 0
    assert is_colorized(published / "a.png")


def test_one_bad_file_does_not_stop_the_rest(tmp_path, model, capsys):
    source, out = tmp_path / "in", tmp_path / "out"
    make_image(source / "a.png")
    (source / "b.jpg").write_text("hello")
    make_image(source / "c.png")
    missing, empty = tmp_path / "missing.jpg", tmp_path / "empty"
    empty.mkdir()
    assert run("colorize", source, missing, empty, "-o", out, *model, "--json") == 1
    assert list_files(out) == ["a.png", "c.png"]
    stdout, stderr = capsys.readouterr()
    assert "[2/5] failed: b.jpg: not an image." in stderr
    assert "missing.jpg: no such file; expected an image file." in stderr
    assert "empty: no images or videos in this folder (.jpg," in stderr
    assert "2 written, 3 failed." in stderr
    found = json.loads(stdout)
    assert [entry["status"] for entry in found["files"]] == [
        *("written", "failed", "written"),
        *("failed", "failed"),
    ]
    assert (found["written"], found["skipped"], found["failed"]) == (2, 0, 3)
    first, second = found["files"][:2]
    assert first["input"] == str(source / "a.png")
    assert first["output"] == str(out / "a.png")
    assert first["error"] is None
    assert first["seconds"] > 0
    assert second["error"].startswith("b.jpg: not an image.")


def test_full_disk(tmp_path, model, monkeypatch, capsys):
    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", fail)
    assert run("colorize", make_image(tmp_path / "a.png"), "-o", tmp_path / "out", *model) == 1
    assert "failed: a.png: No space left on device; free some space" in capsys.readouterr().err
    assert list_files(tmp_path / "out") == []


def refused(capsys, *arguments: object) -> str:
    """Exit code 2, and one line that says why."""
    assert run("colorize", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_originals_are_never_overwritten(tmp_path, model, capsys):
    path = make_image(tmp_path / "a.png")
    before = path.read_bytes()
    for given, out in ((path, path), (path, tmp_path), (tmp_path, tmp_path)):
        message = refused(capsys, given, "-o", out, *model, "--overwrite")
        assert "a.png is an input; originals are never overwritten. Change -o." in message
    (tmp_path / "link.png").symlink_to(path)
    assert "is an input" in refused(
        capsys, path, "-o", tmp_path / "link.png", "--overwrite", *model
    )
    assert path.read_bytes() == before


def test_two_images_with_the_same_output(tmp_path, model, capsys):
    first, second = make_image(tmp_path / "a" / "x.jpg"), make_image(tmp_path / "b" / "x.jpg")
    others = make_image(tmp_path / "a" / "y.jpg"), make_image(tmp_path / "b" / "y.jpg")
    message = refused(capsys, first, second, *others, "-o", tmp_path / "out", *model)
    assert f"{first} and {second} would both be written to" in message
    assert f"{others[0]} and {others[1]} would both be written to" in message
    assert not (tmp_path / "out").exists()


def planned(folder: Path, *names: str, **options) -> dict[str, str]:
    for name in names:
        make_image(folder / name)
    jobs = cli_jobs.plan_jobs([folder], folder.parent / "out", **options)
    return {job.source.name: job.target.name for job in jobs}


def test_images_of_one_folder_with_the_same_output(tmp_path, model, capsys):
    source, out = tmp_path / "in", tmp_path / "out"
    names = {"a.gif": "a.gif.png", "a.png": "a.png", "b.png": "b.png", "c.gif": "c.png"}
    assert planned(source, *names) == names
    capsys.readouterr()
    assert run("colorize", source, "-o", out, *model) == 0
    assert list_files(out) == ["a.gif.png", "a.png", "b.png", "c.png"]
    report = (
        "named after the full name of the input, because another one has the same output: "
        f"{source / 'a.gif'} -> a.gif.png\n"
    )
    assert capsys.readouterr().err.startswith(report)
    (out / "a.png").unlink()  # the names do not depend on what is finished
    assert run("colorize", source, "-o", out, *model) == 0
    assert list_files(out) == ["a.gif.png", "a.png", "b.png", "c.png"]
    assert capsys.readouterr().err.endswith("1 written, 3 skipped.\n")


def test_names_of_clashing_outputs(tmp_path):
    names = ("a.gif", "a.gif.png", "a.pgm", "a.ppm")
    assert planned(tmp_path / "x" / "in", *names) == {
        "a.gif": "a.gif.png.png",  # a.gif.png is the name of another image
        "a.gif.png": "a.gif.png",
        "a.pgm": "a.pgm.png",
        "a.ppm": "a.ppm.png",
    }
    numbered = cli_jobs.numbered_outputs(2)
    assert planned(tmp_path / "y" / "in", "a.gif", "a.png", naming=numbered) == {
        "a.gif": "a.gif.png",  # a.gif-1.png, a.gif-2.png
        "a.png": "a.png.png",
    }
    assert planned(tmp_path / "z" / "in", "a.gif", "a.png", page=2) == {
        "a.gif": "a.gif-page2.png",
        "a.png": "a-page2.png",
    }


def test_videos_of_one_folder_with_the_same_output(tmp_path):
    videos = [tmp_path / "a.avi", tmp_path / "a.mp4"]
    for video in videos:
        video.write_bytes(b"x")
    jobs = cli_jobs.plan_jobs(videos, tmp_path / "out")
    assert [job.target.name for job in jobs] == ["a.avi.mp4", "a.mp4"]
    jobs = cli_jobs.plan_jobs(videos, tmp_path / "out", frames=True)
    assert [job.target.name for job in jobs] == ["a.avi", "a.mp4"]


def test_page_of_a_multi_page_tiff(tmp_path, model, capsys):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    pages = [Image.new("L", (40, 30), value) for value in (0, 128, 255)]
    pages[0].save(source / "a.tif", save_all=True, append_images=pages[1:])
    make_image(source / "b.png")
    for page in (2, 3):
        assert run("colorize", source, "-o", out, *model, "--page", page, "--strength", 0) == 1
        message = f"b.png, page {page}: no such page; only TIFF files have pages."
        assert message in capsys.readouterr().err
    assert list_files(out) == ["a-page2.tif", "a-page3.tif"]
    for page, level in ((2, 128), (3, 255)):
        pixels = image_io.read_image(out / f"a-page{page}.tif").pixels
        assert np.abs(pixels * 255 - level).max() < 1
    single = ["-o", tmp_path / "first.png", "--page", 1]
    assert run("colorize", source / "a.tif", *single, *model) == 0
    assert (tmp_path / "first.png").exists()
    capsys.readouterr()
    with pytest.raises(SystemExit, match="2"):
        run("colorize", source, "-o", out, *model, "--page", 0)
    assert "argument --page: 0; expected a number from 1, or all" in capsys.readouterr().err
    (tmp_path / "x.mkv").write_bytes(b"x")
    wrong = refused(capsys, tmp_path / "x.mkv", "-o", out, *model, "--page", 1)
    assert "--page is for TIFF images" in wrong


def test_formats_that_are_not_read_are_mentioned(tmp_path, model, capsys):
    make_image(tmp_path / "in" / "a.png")
    for name in ("b.CR2", "c.cr2", "d.psd", "notes.txt"):
        (tmp_path / "in" / name).write_bytes(b"8BPS")
    assert run("colorize", tmp_path / "in", "-o", tmp_path / "out", *model) == 0
    stderr = capsys.readouterr().err
    assert "in: formats that are not read are left out: 2 .cr2, 1 .psd.\n" in stderr
    assert run("colorize", tmp_path / "in" / "d.psd", "-o", tmp_path / "out", *model) == 1
    assert "failed: d.psd: a Photoshop document, which cannot be read" in capsys.readouterr().err


def test_results_name_their_model(tmp_path, model):
    source = make_image(tmp_path / "a.png")
    for number, (options, is_named) in enumerate(
        [([], True), (["--no-provenance"], False), (["--strength", 0], False)]
    ):
        out = tmp_path / f"{number}.png"
        assert run("colorize", source, "-o", out, *model, *options) == 0
        xmp = image_io.read_image(out).metadata.xmp
        name = Path(model[1]).name.encode()
        assert (b"colors inferred by " + name in xmp) is is_named
        assert bool(xmp) is is_named


@pytest.mark.parametrize(("bits", "tolerance"), [(8, 0.5), (16, 0.005)])
def test_lightness_is_that_of_the_photo(tmp_path, model, bits, tolerance):
    """The gray photo can be recovered from a colorized one."""
    photo = np.random.default_rng(0).uniform(0.02, 0.98, (30, 40, 1)).astype(np.float32)
    metadata = image_data.ImageMetadata(bit_depth=bits)
    image_io.write_image(tmp_path / "gray.png", photo, metadata)
    colored, recovered = tmp_path / "colored.png", tmp_path / "recovered.png"
    assert run("colorize", tmp_path / "gray.png", "-o", colored, *model, "--saturation", 2) == 0
    assert is_colorized(colored)
    assert run("colorize", colored, "-o", recovered, *model, "--saturation", 0) == 0

    def lightness(path: Path) -> np.ndarray:
        pixels = torch.from_numpy(image_io.read_image(path).pixels).movedim(-1, 0)
        return color.lightness(pixels.expand(3, -1, -1)).numpy()

    original = lightness(tmp_path / "gray.png")
    assert np.abs(lightness(colored) - original).max() < tolerance
    gray = image_io.read_image(tmp_path / "gray.png").pixels
    levels = np.rint((image_io.read_image(recovered).pixels - gray) * (2**bits - 1))
    assert np.abs(levels).max() <= 1


def test_all_pages_of_multi_page_tiffs(tmp_path, model, capsys):
    source, out = tmp_path / "in", tmp_path / "out"
    source.mkdir()
    pages = [Image.new("L", (40, 30), value) for value in (0, 128, 255)]
    pages[0].save(source / "a.tif", save_all=True, append_images=pages[1:])
    data = bytearray((source / "a.tif").read_bytes())
    with Image.open(source / "a.tif") as image:
        image.seek(1)
        offset = image.tag_v2[273][0]
        place = data.index(struct.pack("<HHII", 273, 4, 1, offset))
    data[place + 8 : place + 12] = b"\xff\xff\xff\x7f"  # the pixels of the second page
    (source / "a.tif").write_bytes(data)
    pages[1].save(source / "b.tif")
    (source / "c.tif").write_bytes(b"II*\0 cut")
    command = ("colorize", source, "-o", out, *model, "--page", "all", "--strength", 0, "--json")
    assert run(*command) == 1
    printed = capsys.readouterr()
    assert "a.tif, page 3 " in printed.err
    assert "failed: a.tif, page 2: damaged or cut short (" in printed.err
    assert "failed: c.tif: damaged or cut short (" in printed.err
    assert list_files(out) == ["a-page1.tif", "a-page3.tif", "b.tif"]
    records = json.loads(printed.out)["files"]
    assert [(record.get("page"), record["status"]) for record in records] == [
        *((1, "written"), (2, "failed"), (3, "written"), (None, "written"), (None, "failed"))
    ]
    for page, level in ((1, 0), (3, 255)):
        pixels = image_io.read_image(out / f"a-page{page}.tif").pixels
        assert np.abs(pixels * 255 - level).max() < 1
    single = (source / "a.tif", "-o", tmp_path / "x.png", *model, "--page", "all")
    assert "is the name of a single image, but " in refused(capsys, *single)
    assert run("colorize", source / "b.tif", *single[1:]) == 0


def test_a_multi_page_tiff_without_page_is_its_first_page(tmp_path, model, capsys):
    pages = [Image.new("L", (40, 30), value) for value in (10, 128, 255)]
    pages[0].save(tmp_path / "a.tif", save_all=True, append_images=pages[1:])
    assert run("colorize", tmp_path / "a.tif", "-o", tmp_path / "out", *model) == 0
    assert (
        "warning: a.tif: page 1 of 3 is read, 40x30; 2 other pages are as large. "
        "Choose with --page N or --page all.\n"
    ) in capsys.readouterr().err


@pytest.mark.skipif(not hasattr(os, "mkfifo"), reason="no named pipes")
def test_pipes_are_refused(tmp_path, model, capsys):
    source = tmp_path / "in"
    make_image(source / "a.png")
    for name in ("b.png", "c.mkv", "model.pth"):
        os.mkfifo(source / name)
    images = (source, source / "c.mkv", "-o", tmp_path / "out")
    assert run("colorize", *images, *model) == 1
    stderr = capsys.readouterr().err
    assert "failed: b.png: not an ordinary file; expected an image file." in stderr
    assert "failed: c.mkv: not an ordinary file; expected a video" in stderr
    assert stderr.endswith("1 written, 2 failed.\n")
    message = refused(capsys, *images, "--model", source / "model.pth")
    assert "model.pth: " in message


def test_killed_runs_leave_nothing_for_long(tmp_path, model):
    """Unfinished files go with the next run, even if it has nothing to write."""
    source, out = make_image(tmp_path / "a.png"), tmp_path / "out"
    assert run("colorize", source, "-o", out, *model) == 0
    (out / ".colorist-0123456789abcdef.part").write_bytes(b"half an image")
    assert run("colorize", source, "-o", out, *model) == 0
    assert list_files(out) == ["a.png"]


def test_invalid_outputs(tmp_path, model, capsys):
    path, other = make_image(tmp_path / "a.png"), make_image(tmp_path / "b.png")
    (tmp_path / "file").write_text("x")
    for arguments, sentence in (
        (
            [path, other, "-o", tmp_path / "c.png"],
            "is the name of a single image, but there are more to write",
        ),
        (
            [tmp_path, "-o", tmp_path / "c.png"],
            "is the name of a single image, but there are more to write",
        ),
        ([path, "-o", tmp_path / "c.gif"], "images are written as .jpg, .jpeg"),
        ([path, "-o", tmp_path / "file"], "file is a file; name a folder, or an image"),
        ([path, "-o", tmp_path / "file" / "out"], "cannot write into "),
        ([path, "-o", tmp_path / "file" / "c.png"], "cannot write into "),
    ):
        assert sentence in refused(capsys, *arguments, *model)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--model", "nonsense"], "nonsense: no such file, and no model of that name. Installed:"),
        (["--model", ""], "the name of the model is empty. Put checkpoints into "),
        (["--device", "toaster"], "--device toaster cannot be used (Expected one of"),
        (["--strength", "2"], "strength is 2.0; expected 0 to 1."),
        (["--upsample", "magic"], "upsample is 'magic'; expected one of"),
        (["--resolution", "0"], "resolution is 0; this network needs at least 32."),
        (["--resolution", "50", "--finish", "published"], "needs a multiple of 32."),
        (["--saturation", "2", "--finish", "published"], "leave out --saturation."),
        (["--mask", "m.png", "--finish", "published"], "leave out --mask."),
        (["--mask", "m.png"], "m.png: no such file; expected an image file."),
    ],
)
def test_invalid_options(tmp_path, model, capsys, options, sentence):
    path = make_image(tmp_path / "a.png")
    assert sentence in refused(capsys, path, "-o", tmp_path / "out", *model, *options)
    assert not (tmp_path / "out").exists()


def test_mask_of_another_size_fails_that_image(tmp_path, model, capsys):
    path, mask = make_image(tmp_path / "a.png"), make_image(tmp_path / "m.png", size=(9, 9))
    assert run("colorize", path, "-o", tmp_path / "out", *model, "--mask", mask) == 1
    assert "failed: a.png: the mask has shape (1, 9, 9); expected" in capsys.readouterr().err


def test_options_match_the_engine():
    from comfyui_colorist.pipeline import loader, postprocess

    assert set(cli_options.DTYPES) == set(loader.DTYPES)
    assert set(cli_options.FINISH_FIELDS) == set(postprocess.Finish.__dataclass_fields__)


def test_colorize_with_a_memory(tmp_path, memory, colorformer, model, capsys):
    source, small = make_image(tmp_path / "a.png"), ["--resolution", 64]
    assert run("colorize", source, "-o", tmp_path / "own.png", *colorformer, *small) == 0
    options = ["-o", tmp_path / "other.png", *small, "--memory", memory]
    assert run("colorize", source, *options, *colorformer) == 0
    own, other = (image_io.read_image(tmp_path / name).pixels for name in ("own.png", "other.png"))
    assert np.abs(own - other).max() > 0.02
    out = tmp_path / "out.png"
    capsys.readouterr()
    assert "has no color memory; choose" in refused(
        capsys, source, "-o", out, *model, "--memory", memory
    )
    assert "not a color memory" in refused(
        capsys, source, "-o", out, *colorformer, "--memory", colorformer[1]
    )


def test_memory_selects_a_model_with_memory(tmp_path, capsys):
    """No --model: the boxed network with a memory; a network without one is refused by name."""
    photos, memory = color_photos(tmp_path / "in"), tmp_path / "m.safetensors"
    assert run("memory", "build", photos, "-o", memory) == 0
    assert run("colorize", photos, "-o", tmp_path / "out", "--memory", memory) == 0
    model = ("--model", "ddcolor-nano")
    assert run("colorize", photos, "-o", tmp_path / "no", "--memory", memory, *model) == 2
    assert "ddcolor-nano.safetensors has no color memory" in capsys.readouterr().err


def test_interruption_keeps_finished_outputs(tmp_path, model, monkeypatch, capsys):
    for name in "abc":
        make_image(tmp_path / "in" / f"{name}.png")
    replace, calls = atomic.os.replace, []

    def stop_at_the_second(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(atomic.os, "replace", stop_at_the_second)
    out = tmp_path / "out"
    assert run("colorize", tmp_path / "in", "-o", out, *model, "--json") == 130
    assert list_files(out) == ["a.png"]
    stdout, stderr = capsys.readouterr()
    assert [entry["status"] for entry in json.loads(stdout)["files"]] == [
        "written",
        *["waiting"] * 2,
    ]
    assert "stopped;" in stderr
    assert run("colorize", tmp_path / "in", "-o", out, *model) == 0
    assert list_files(out) == ["a.png", "b.png", "c.png"]
