"""The script that builds color memories from folders and shards."""

import csv
import io
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import torch
from comfyui_colorist.media.errors import ImageError
from comfyui_colorist.pipeline.color_memory import clustering, memory
from comfyui_colorist.trainers import build_color_memory
from comfyui_colorist.trainers.data.photos import PhotoInputs, Photos
from comfyui_colorist.trainers.runtime import command_line
from PIL import Image


def script(arguments):
    """Run the script and return its exit code."""
    return command_line.run_script(
        build_color_memory.main,
        build_color_memory.Config,
        build_color_memory.PRESETS,
        None,
        arguments,
    )


@pytest.fixture(scope="module")
def shard(tmp_path_factory, photos):
    """A .tar of four intact photos and a damaged one."""
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
    loaded = memory.load_memory(out)
    assert torch.equal(loaded.keys, built.keys)
    assert loaded.provenance["photos"] == 10
    assert loaded.provenance["unreadable"] == 1
    (skipped,) = loaded.provenance["skipped"]
    assert skipped.startswith("a.tar at byte ")
    printed = capsys.readouterr()
    assert "11/11" in printed.err and "photos/s" in printed.err
    assert "keys of width 8, 10 photos" in printed.out
    assert "left out: 1 unreadable.\n" in printed.out


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
    assert memory.load_memory(out).projection is not None


def test_photo_inputs_are_paths_or_pixels(photos, shard):
    from_folder = PhotoInputs(Photos([photos]))
    assert from_folder[0] == photos / "0.png"
    from_shard = PhotoInputs(Photos([shard]))
    expected = np.asarray(Image.open(photos / "1.png"), np.float32) / 255
    torch.testing.assert_close(from_shard[1], torch.from_numpy(expected))
    with pytest.raises(ImageError, match=r"a.tar at byte \d+: damaged"):
        from_shard[4]
    assert len(list(PhotoInputs(Photos([shard]), limit=3))) == 3


def test_a_stopped_build_keeps_the_old_file(
    tmp_path, photos, mini_colorformer_file, monkeypatch, capsys
):
    out = tmp_path / "m.safetensors"
    out.write_bytes(b"mine")

    def stop(*_):
        raise KeyboardInterrupt

    monkeypatch.setattr(clustering, "assign_and_average", stop)
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
def test_invalid_settings_are_rejected(arguments, sentence, capsys):
    with pytest.raises(SystemExit):
        command_line.parse(build_color_memory.Config, build_color_memory.PRESETS, arguments)
    assert sentence in capsys.readouterr().err


def test_invalid_input_is_rejected_before_photos_are_read(
    tmp_path, photos, mini_file, mini_colorformer_file, monkeypatch, capsys
):
    def read(*_):
        raise AssertionError("a photo was read")

    monkeypatch.setattr(PhotoInputs, "__getitem__", read)
    existing, folder, out = (tmp_path / f"{i}.safetensors" for i in range(3))
    existing.write_bytes(b"mine")
    folder.mkdir()

    def error_of(model, out, *more, code=1) -> str:
        arguments = ["--photos", photos, "--out", out, "--model", model, "--device", "cpu", *more]
        assert script([str(argument) for argument in arguments]) == code
        message = capsys.readouterr().err
        assert message.count("\n") == 1
        return message

    model = mini_colorformer_file
    assert "already exists; give another name" in error_of(model, existing, code=2)
    assert "is a folder; give the name of a file." in error_of(model, folder, "--overwrite", code=2)
    assert "cannot write into " in error_of(model, existing / "m.safetensors", code=2)
    assert "no model of that name" in error_of("nonsense", out)
    assert "has no color memory" in error_of(mini_file, out)
    assert "entries is 0" in error_of(model, out, "--entries", 0)
    assert "Expected a folder of photos" in error_of(model, out, "--photos", existing)
    assert "no.toml: No such file" in error_of(model, out, "--config", "no.toml")
    assert existing.read_bytes() == b"mine" and not out.exists()


def test_a_failed_script_prints_one_line(root, tmp_path):
    script = str(root / "trainers" / "build_color_memory.py")
    out = tmp_path / "m.safetensors"
    done = subprocess.run(
        [sys.executable, script, "--photos", str(tmp_path / "no"), "--out", str(out)],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 1
    assert done.stderr.startswith("error: ") and done.stderr.count("\n") == 1


def test_runs_by_path(root):
    run = subprocess.run(
        [sys.executable, str(root / "trainers" / "build_color_memory.py"), "--help"],
        capture_output=True,
        text=True,
    )
    assert run.returncode == 0 and "--skip-licences" in run.stdout
