"""`colorist memory`, as a user types it."""

import json
import runpy
from pathlib import Path
from types import SimpleNamespace

from comfyui_colorist.media import atomic, image_io

helpers = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("helpers.py"))))
make_image = helpers.make_image
run = helpers.run
list_files = helpers.list_files
color_photos = helpers.color_photos


def test_build_and_show(tmp_path, memory, colorformer, capsys):
    from comfyui_colorist.pipeline.color_memory import memory as memories

    result = memories.load_memory(memory)
    assert result.provenance["photos"] == 4
    assert run("memory", "show", memory) == 0
    out = capsys.readouterr().out
    assert out.startswith(result.describe() + "\nencoder: " + result.encoder)
    assert "projection: the network's own" in out
    assert run("memory", "show", memory, "--json") == 0
    shown = json.loads(capsys.readouterr().out)
    assert (shown["groups"], shown["key_width"]) == (4, 8)
    assert shown["provenance"] == result.provenance
    assert run("memory", "show", tmp_path / "no") == 2
    assert "no such file" in capsys.readouterr().err


def test_build_leaves_out_bad_photos(tmp_path, colorformer, capsys):
    """What can be used is; the exit code tells that not all could."""
    source, out = color_photos(tmp_path / "in"), tmp_path / "new" / "m.safetensors"
    (source / "b.jpg").write_text("hello")
    make_image(source / "gray.png")
    arguments = [source, source / "0.png", tmp_path / "missing.jpg", "-o", out, *colorformer]
    assert run("memory", "build", *arguments, "--json", "--entries", 3, "--seed", 5) == 1
    stdout, stderr = capsys.readouterr()
    result = json.loads(stdout)
    assert (result["output"], result["failed"]) == (str(out), 2)
    assert result["provenance"]["skipped"] == ["b.jpg", "missing.jpg"]
    assert (result["provenance"]["photos"], result["provenance"]["seed"]) == (4, 5)
    assert " 7/7 [" in stderr and " photos/s]" in stderr
    assert f"{out}: 3 entries of 4 colors, keys of width 8, 4 photos" in stderr
    assert "left out: 1 gray, 2 unreadable." in stderr
    assert out.is_file()


def test_build_usage_errors(tmp_path, memory, model, colorformer, capsys):
    before, source = memory.read_bytes(), color_photos(tmp_path / "in")
    (tmp_path / "empty").mkdir()
    (tmp_path / "file").write_text("x")
    out = tmp_path / "m.safetensors"

    def said(code, *arguments: object) -> str:
        assert run("memory", "build", *arguments) == code
        return capsys.readouterr().err

    assert "must end in .safetensors" in said(2, source, "-o", tmp_path / "m.npy", *colorformer)
    assert "already exists" in said(2, source, "-o", memory, *colorformer)
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


def test_build_interrupted(tmp_path, colorformer, monkeypatch, capsys):
    from comfyui_colorist.pipeline.color_memory import clustering

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(clustering, "assign_and_average", stop)
    source, out = color_photos(tmp_path / "in"), tmp_path / "out"
    assert run("memory", "build", source, "-o", out / "m.safetensors", *colorformer) == 130
    assert capsys.readouterr().err.endswith("stopped.\n")
    assert not out.exists()


def test_build_skips_no_folder(tmp_path, colorformer, monkeypatch):
    """Its output is no folder of pictures, whatever folder the user is in."""
    from comfyui_colorist.pipeline.color_memory import memory as memories

    here = color_photos(tmp_path / "in" / "here")
    monkeypatch.chdir(here)
    out = tmp_path / "m.safetensors"
    assert run("memory", "build", "..", "-o", out, *colorformer) == 0
    assert memories.load_memory(out).provenance["photos"] == 4


def test_build_counts_each_photo_once(tmp_path, colorformer, monkeypatch):
    from comfyui_colorist.pipeline.color_memory import memory as memories

    source = color_photos(tmp_path / "in")
    (tmp_path / "link").symlink_to(source)
    monkeypatch.chdir(tmp_path)
    spellings = [source, "in", tmp_path / "in" / ".." / "in" / "0.png", "link"]
    out = tmp_path / "m.safetensors"
    assert run("memory", "build", *spellings, "-o", out, *colorformer) == 0
    assert memories.load_memory(out).provenance["photos"] == 4


