"""The command line, as a user types it."""

import json
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest
from comfyui_colorist import cli
from comfyui_colorist.cli import jobs as cli_jobs
from comfyui_colorist.cli import options as cli_options
from comfyui_colorist.media import atomic, image_data, image_io
from PIL import Image


@pytest.fixture(scope="module")
def model(mini_file) -> list[str]:
    return ["--model", str(mini_file), "--resolution", "64", "--device", "cpu"]


def picture(path: Path, seed: int = 0, size: tuple[int, int] = (40, 30)) -> Path:
    path.parent.mkdir(parents=True, exist_ok=True)
    grey = np.random.default_rng(seed).integers(0, 256, (4, 4), np.uint8)
    Image.fromarray(grey).resize(size).save(path)
    return path


def run(*arguments: object) -> int:
    return cli.main([str(argument) for argument in arguments])


def tree(folder: Path) -> list[str]:
    return sorted(p.relative_to(folder).as_posix() for p in folder.rglob("*") if p.is_file())


def is_coloured(path: Path) -> bool:
    pixels = image_io.read(path).pixels
    return pixels.shape[2] >= 3 and np.ptp(pixels[..., :3], axis=2).max() > 0.02


# --- What goes where ---------------------------------------------------------------------------


def test_one_picture_to_a_name(tmp_path, model, capsys):
    assert (
        run("colorize", picture(tmp_path / "a.png"), "-o", tmp_path / "new" / "b.jpg", *model) == 0
    )
    assert is_coloured(tmp_path / "new" / "b.jpg")
    out, err = capsys.readouterr()
    assert out == ""
    assert err.startswith("[1/1] a.png ")
    assert err.endswith("1 written.\n")


def test_a_folder_is_mirrored(tmp_path, model, capsys):
    source, out = tmp_path / "in", tmp_path / "in" / "coloured"
    for name in ("a.jpg", "b.PNG", "sub/c.tif", "sub/deep/d.webp", "e.gif", "f.bmp"):
        picture(source / name)
    (source / "notes.txt").write_text("not a picture")
    (source / "._a.jpg").write_text("what macOS leaves on foreign disks")
    (source / "g.png").mkdir()
    assert run("colorize", source, "-o", out, *model) == 0
    written = ["a.jpg", "b.PNG", "e.png", "f.bmp", "sub/c.tif", "sub/deep/d.webp"]
    assert tree(out) == written
    assert all(is_coloured(out / name) for name in written)

    # Again: nothing to do, and the results inside IN are not taken for photos
    capsys.readouterr()
    assert run("colorize", source, "-o", out, *model) == 0
    assert tree(out) == written
    assert capsys.readouterr().err == "6 skipped.\n"


def test_finished_outputs_are_kept_unless_overwrite(tmp_path, model):
    source, out = picture(tmp_path / "a.png"), tmp_path / "out"
    out.mkdir()
    (out / "a.png").write_bytes(b"mine")
    assert run("colorize", source, "-o", out, *model) == 0
    assert (out / "a.png").read_bytes() == b"mine"
    assert run("colorize", source, "-o", out, *model, "--overwrite") == 0
    assert is_coloured(out / "a.png")
    (out / "a.png").write_bytes(b"")  # of another program's full disk; ours leaves none
    assert run("colorize", source, "-o", out, *model) == 0
    assert is_coloured(out / "a.png")


def test_the_same_file_twice_is_one_job(tmp_path):
    picture(tmp_path / "in" / "a.png")
    jobs = cli_jobs.plan([tmp_path / "in", tmp_path / "in" / "a.png"], tmp_path / "out")
    assert [job.target for job in jobs] == [tmp_path / "out" / "a.png"]


