"""The script around `builder.build`: folders and shards in, one file out."""

import csv
import io
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import torch
from comfyui_colorist.media.image_data import PictureError
from comfyui_colorist.pipeline.color_memory import clustering, memory
from comfyui_colorist.trainers import build_color_memory
from comfyui_colorist.trainers.data.photos import Photos
from comfyui_colorist.trainers.runtime import settings as common
from PIL import Image


def script(arguments):
    """Exit code of the script."""
    return common.script(
        build_color_memory.main,
        build_color_memory.Config,
        build_color_memory.PRESETS,
        None,
        arguments,
    )


@pytest.fixture(scope="module")
def shard(tmp_path_factory, photos):
    """A .tar of four of the photos, and one that is damaged."""
    path = tmp_path_factory.mktemp("shards") / "a.tar"
    with tarfile.open(path, "w") as tar:
        for name, data in [
            *((f"{i}.png", (photos / f"{i}.png").read_bytes()) for i in range(4)),
            ("4.png", (photos / "4.png").read_bytes()[:100]),
        ]:
            member = tarfile.TarInfo(name)
            member.size = len(data)
            tar.addfile(member, io.BytesIO(data))
    return path


def settings(out, model, *photos, **changes):
    values = {"photos": photos, "out": out, "model": str(model), "device": "cpu", "side": 64}
    return build_color_memory.Config(**(values | changes))


def test_folders_and_shards(tmp_path, photos, shard, mini_colorformer_file, capsys):
    out = tmp_path / "new" / "m.safetensors"
    config = settings(out, mini_colorformer_file, photos, shard, entries=3)
    built = build_color_memory.main(config)
    found = memory.load(out)
    assert torch.equal(found.keys, built.keys)
    assert found.provenance["photos"] == 10
    assert found.provenance["unreadable"] == 1
    (skipped,) = found.provenance["skipped"]
    assert skipped.startswith("a.tar at byte ")
    printed = capsys.readouterr().out
    assert "[11/11] " in printed and " photos/s" in printed
    assert "keys of width 8, 10 photos" in printed
    assert "left out: 1 unreadable.\n" in printed


def test_licences_and_limit(tmp_path, photos, shard, mini_colorformer_file):
    index = tmp_path / "index.csv"
    with index.open("w", newline="", encoding="utf-8") as file:
        rows = csv.writer(file)
        rows.writerow(["key", "licence_kind"])
        rows.writerows([["0", "open"], ["1", "research"], ["2", "open"]])
    out = tmp_path / "m.safetensors"
    changes = {"index": (index,), "skip_licences": ("research",)}
    built = build_color_memory.main(settings(out, mini_colorformer_file, photos, **changes))
    assert built.provenance["photos"] == 5
    changes = {"limit": 2, "overwrite": True}
    built = build_color_memory.main(settings(out, mini_colorformer_file, shard, **changes))
    assert built.provenance["photos"] == 2


def test_fresh(tmp_path, photos, mini_colorformer_file):
    out = tmp_path / "m.safetensors"
    built = build_color_memory.main(settings(out, mini_colorformer_file, photos, fresh=True))
    assert built.provenance["projection"] == "PCA of these photos"
    assert memory.load(out).projection is not None


def test_pictures_are_paths_or_pixels(photos, shard):
    of_folder = build_color_memory.Pictures(Photos([photos]))
    assert of_folder[0] == photos / "0.png"
    of_shard = build_color_memory.Pictures(Photos([shard]))
    expected = np.asarray(Image.open(photos / "1.png"), np.float32) / 255
    torch.testing.assert_close(of_shard[1], torch.from_numpy(expected))
    with pytest.raises(PictureError, match=r"a.tar at byte \d+: damaged"):
        of_shard[4]
    assert len(list(build_color_memory.Pictures(Photos([shard]), limit=3))) == 3


def test_a_stopped_build_keeps_the_old_file(
    tmp_path, photos, mini_colorformer_file, monkeypatch, capsys
):
    out = tmp_path / "m.safetensors"
    out.write_bytes(b"mine")

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(clustering, "labelled", stop)
    with pytest.raises(KeyboardInterrupt):
        build_color_memory.main(settings(out, mini_colorformer_file, photos, overwrite=True))
    assert out.read_bytes() == b"mine"
    assert [path.name for path in tmp_path.iterdir()] == ["m.safetensors"]
    capsys.readouterr()
    arguments = ["--photos", photos, "--out", out, "--model", mini_colorformer_file, "--overwrite"]
    assert script([*map(str, arguments), "--device", "cpu", "--side", "64"]) == 130
    assert capsys.readouterr().err.endswith("stopped.\n")


@pytest.mark.parametrize(
    ("arguments", "sentence"),
    [
        ([], "name at least one folder or .tar file"),
        (["--photos", "a", "--out", "m.npy"], "out is m.npy; the name must end in .safetensors."),
        (
            ["--photos", "a", "--seed", "4294967296"],
            "seed is 4294967296; expected 0 to 4294967295.",
        ),
        (["--photos", "a", "--seed", "-1"], "seed is -1; expected 0 to 4294967295."),
    ],
)
def test_settings_that_cannot_be(arguments, sentence, capsys):
    with pytest.raises(SystemExit):
        common.parse(build_color_memory.Config, build_color_memory.PRESETS, arguments)
    assert sentence in capsys.readouterr().err


def test_what_cannot_be_is_refused_before_photos_are_read(
    tmp_path, photos, mini_file, mini_colorformer_file, monkeypatch, capsys
):
    def read(*_):
        raise AssertionError("a photo was read")

    monkeypatch.setattr(build_color_memory.Pictures, "__getitem__", read)
    there, folder, out = (tmp_path / f"{i}.safetensors" for i in range(3))
    there.write_bytes(b"mine")
    folder.mkdir()

    def said(model, out, *more) -> str:
        arguments = ["--photos", photos, "--out", out, "--model", model, "--device", "cpu", *more]
        assert script([str(argument) for argument in arguments]) == 1
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        return message

    own = mini_colorformer_file
    assert "is there already; give another name, or --overwrite." in said(own, there)
    assert "is a folder; give the name of a file." in said(own, folder, "--overwrite")
    assert "cannot write into " in said(own, there / "m.safetensors")
    assert "no model of that name" in said("nonsense", out)
    assert "has no color memory" in said(mini_file, out)
    assert "entries is 0" in said(own, out, "--entries", 0)
    assert "Expected a folder of photos" in said(own, out, "--photos", there)
    assert "no.toml: No such file" in said(own, out, "--config", "no.toml")
    assert there.read_bytes() == b"mine" and not out.exists()


def test_a_failed_script_says_why_in_a_line(root, tmp_path):
    script = str(root / "trainers" / "build_color_memory.py")
    out = tmp_path / "m.safetensors"
    found = subprocess.run(
        [sys.executable, script, "--photos", str(tmp_path / "no"), "--out", str(out)],
        capture_output=True,
        text=True,
    )
    assert found.returncode == 1
    assert found.stderr.startswith("error: ") and found.stderr.count("\n") == 1


def test_runs_by_path(root):
    run = subprocess.run(
        [sys.executable, str(root / "trainers" / "build_color_memory.py"), "--help"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0 and "--skip-licences" in run.stdout
