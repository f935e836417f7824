"""Classes of photos for top-1 and top-5 accuracy."""

import io
import tarfile

import pytest
from comfyui_colorist.trainers.data.photos import Photos
from comfyui_colorist.trainers.evaluation import scorers


def shard(path, members: dict[str, bytes]):
    with tarfile.open(path, "w") as tar:
        for name, data in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(data)
            tar.addfile(info, io.BytesIO(data))
    return path


def test_classes_come_from_shards_and_folders(photos, tmp_path):
    files = sorted(photos.glob("*.png"))
    members = {f"{p.stem}.png": p.read_bytes() for p in files} | {"0.cls": b"3\n", "5.cls": b"0"}
    tar = shard(tmp_path / "a.tar", members)
    assert scorers.photo_classes(Photos([tar]), [tar], None, 4) == [3, None, None, None, None, 0]
    for i, path in enumerate(files):
        folder = tmp_path / "set" / ("n02", "n01", "n03")[i % 3]
        folder.mkdir(parents=True, exist_ok=True)
        (folder / path.name).write_bytes(path.read_bytes())
    gallery = Photos([tmp_path / "set"])
    classes = scorers.photo_classes(gallery, [tmp_path / "set"], None, 3)
    assert classes == [("n01", "n02", "n03").index(folder) for folder in gallery.folders]
    assert set(classes) == {0, 1, 2}
    with pytest.raises(ValueError, match=r"unknown: shards have no .cls .*3 folders .* 4 classes"):
        scorers.photo_classes(gallery, [tmp_path / "set"], None, 4)


@pytest.mark.parametrize(
    ("text", "sentence"),
    [
        ("photo,class\n0,1", "has columns photo, class; expected key,class"),
        ("key,class\n0,cat", "a class is not an integer .*cat"),
        ("key,class\nelse,1", "names none of the photos"),
        ("key,class\n0,4", "are 4 to 4; the classifier has 4, 0 to 3"),
    ],
)
def test_unusable_labels_are_rejected(photos, tmp_path, text, sentence):
    (tmp_path / "labels.csv").write_text(text)
    with pytest.raises(ValueError, match=sentence):
        scorers.photo_classes(Photos([photos]), [photos], tmp_path / "labels.csv", 4)