def test_sixteen_bits_and_alpha_survive(tmp_path, model):
    values = np.random.default_rng(0).integers(0, 65536, (30, 40, 1)).astype(np.float32) / 65535
    values = np.concatenate([values, values, values, 1 - values], axis=2)
    for name in ("a.png", "b.tif"):
        image_io.write(tmp_path / name, values, image_data.Keep(bits=16))
        assert run("colorize", tmp_path / name, "-o", tmp_path / "out", *model) == 0
        result = image_io.read(tmp_path / "out" / name)
        assert result.keep.bits == 16
        assert np.allclose(result.pixels[..., 3], values[..., 3], atol=1e-6)


def test_controls_reach_the_engine(tmp_path, model):
    source, grey = picture(tmp_path / "a.png"), tmp_path / "grey"
    assert run("colorize", source, "-o", grey, *model, "--strength", 0) == 0
    assert not is_coloured(grey / "a.png")
    mask = np.zeros((30, 40), np.uint8)
    mask[:, 20:] = 255
    Image.fromarray(mask).save(tmp_path / "mask.png")
    half = tmp_path / "half"
    assert run("colorize", source, "-o", half, *model, "--mask", tmp_path / "mask.png") == 0
    spread = np.ptp(image_io.read(half / "a.png").pixels, axis=2)
    assert spread[:, :20].max() < 0.01 < spread[:, 20:].max()
    published = tmp_path / "published"
    assert run("colorize", source, "-o", published, *model, "--finish", "published") == 0
    assert is_coloured(published / "a.png")


# --- Bad files, bad wishes ---------------------------------------------------------------------


def test_one_bad_file_does_not_stop_the_rest(tmp_path, model, capsys):
    source, out = tmp_path / "in", tmp_path / "out"
    picture(source / "a.png")
    (source / "b.jpg").write_text("hello")
    picture(source / "c.png")
    missing, empty = tmp_path / "missing.jpg", tmp_path / "empty"
    empty.mkdir()
    assert run("colorize", source, missing, empty, "-o", out, *model, "--json") == 1
    assert tree(out) == ["a.png", "c.png"]
    stdout, stderr = capsys.readouterr()
    assert "[2/5] failed: b.jpg: not a picture." in stderr
    assert "missing.jpg: no such file; expected a picture file." in stderr
    assert "empty: no pictures in this folder (.jpg," in stderr
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
    assert second["error"].startswith("b.jpg: not a picture.")