def test_show_escapes_undecodable_names(tmp_path, memory, capsys):
    from dataclasses import replace

    from comfyui_colorist.pipeline.color_memory import memory as memories

    provenance = {"skipped": ["caf\udce9.jpg"]}  # Latin-1, as Python reads it from the disk
    out = tmp_path / "m.safetensors"
    memories.save_memory(replace(memories.load_memory(memory), provenance=provenance), out)
    assert run("memory", "show", out) == 0
    assert "skipped: caf\\udce9.jpg\n" in capsys.readouterr().out


def test_saved_memory_by_name(tmp_path, memory, colorformer, monkeypatch, capsys):
    """Saved ones are found in the models folder, with and without their ending."""
    monkeypatch.setenv("COLORIST_MODELS", str(tmp_path / "models"))
    saved = tmp_path / "models" / "memories" / "town.v2.safetensors"
    assert run("memory", "show", "town.v2") == 2
    assert "Installed: none. Saved color memories are in " in capsys.readouterr().err
    saved.parent.mkdir(parents=True)
    saved.write_bytes(memory.read_bytes())
    options = [make_image(tmp_path / "a.png"), *colorformer, "--resolution", 64]
    for number, name in enumerate(("town.v2", "town.v2.safetensors", saved)):
        out = tmp_path / f"{number}.png"
        assert run("colorize", *options, "-o", out, "--memory", name) == 0
        assert run("memory", "show", name) == 0
        assert run("memory", "export", name, "-o", tmp_path / f"{number}") == 0
    results = [image_io.read_image(tmp_path / f"{number}.png").pixels for number in range(3)]
    assert (results[0] == results[1]).all() and (results[0] == results[2]).all()
    capsys.readouterr()
    assert run("colorize", *options, "-o", tmp_path / "b.png", "--memory", "city") == 2
    message = capsys.readouterr().err
    assert "city: no such file, and no color memory of that name." in message
    assert "Installed: town.v2.safetensors. Saved color memories are in " in message


def test_export_writes_both_files_or_none(tmp_path, memory, monkeypatch, capsys):
    (tmp_path / "file").write_text("x")
    assert run("memory", "export", memory, "-o", tmp_path / "file") == 2
    assert "cannot write into " in capsys.readouterr().err
    folder = tmp_path / "folder"
    (folder / "semantic_embed.npy").mkdir(parents=True)
    assert run("memory", "export", memory, "-o", folder, "--overwrite") == 2
    assert "semantic_embed.npy is a folder" in capsys.readouterr().err
    assert list_files(folder) == []

    replace, full = atomic.os.fsync, []

    def fail_at_the_second(number):
        full.append(number)
        if len(full) == 2:
            raise OSError(28, "No space left on device")
        replace(number)

    monkeypatch.setattr(atomic.os, "fsync", fail_at_the_second)
    assert run("memory", "export", memory, "-o", tmp_path / "out") == 1
    assert "No space left on device" in capsys.readouterr().err
    assert list_files(tmp_path / "out") == []


def test_export_and_import(tmp_path, memory, colorformer, model, capsys):
    (tmp_path / "npy").mkdir()
    (tmp_path / "npy" / ".colorist-00ff.part").write_bytes(b"left by a killed export")
    assert run("memory", "export", memory, "-o", tmp_path / "npy") == 0
    assert list_files(tmp_path / "npy") == ["color_embed.npy", "semantic_embed.npy"]
    pair = [tmp_path / "npy" / name for name in list_files(tmp_path / "npy")]
    out = tmp_path / "m.safetensors"
    assert run("memory", "import", *pair, *colorformer[:2], "-o", out) == 0
    source = make_image(tmp_path / "a.png")
    options = ["-o", tmp_path / "b.png", *colorformer, "--resolution", 64, "--memory", out]
    assert run("colorize", source, *options) == 0
    for sentence, arguments in (
        ("color_embed.npy already exists; give", ["export", memory, "-o", tmp_path / "npy"]),
        ("already exists; give another", ["import", *pair, *colorformer[:2], "-o", out]),
        ("with 3 dim", ["import", *pair[::-1], *colorformer[:2], "-o", out, "--overwrite"]),
        ("has no color memory", ["import", *pair, *model[:2], "-o", out, "--overwrite"]),
    ):
        capsys.readouterr()
        assert run("memory", *arguments) == 2
        assert sentence in capsys.readouterr().err


def test_import_for_a_model_without_memory(tmp_path, mini_file, mini_pointhint_file, capsys):
    for model in (mini_file, mini_pointhint_file):
        files = [tmp_path / "a.npy", tmp_path / "b.npy"]
        assert (
            run("memory", "import", *files, "--model", model, "-o", tmp_path / "m.safetensors") == 2
        )
        err = capsys.readouterr().err
        assert f"{model.name} has no color memory; choose a network" in err
