"""Distillation, in both trainers of automatic colorizers."""

import pytest
import torch
from comfyui_colorist.model_defs import checkpoint
from comfyui_colorist.trainers import losses, train_colorformer, train_ddcolor
from comfyui_colorist.trainers.runtime import networks


@pytest.fixture(params=["ddcolor", "colorformer"])
def train(request, photos, tmp_path, mini_file, mini_colorformer_file):
    """Function that trains for a step and returns the output folder."""
    trainer, weights = {
        "ddcolor": (train_ddcolor, mini_file),
        "colorformer": (train_colorformer, mini_colorformer_file),
    }[request.param]

    def run(name, **changes):
        values = {"steps": 1, "batch": 2, "crop": (32,), "adversarial": 0.0, "device": "cpu"}
        values |= {"weights": str(weights), "spectral_norm": False, "held_out": 0}
        out = tmp_path / name
        trainer.main(trainer.Config(photos=(str(photos),), out=out, **(values | changes)))
        return out

    return run


@pytest.fixture
def targets(monkeypatch):
    """Target colors of all pixel losses, in order."""
    targets, loss = [], losses.pixel_loss

    def spy(ab, true_ab, huber):
        targets.append(true_ab.clone())
        return loss(ab, true_ab, huber)

    monkeypatch.setattr(losses, "pixel_loss", spy)
    return targets


def test_teacher_is_blended_into_the_target(train, targets, mini_file):
    """The target is (1 - share) * photo + share * teacher, and the result names the teacher."""
    for share in (0.0, 0.5, 1.0):
        out = train(str(share), teacher=str(mini_file), teacher_share=share)
    train("without a teacher", teacher_share=1.0)
    photo, half, answer, without = targets
    torch.testing.assert_close(half, (photo + answer) / 2)
    assert not torch.allclose(photo, answer, atol=1)
    assert torch.equal(without, photo)
    training = checkpoint.read_info(out / "weights.safetensors")["training"]
    assert training["teacher"]["file"] == mini_file.name


def test_teacher_is_neither_trained_nor_saved(train, targets, mini_file, monkeypatch):
    teachers, load = [], networks.load_teacher

    def spy(config, device):
        teachers.append(load(config, device))
        return teachers[-1]

    monkeypatch.setattr(networks, "load_teacher", spy)
    out = train("out", teacher=str(mini_file), learning_rate=0.1)
    (teacher,) = teachers
    assert not any(module.training for module in teacher.modules())
    assert not any(p.requires_grad or p.grad is not None for p in teacher.parameters())
    start, _ = checkpoint.read(mini_file)
    assert all(torch.equal(tensor, start[key]) for key, tensor in teacher.state_dict().items())
    with_teacher, without = (
        checkpoint.read(folder / "state.safetensors")[0] for folder in (out, train("without"))
    )
    assert with_teacher.keys() == without.keys()


def test_refuses_a_teacher_that_needs_hints(train):
    with pytest.raises(ValueError, match="teacher is pointhint-nano, a network for pointhint"):
        train("out", teacher="pointhint-nano")