def test_full_disk(tmp_path, model, monkeypatch, capsys):
    def fail(_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(atomic.os, "fsync", fail)
    assert run("colorize", picture(tmp_path / "a.png"), "-o", tmp_path / "out", *model) == 1
    assert "failed: a.png: No space left on device." in capsys.readouterr().err
    assert tree(tmp_path / "out") == []


def refused(capsys, *arguments: object) -> str:
    """Exit code 2, and one line that says why."""
    assert run("colorize", *arguments) == 2
    out, err = capsys.readouterr()
    assert out == ""
    assert err.count("\n") == 1
    return err


def test_originals_are_never_overwritten(tmp_path, model, capsys):
    path = picture(tmp_path / "a.png")
    before = path.read_bytes()
    for given, out in ((path, path), (path, tmp_path), (tmp_path, tmp_path)):
        message = refused(capsys, given, "-o", out, *model, "--overwrite")
        assert "a.png is an input; originals are never overwritten. Change -o." in message
    (tmp_path / "link.png").symlink_to(path)
    assert "is an input" in refused(
        capsys, path, "-o", tmp_path / "link.png", "--overwrite", *model
    )
    assert path.read_bytes() == before


def test_two_pictures_with_one_output(tmp_path, model, capsys):
    first, second = picture(tmp_path / "a" / "x.jpg"), picture(tmp_path / "b" / "x.jpg")
    message = refused(capsys, first, second, "-o", tmp_path / "out", *model)
    assert f"{first} and {second} would both become" in message
    picture(tmp_path / "a" / "y.gif"), picture(tmp_path / "a" / "y.png")
    assert "would both become" in refused(capsys, tmp_path / "a", "-o", tmp_path / "out", *model)
    assert not (tmp_path / "out").exists()


def test_outputs_that_cannot_be(tmp_path, model, capsys):
    path, other = picture(tmp_path / "a.png"), picture(tmp_path / "b.png")
    (tmp_path / "file").write_text("x")
    for arguments, sentence in (
        ([path, other, "-o", tmp_path / "c.png"], "names one picture, but there are more to write"),
        ([tmp_path, "-o", tmp_path / "c.png"], "names one picture, but there are more to write"),
        ([path, "-o", tmp_path / "c.gif"], "pictures are written as .jpg, .jpeg"),
        ([path, "-o", tmp_path / "file"], "file is a file; name a folder, or a picture"),
        ([path, "-o", tmp_path / "file" / "out"], "cannot write into "),
        ([path, "-o", tmp_path / "file" / "c.png"], "cannot write into "),
    ):
        assert sentence in refused(capsys, *arguments, *model)


@pytest.mark.parametrize(
    ("options", "sentence"),
    [
        (["--model", "nonsense"], "nonsense: no such file, and no model of that name. At hand:"),
        (["--device", "toaster"], "--device toaster cannot be used (Expected one of"),
        (["--strength", "2"], "strength is 2.0; expected 0 to 1."),
        (["--upsample", "magic"], "upsample is 'magic'; expected one of"),
        (["--resolution", "0"], "resolution is 0; this network needs at least 32."),
        (["--resolution", "50", "--finish", "published"], "needs a multiple of 32."),
        (["--saturation", "2", "--finish", "published"], "leave out --saturation."),
        (["--mask", "m.png", "--finish", "published"], "leave out --mask."),
        (["--mask", "m.png"], "m.png: no such file; expected a picture file."),
    ],
)
def test_options_that_cannot_be(tmp_path, model, capsys, options, sentence):
    path = picture(tmp_path / "a.png")
    assert sentence in refused(capsys, path, "-o", tmp_path / "out", *model, *options)
    assert not (tmp_path / "out").exists()


def test_a_mask_of_another_size_fails_that_picture(tmp_path, model, capsys):
    path, mask = picture(tmp_path / "a.png"), picture(tmp_path / "m.png", size=(9, 9))
    assert run("colorize", path, "-o", tmp_path / "out", *model, "--mask", mask) == 1
    assert "failed: a.png: the mask has shape (1, 9, 9); expected" in capsys.readouterr().err


@pytest.mark.parametrize(
    "arguments", [[], ["paint"], ["colorize", "a.png"], ["models"], ["memory"]]
)
def test_usage_errors_leave_with_two(arguments, capsys):
    with pytest.raises(SystemExit) as left:
        run(*arguments)
    assert left.value.code == 2
    assert "usage: colorist" in capsys.readouterr().err


def test_dtypes_are_those_of_the_engine():
    from comfyui_colorist.pipeline import loader, postprocess

    assert set(cli_options.DTYPES) == set(loader.DTYPES)
    assert set(cli_options.CONTROLS) == set(postprocess.Finish.__dataclass_fields__)


# --- Color memories ----------------------------------------------------------------------------


@pytest.fixture(scope="module")
def colorformer(mini_colorformer_file) -> list[str]:
    return ["--model", str(mini_colorformer_file), "--device", "cpu"]


def color_photos(folder: Path, count: int = 4) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for index in range(count):
        small = Image.fromarray(rng.integers(0, 256, (2, 3, 3), np.uint8))
        small.resize((60, 40), Image.Resampling.NEAREST).save(folder / f"{index}.png")
    return folder


@pytest.fixture(scope="module")
def memory(tmp_path_factory, colorformer) -> Path:
    folder = tmp_path_factory.mktemp("memory")
    out = folder / "m.safetensors"
    assert run("memory", "build", color_photos(folder / "in"), "-o", out, *colorformer) == 0
    return out


def test_memory_build_and_show(tmp_path, memory, colorformer, capsys):
    from comfyui_colorist.pipeline.color_memory import memory as memories

    found = memories.load(memory)
    assert found.provenance["photos"] == 4
    assert run("memory", "show", memory) == 0
    out = capsys.readouterr().out
    assert out.startswith(found.describe() + "\nencoder: " + found.encoder)
    assert "projection: the network's own" in out
    assert run("memory", "show", memory, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["groups"], shown["key_width"]) == (4, 8)
    assert shown["provenance"] == found.provenance
    assert run("memory", "show", tmp_path / "no") == 2
    assert "no such file" in capsys.readouterr().err


def test_memory_build_of_bad_photos(tmp_path, colorformer, capsys):
    """What can be used is; the exit code tells that not all could."""
    source, out = color_photos(tmp_path / "in"), tmp_path / "new" / "m.safetensors"
    (source / "b.jpg").write_text("hello")
    picture(source / "grey.png")
    arguments = [source, source / "0.png", tmp_path / "missing.jpg", "-o", out, *colorformer]
    assert run("memory", "build", *arguments, "--json", "--entries", 3, "--seed", 5) == 1
    stdout, stderr = capsys.readouterr()
    found = json.loads(stdout)
    assert (found["output"], found["failed"]) == (str(out), 2)
    assert found["provenance"]["skipped"] == ["b.jpg", "missing.jpg"]
    assert (found["provenance"]["photos"], found["provenance"]["seed"]) == (4, 5)
    assert "[7/7] " in stderr and " photos/s\n" in stderr
    assert f"{out}: 3 entries of 4 colours, keys of width 8, 4 photos" in stderr
    assert "left out: 1 grey, 2 unreadable." in stderr
    assert out.is_file()


def test_memory_build_refusals(tmp_path, memory, model, colorformer, capsys):
    before, source = memory.read_bytes(), color_photos(tmp_path / "in")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    out = tmp_path / "m.safetensors"

    def said(code, *arguments: object) -> str:
        assert run("memory", "build", *arguments) == code
        return capsys.readouterr().err

    assert "must end in .safetensors" in said(2, source, "-o", tmp_path / "m.npy", *colorformer)
    assert "is there already" in said(2, source, "-o", memory, *colorformer)
    assert "no photos to build" in said(2, tmp_path / "empty", "-o", out, *colorformer)
    assert "no model of that name" in said(2, source, "-o", out, "--model", "nonsense")
    file = tmp_path / "file" / "m.safetensors"
    assert "cannot write into" in said(2, source, "-o", file, *colorformer)
    assert "has no color memory" in said(2, source, "-o", out, *model[:2], "--device", "cpu")
    assert "entries is 0" in said(2, source, "-o", out, *colorformer, "--entries", 0)
    for seed in (-1, 2**32):
        sentence = f"--seed is {seed}; expected 0 to 4294967295."
        assert sentence in said(2, source, "-o", out, *colorformer, "--seed", seed)
    folder = tmp_path / "folder.safetensors"
    folder.mkdir()
    sentence = "is a folder; give the name of a file."
    assert sentence in said(2, source, "-o", folder, *colorformer, "--overwrite")
    assert "none of the 1 photos" in said(1, tmp_path / "file", "-o", out, *colorformer)
    assert not out.exists()
    assert memory.read_bytes() == before
    assert run("memory", "build", source, "-o", memory, *colorformer, "--overwrite") == 0
    memory.write_bytes(before)


def test_memory_build_interrupted(tmp_path, colorformer, monkeypatch, capsys):
    from comfyui_colorist.pipeline.color_memory import clustering

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(clustering, "labelled", stop)
    source, out = color_photos(tmp_path / "in"), tmp_path / "out"
    assert run("memory", "build", source, "-o", out / "m.safetensors", *colorformer) == 130
    assert capsys.readouterr().err.endswith("stopped.\n")
    assert not out.exists()


def test_memory_build_passes_no_folder_over(tmp_path, colorformer, monkeypatch):
    """Its output is no folder of pictures, whatever folder the user is in."""
    from comfyui_colorist.pipeline.color_memory import memory as memories

    here = color_photos(tmp_path / "in" / "here")
    monkeypatch.chdir(here)
    out = tmp_path / "m.safetensors"
    assert run("memory", "build", "..", "-o", out, *colorformer) == 0
    assert memories.load(out).provenance["photos"] == 4


def test_memory_build_counts_a_photo_once(tmp_path, colorformer, monkeypatch):
    from comfyui_colorist.pipeline.color_memory import memory as memories

    source = color_photos(tmp_path / "in")
    (tmp_path / "link").symlink_to(source)
    monkeypatch.chdir(tmp_path)
    spellings = [source, "in", tmp_path / "in" / ".." / "in" / "0.png", "link"]
    out = tmp_path / "m.safetensors"
    assert run("memory", "build", *spellings, "-o", out, *colorformer) == 0
    assert memories.load(out).provenance["photos"] == 4


def test_memory_show_of_names_that_cannot_be_printed(tmp_path, memory, capsys):
    from dataclasses import replace

    from comfyui_colorist.pipeline.color_memory import memory as memories

    provenance = {"skipped": ["caf\udce9.jpg"]}  # Latin-1, as Python reads it from the disk
    out = tmp_path / "m.safetensors"
    memories.save(replace(memories.load(memory), provenance=provenance), out)
    assert run("memory", "show", out) == 0
    assert "skipped: caf\\udce9.jpg\n" in capsys.readouterr().out


def test_memory_by_name(tmp_path, memory, colorformer, monkeypatch, capsys):
    """Saved ones are found in the models folder, with and without their ending."""
    monkeypatch.setenv("COLORIST_MODELS", str(tmp_path / "models"))
    saved = tmp_path / "models" / "memories" / "town.v2.safetensors"
    assert run("memory", "show", "town.v2") == 2
    assert "At hand: none; saved memories lie in " in capsys.readouterr().err
    saved.parent.mkdir(parents=True)
    saved.write_bytes(memory.read_bytes())
    options = [picture(tmp_path / "a.png"), *colorformer, "--resolution", 64]
    for number, name in enumerate(("town.v2", "town.v2.safetensors", saved)):
        out = tmp_path / f"{number}.png"
        assert run("colorize", *options, "-o", out, "--memory", name) == 0
        assert run("memory", "show", name) == 0
        assert run("memory", "export", name, "-o", tmp_path / f"{number}") == 0
    results = [(tmp_path / f"{number}.png").read_bytes() for number in range(3)]
    assert results[0] == results[1] == results[2]
    capsys.readouterr()
    assert run("colorize", *options, "-o", tmp_path / "b.png", "--memory", "city") == 2
    message = capsys.readouterr().err
    assert "city: no such file, and no color memory of that name." in message
    assert "At hand: town.v2.safetensors; saved memories lie in " in message


def test_memory_export_writes_both_or_none(tmp_path, memory, monkeypatch, capsys):
    (tmp_path / "file").write_text("x")
    assert run("memory", "export", memory, "-o", tmp_path / "file") == 2
    assert "cannot write into " in capsys.readouterr().err
    folder = tmp_path / "folder"
    (folder / "semantic_embed.npy").mkdir(parents=True)
    assert run("memory", "export", memory, "-o", folder, "--overwrite") == 2
    assert "semantic_embed.npy is a folder" in capsys.readouterr().err
    assert tree(folder) == []

    replace, full = atomic.os.fsync, []

    def fail_at_the_second(number):
        full.append(number)
        if len(full) == 2:
            raise OSError(28, "No space left on device")
        replace(number)

    monkeypatch.setattr(atomic.os, "fsync", fail_at_the_second)
    assert run("memory", "export", memory, "-o", tmp_path / "out") == 2
    assert "No space left on device" in capsys.readouterr().err
    assert tree(tmp_path / "out") == []


def test_memory_to_npy_and_back(tmp_path, memory, colorformer, model, capsys):
    assert run("memory", "export", memory, "-o", tmp_path / "npy") == 0
    assert tree(tmp_path / "npy") == ["color_embed.npy", "semantic_embed.npy"]
    pair = [tmp_path / "npy" / name for name in tree(tmp_path / "npy")]
    out = tmp_path / "m.safetensors"
    assert run("memory", "import", *pair, *colorformer[:2], "-o", out) == 0
    source = picture(tmp_path / "a.png")
    options = ["-o", tmp_path / "b.png", *colorformer, "--resolution", 64, "--memory", out]
    assert run("colorize", source, *options) == 0
    for sentence, arguments in (
        ("color_embed.npy is there already; give", ["export", memory, "-o", tmp_path / "npy"]),
        ("is there already; give another", ["import", *pair, *colorformer[:2], "-o", out]),
        ("with 3 dim", ["import", *pair[::-1], *colorformer[:2], "-o", out, "--overwrite"]),
        ("has no color memory", ["import", *pair, *model[:2], "-o", out, "--overwrite"]),
    ):
        capsys.readouterr()
        assert run("memory", *arguments) == 2
        assert sentence in capsys.readouterr().err


def test_colorize_with_a_memory(tmp_path, memory, colorformer, model, capsys):
    source, small = picture(tmp_path / "a.png"), ["--resolution", 64]
    assert run("colorize", source, "-o", tmp_path / "own.png", *colorformer, *small) == 0
    options = ["-o", tmp_path / "other.png", *small, "--memory", memory]
    assert run("colorize", source, *options, *colorformer) == 0
    own, other = (image_io.read(tmp_path / name).pixels for name in ("own.png", "other.png"))
    assert np.abs(own - other).max() > 0.02
    out = tmp_path / "out.png"
    capsys.readouterr()
    assert "has no color memory; choose" in refused(
        capsys, source, "-o", out, *model, "--memory", memory
    )
    assert "holds no color memory" in refused(
        capsys, source, "-o", out, *colorformer, "--memory", colorformer[1]
    )


def test_variations(tmp_path, memory, colorformer, capsys):
    source, out = picture(tmp_path / "in" / "a.png"), tmp_path / "out"
    picture(tmp_path / "in" / "sub" / "b.jpg", 1)
    options = ["-o", out, *colorformer, "--resolution", 64, "--count", 3, "--spread", 1, "--json"]
    assert run("variations", tmp_path / "in", *options) == 0
    names = [f"a-{i}.png" for i in (1, 2, 3)] + [f"sub/b-{i}.jpg" for i in (1, 2, 3)]
    assert tree(out) == names
    stdout, stderr = capsys.readouterr()
    assert json.loads(stdout)["files"][0]["outputs"] == [str(out / name) for name in names[:3]]
    assert stderr.endswith("2 written.\n")
    results = [image_io.read(out / name).pixels for name in names[:3]]
    assert all(np.abs(a - b).max() > 0.02 for a, b in zip(results, results[1:], strict=False))

    # One missing: it alone is written, as it was
    (out / "a-2.png").unlink()
    assert run("variations", tmp_path / "in", *options) == 0
    assert "1 written, 1 skipped." in capsys.readouterr().err
    assert np.array_equal(image_io.read(out / "a-2.png").pixels, results[1])

    # Another seed and memory give others, which replace nothing without --overwrite
    (out / "a-2.png").unlink()
    before = [(out / name).read_bytes() for name in ("a-1.png", "a-3.png")]
    others = [*options, "--seed", 9, "--memory", memory]
    assert run("variations", source, *others) == 0
    assert [(out / name).read_bytes() for name in ("a-1.png", "a-3.png")] == before
    other = (out / "a-2.png").read_bytes()
    assert not np.array_equal(image_io.read(out / "a-2.png").pixels, results[1])
    assert run("variations", source, *others, "--overwrite") == 0
    assert (out / "a-1.png").read_bytes() != before[0]
    assert (out / "a-2.png").read_bytes() == other


def test_variations_beside_the_original(tmp_path, colorformer, capsys):
    """Their names are not the picture's; but one of them may be another input's."""
    source, small = picture(tmp_path / "a.png"), [*colorformer, "--resolution", 64, "--count", 2]
    before = source.read_bytes()
    assert run("variations", source, "-o", tmp_path, *small) == 0
    assert tree(tmp_path) == ["a-1.png", "a-2.png", "a.png"]
    assert source.read_bytes() == before
    result = (tmp_path / "a-1.png").read_bytes()
    capsys.readouterr()
    both = [source, tmp_path / "a-1.png"]
    assert run("variations", *both, "-o", tmp_path, *small, "--overwrite") == 2
    assert "a-1.png is an input; originals are never overwritten" in capsys.readouterr().err
    assert (tmp_path / "a-1.png").read_bytes() == result


def test_variations_that_cannot_be(tmp_path, model, colorformer, capsys):
    source, out = picture(tmp_path / "a.png"), tmp_path / "out"

    def message(*arguments: object) -> str:
        assert run("variations", source, *arguments) == 2
        return capsys.readouterr().err

    assert "has no color memory and so but one result" in message("-o", out, *model)
    assert "names one picture; name a folder" in message("-o", tmp_path / "b.png", *colorformer)
    assert "--count is 0; expected 1 to 64" in message("-o", out, *colorformer, "--count", 0)
    assert "--count is 65; expected 1 to 64" in message("-o", out, *colorformer, "--count", 65)
    assert "--seed is -1; expected 0 or more" in message("-o", out, *colorformer, "--seed", -1)
    assert "spread is 2.0; expected 0" in message("-o", out, *colorformer, "--spread", 2)
    assert not out.exists()


def test_a_count_of_variations_is_checked_before_their_names_are_made(
    tmp_path, monkeypatch, capsys
):
    def outputs(*_):
        raise AssertionError("100000000 names")

    monkeypatch.setattr(cli_jobs.Job, "outputs", outputs)
    source = picture(tmp_path / "a.png")
    assert run("variations", source, "-o", tmp_path / "out", "--count", 100_000_000) == 2
    assert "--count is 100000000; expected 1 to 64 results." in capsys.readouterr().err


# --- Stopping ----------------------------------------------------------------------------------


def test_interruption_keeps_what_is_done(tmp_path, model, monkeypatch, capsys):
    for name in "abc":
        picture(tmp_path / "in" / f"{name}.png")
    replace, calls = atomic.os.replace, []

    def stop_at_the_second(source, target):
        calls.append(target)
        if len(calls) == 2:
            raise KeyboardInterrupt
        replace(source, target)

    monkeypatch.setattr(atomic.os, "replace", stop_at_the_second)
    out = tmp_path / "out"
    assert run("colorize", tmp_path / "in", "-o", out, *model, "--json") == 130
    assert tree(out) == ["a.png"]
    stdout, stderr = capsys.readouterr()
    assert [entry["status"] for entry in json.loads(stdout)["files"]] == [
        "written",
        *["waiting"] * 2,
    ]
    assert "stopped;" in stderr
    assert run("colorize", tmp_path / "in", "-o", out, *model) == 0
    assert tree(out) == ["a.png", "b.png", "c.png"]


def code(root: Path, then: str) -> str:
    script = str(root / "trainers" / "_standalone.py")
    start = f"import runpy, sys; runpy.run_path({script!r})['package']()"
    return f"{start}; from comfyui_colorist import cli; {then}"


def command(root: Path, *arguments: object) -> list[str]:
    """A real process; `python -m` would need an installed package."""
    return [sys.executable, "-c", code(root, "sys.exit(cli.main())"), *map(str, arguments)]


@pytest.mark.skipif(sys.platform == "win32", reason="SIGINT cannot be sent there")
def test_real_process_and_real_interruption(tmp_path, root, model):
    for index in range(200):
        picture(tmp_path / "in" / f"{index}.png", index, (300, 300))
    out = tmp_path / "out"
    process = subprocess.Popen(
        command(root, "colorize", tmp_path / "in", "-o", out, *model),
        stderr=subprocess.PIPE,
        text=True,
    )
    deadline = time.monotonic() + 60
    while not list(out.glob("*.png")) and time.monotonic() < deadline:
        time.sleep(0.02)
    process.send_signal(signal.SIGINT)
    stderr = process.communicate(timeout=60)[1]
    assert process.returncode == 130, stderr
    assert "Traceback" not in stderr
    done = list(out.iterdir())
    assert 0 < len(done) < 200
    assert all(path.suffix == ".png" and not path.name.startswith(".") for path in done)
    for path in done:
        image_io.read(path)


def test_help_is_instant(root):
    heavy = "cli._parser(); print(sorted({'torch', 'numpy', 'PIL', 'av'} & set(sys.modules)))"
    arguments = [sys.executable, "-c", code(root, heavy)]
    found = subprocess.run(arguments, capture_output=True, text=True, check=True)
    assert found.stdout.strip() == "[]"


def test_version(capsys):
    import comfyui_colorist

    with pytest.raises(SystemExit) as left:
        run("--version")
    assert left.value.code == 0
    assert capsys.readouterr().out == f"colorist {comfyui_colorist.__version__}\n"


# --- train, evaluate ---------------------------------------------------------------------------


def test_train_hands_its_settings_on(monkeypatch, capsys):
    from comfyui_colorist.trainers import train_ddcolor

    seen = []
    monkeypatch.setattr(train_ddcolor, "main", seen.append)
    assert run("train", "ddcolor", "--photos", "a", "b", "--steps", 7) == 0
    assert seen[0].photos == ("a", "b")
    assert seen[0].steps == 7
    with pytest.raises(SystemExit) as left:
        run("train", "ddcolor", "--help")
    assert left.value.code == 0
    assert "--learning-rate" in capsys.readouterr().out


def test_evaluate_hands_its_settings_on(monkeypatch, capsys):
    from comfyui_colorist.trainers import evaluate

    seen = []
    monkeypatch.setattr(evaluate, "main", seen.append)
    assert run("evaluate", "--photos", "a", "--model", "m.pth") == 0
    assert (seen[0].photos, seen[0].model) == ((Path("a"),), ("m.pth",))
    with pytest.raises(SystemExit) as left:
        run("evaluate", "--help")
    assert left.value.code == 0
    assert "usage: colorist evaluate" in capsys.readouterr().out


def test_unknown_options_are_refused(capsys):
    with pytest.raises(SystemExit) as left:
        run("models", "list", "--fast")
    assert left.value.code == 2
    assert "unrecognized arguments: --fast" in capsys.readouterr().err


def test_train_reports_missing_photos(tmp_path, capsys):
    assert run("train", "ddcolor", "--photos", tmp_path / "no", "--out", tmp_path / "run") == 1
    assert "colorist: error: " in capsys.readouterr().err


def test_default_networks_are_in_the_box():
    from comfyui_colorist.model_store import paths

    assert {cli_options.DEFAULT_MODEL, cli_options.DEFAULT_COLORFORMER} <= set(paths.boxed())


def test_a_memory_goes_with_the_network_it_needs(tmp_path, capsys):
    """No --model: the boxed network with a memory; a network without one is refused by name."""
    photos, memory = color_photos(tmp_path / "in"), tmp_path / "m.safetensors"
    assert run("memory", "build", photos, "-o", memory) == 0
    assert run("colorize", photos, "-o", tmp_path / "out", "--memory", memory) == 0
    model = ("--model", "ddcolor-nano")
    assert run("colorize", photos, "-o", tmp_path / "no", "--memory", memory, *model) == 2
    assert "ddcolor-nano.safetensors has no color memory" in capsys.readouterr().err
