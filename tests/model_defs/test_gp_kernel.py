"""Deep kernel: initial covariance, cells, gradients, training."""

import dataclasses
import json

import pytest
import torch
from comfyui_colorist.model_defs import gp_kernel, pointhint, registry
from comfyui_colorist.model_defs.gp_kernel import DeepKernel
from comfyui_colorist.ops import gaussian_process

MINI = gp_kernel.Config(
    stem=4, dims=(4, 8, 8), depths=(1, 1, 1), width=8, kernel_count=2, embedding_width=3
)
MINI_LITE = dataclasses.replace(
    MINI, backbone="efficientnet-lite", dims=(4, 4, 8, 8, 8, 8, 16), depths=(1,) * 7
)


@pytest.fixture(scope="module", params=[MINI, MINI_LITE], ids=["convnext", "lite"])
def kernel(request):
    with torch.random.fork_rng():
        torch.manual_seed(0)
        return DeepKernel(request.param)


def lightness(batch=1, height=48, width=64, seed=0):
    coarse = torch.rand(batch, 1, 6, 8, generator=torch.Generator().manual_seed(seed))
    return 100 * torch.nn.functional.interpolate(coarse, size=(height, width), mode="bilinear")


def hints(batch, count, height, width, seed=1):
    rng = torch.Generator().manual_seed(seed)
    size = torch.tensor([height, width])
    centers = torch.rand(batch, count, 2, generator=rng) * size
    ab = 60 * torch.rand(batch, count, 2, generator=rng) - 30
    return centers, ab, torch.ones(batch, count, dtype=torch.bool)


@pytest.mark.parametrize("size", [(1, 1), (2, 30), (31, 33), (48, 64)])
def test_one_row_for_each_cell(kernel, size):
    field = kernel(lightness(2, *size))
    cells = -(-size[0] // 2) * -(-size[1] // 2)
    assert field.coordinates.shape == (2, 2, cells, 3 + 3)
    assert field.noise.shape == field.scale.shape == (2, cells)
    assert field.mean.shape == (2, cells, 2)
    assert field.amplitude.shape == (2, 2) and field.constant.shape == (2,)
    assert field.position is None and field.correction_position.shape == (2, cells, 2)
    tensors = [tensor for tensor in field if tensor is not None]
    assert all(t.isfinite().all() and t.dtype == torch.float32 for t in tensors)
    assert (field.noise > 0).all() and (field.scale > 0).all()


def test_a_new_kernel_approximates_the_classical_one(kernel):
    """Training starts at the quality of the best method without training."""
    L = lightness()
    samples = hints(1, 8, 48, 64)
    with torch.no_grad():
        field = kernel(L)
        new, classical = (
            gaussian_process.krige(L, *samples, k) for k in (field, gaussian_process.COLOR_KERNEL)
        )
    assert (new - classical).square().mean() < 0.1 * classical.square().mean()


def test_the_first_kernel_starts_with_the_classical_constants(kernel):
    L = lightness()
    with torch.no_grad():
        ours, theirs = kernel(L), gaussian_process.COLOR_KERNEL.field(L)
    torch.testing.assert_close(ours.coordinates[0, :, :, 3:], theirs.coordinates[0])
    torch.testing.assert_close(ours.amplitude[0, 0], theirs.amplitude[0, 0])
    torch.testing.assert_close(ours.constant[0], theirs.constant[0])


def test_images_of_a_batch_are_independent(kernel):
    L = lightness(3)
    together = kernel(L)
    for i in range(3):
        single = kernel(L[i : i + 1])
        torch.testing.assert_close(together.coordinates[:, i : i + 1], single.coordinates)
        torch.testing.assert_close(together.mean[i : i + 1], single.mean)


def test_padding_does_not_change_the_cells(kernel):
    L = lightness(1, 40, 50)
    filled = torch.nn.functional.pad(L, (0, 14, 0, 8), mode="replicate")
    small, large = kernel(L), kernel(filled)
    rows = torch.arange(20)[:, None] * 32 + torch.arange(25)
    torch.testing.assert_close(small.mean, large.mean[:, rows.flatten()])
    torch.testing.assert_close(small.scale, large.scale[:, rows.flatten()])


def test_training_reaches_every_parameter(kernel):
    L = lightness(2)
    kernel.zero_grad()
    field, samples = kernel(L), hints(2, 6, 48, 64)
    for case in (field, field.corrections()):
        gaussian_process.krige(L, *samples, case).square().mean().backward(retain_graph=True)
    without = [name for name, p in kernel.named_parameters() if p.grad is None or not p.grad.any()]
    assert not without


def test_training_separates_textures():
    """Two textures of one mean lightness, with one color each, in a random pattern of patches."""
    rng = torch.Generator().manual_seed(0)
    owner = (torch.rand(4, 1, 4, 4, generator=rng) > 0.5).float()
    owner = owner.repeat_interleave(16, 2).repeat_interleave(16, 3)
    stripes = 10 * torch.sign(torch.sin(torch.arange(64) * 1.6)).view(1, 1, 1, 64)
    L = 50 + stripes * owner
    ab = torch.cat([40 * owner - 20, 20 - 40 * owner], dim=1)
    cells = torch.nn.functional.avg_pool2d(ab, 2).flatten(2).mT
    with torch.random.fork_rng():
        torch.manual_seed(0)
        kernel = DeepKernel(MINI)
        torch.nn.init.ones_(kernel.backbone.stages[0][0].gamma)
        optimizer = torch.optim.Adam(kernel.parameters(), lr=5e-3)

        def error(step):
            rows = (
                torch.rand(4, 1024, generator=torch.Generator().manual_seed(step)).topk(4).indices
            )
            centers = torch.stack([rows // 32, rows % 32], dim=-1) * 2 + 1.0
            values = cells.gather(1, rows[..., None].expand(-1, -1, 2))
            valid = torch.ones_like(rows) > 0
            predicted = gaussian_process.krige(L, centers, values, valid, kernel(L))
            return (predicted - ab).square().mean()

        with torch.no_grad():
            before = sum(error(1000 + i) for i in range(4))
        for step in range(60):
            optimizer.zero_grad()
            error(step).backward()
            optimizer.step()
        with torch.no_grad():
            after = sum(error(1000 + i) for i in range(4))
    assert after < 0.5 * before


@pytest.mark.parametrize("shape", [(1, 3, 32, 32), (1, 32, 32)])
def test_refusals(kernel, shape):
    with pytest.raises(ValueError, match=r"L has shape .*; expected \(B, 1, H, W\)"):
        kernel(torch.zeros(shape))


def test_the_config_survives_json():
    config = dataclasses.replace(pointhint.PRESETS["pointhint-nano"], kernel=MINI)
    again = pointhint.Config(**json.loads(json.dumps(dataclasses.asdict(config))))
    assert again == config
    network = registry.build("pointhint", again, device="meta")
    assert network.kernel.config == MINI


def test_dims_must_fit_the_backbone():
    with pytest.raises(ValueError, match=r"dims and depths have 7 and 3 values.* has 3 stages"):
        dataclasses.replace(MINI, dims=(8,) * 7)
    with pytest.raises(ValueError, match=r"7 and 3 values; the backbone efficientnet-lite has 7"):
        dataclasses.replace(MINI_LITE, depths=(1, 1, 1))
