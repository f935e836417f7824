"""Load Exemplar Colorizer and Colorize by Reference."""

from dataclasses import asdict

import pytest
import torch
from comfyui_colorist.model_defs import checkpoint
from comfyui_colorist.model_store import paths
from comfyui_colorist.ops import color

L_TOLERANCE = 0.02  # of 100, float32
COLOR = 1.0  # mean C* that an untrained miniature network makes at the least
DIFFERENT = 0.01  # mean difference in sRGB of results that are not the same
ROUNDING = {"atol": 2e-3, "rtol": 0}  # which random weights make larger; a level is 4e-3


def lightness(image):
    return color.lightness(image[..., :3].movedim(-1, 1).float())


def chroma(image):
    return color.chroma(color.rgb_to_lab(image[..., :3].movedim(-1, 1).float())[:, 1:])


def reference(batch=1, height=48, width=36, channels=3, seed=0):
    generator = torch.Generator().manual_seed(seed)
    return torch.rand(batch, height, width, channels, generator=generator)


@pytest.fixture(scope="session")
def exemplar_bytes(mini_exemplar_network):
    known = {"architecture": "exemplar", "config": asdict(mini_exemplar_network.config)}
    return lambda **info: checkpoint.to_bytes(mini_exemplar_network.state_dict(), known | info)


@pytest.fixture
def exemplar(host, folder, exemplar_bytes):
    (folder / "mini-exemplar.safetensors").write_bytes(exemplar_bytes())
    return host.nodes.LoadExemplar.execute("mini-exemplar.safetensors", "auto").args[0]


@pytest.fixture
def network(exemplar):
    return exemplar.device_manager.patcher.model


@pytest.fixture
def run(host, exemplar):
    """Colorize by Reference at 64 pixels: image and confidence."""

    def execute(image, picture=None, **options):
        picture = reference() if picture is None else picture
        options = {"resolution": 64, **options}
        return host.nodes.ColorizeByReference.execute(image, picture, exemplar, **options).args

    return execute


@pytest.fixture
def assured(network, monkeypatch):
    """Makes the network give one confidence everywhere: `assured(0.7)`."""
    answer = network.predict

    def set_to(value):
        def answered(target, evidence):
            inputs = answer(target, evidence)
            return inputs._replace(confidence=torch.full_like(inputs.confidence, value))

        monkeypatch.setattr(network, "predict", answered)

    return set_to


# ---- the loader ----


def listed(host, node):
    schema = getattr(host.nodes, node).GET_SCHEMA()
    return set(next(put.options for put in schema.inputs if put.id == "model"))


def test_each_loader_lists_networks_of_its_role(host, folder, network_bytes, exemplar_bytes):
    (folder / "automatic.safetensors").write_bytes(network_bytes())
    (folder / "exemplar.safetensors").write_bytes(exemplar_bytes())
    (folder / "published.pth").write_bytes(b"x")  # does not say what it is
    assert "published.pth" in listed(host, "LoadAutomatic") & listed(host, "LoadExemplar")
    assert "automatic.safetensors" in listed(host, "LoadAutomatic")
    assert "automatic.safetensors" not in listed(host, "LoadExemplar")
    assert "exemplar.safetensors" in listed(host, "LoadExemplar")
    assert "exemplar.safetensors" not in listed(host, "LoadAutomatic")


def test_bundled_networks_are_listed_by_role_too(
    host, folder, network_bytes, exemplar_bytes, monkeypatch
):
    box = folder.parent / "box"
    box.mkdir()
    (box / "automatic.safetensors").write_bytes(network_bytes())
    (box / "exemplar.safetensors").write_bytes(exemplar_bytes())
    monkeypatch.setattr(paths, "BUNDLED_DIR", box)
    ahead = {name for name in listed(host, "LoadAutomatic") if "(download " in name}
    assert listed(host, "LoadAutomatic") - ahead == {"automatic"}
    assert listed(host, "LoadExemplar") == {"exemplar"}


def test_a_replaced_file_is_listed_as_what_it_now_is(host, folder, network_bytes, exemplar_bytes):
    file = folder / "one.safetensors"
    file.write_bytes(network_bytes())
    assert "one.safetensors" not in listed(host, "LoadExemplar")
    file.write_bytes(exemplar_bytes())
    assert "one.safetensors" in listed(host, "LoadExemplar")


def test_bundled_network_is_installed(host, folder):
    assert any(name in paths.bundled_models() for name in listed(host, "LoadExemplar"))


def test_a_network_of_another_role_is_refused(host, folder, network_bytes, exemplar_bytes):
    (folder / "automatic.safetensors").write_bytes(network_bytes())
    (folder / "exemplar.safetensors").write_bytes(exemplar_bytes())
    expected = "is a model with the role 'automatic' .*this node loads 'exemplar' models"
    with pytest.raises(ValueError, match=expected):
        host.nodes.LoadExemplar.execute("automatic.safetensors", "auto")
    expected = "is a model with the role 'exemplar' .*this node loads 'automatic' models"
    with pytest.raises(ValueError, match=expected):
        host.nodes.LoadAutomatic.execute("exemplar.safetensors", "auto")


def test_only_listed_names_are_opened(host, folder, exemplar_bytes):
    (folder.parent / "x.safetensors").write_bytes(exemplar_bytes())
    for name in ("../x.safetensors", "/etc/x.pth", "", "nope.pth"):
        reason = "is not in the list" if name else "the name of the model is empty"
        with pytest.raises(ValueError, match=reason):
            host.nodes.LoadExemplar.execute(name, "auto")
        assert host.nodes.LoadExemplar.fingerprint_inputs(model=name).endswith("missing")


def test_precision(host, folder, exemplar_bytes):
    (folder / "mini.safetensors").write_bytes(exemplar_bytes())
    loaded = host.nodes.LoadExemplar.execute("mini.safetensors", "bf16").args[0]
    assert {p.dtype for p in loaded.device_manager.patcher.model.parameters()} == {torch.bfloat16}


# ---- the picture ----


def test_adds_colour_and_keeps_lightness(run, grey):
    image = grey(1, 41, 57)
    colored, confidence = run(image)
    assert colored.shape == image.shape
    assert colored.dtype == confidence.dtype == torch.float32
    assert colored.is_contiguous() and confidence.is_contiguous()
    assert chroma(colored).mean() > COLOR
    assert (lightness(colored) - lightness(image)).abs().max() < L_TOLERANCE


@pytest.mark.parametrize("channels, expected", [(1, 3), (3, 3), (4, 4)])
def test_channels_of_the_photo(run, grey, channels, expected):
    image = grey(1, 40, 56, channels)
    if channels == 4:
        image[..., 3] = torch.linspace(0, 1, 56)
    colored, _ = run(image)
    assert colored.shape == (1, 40, 56, expected)
    torch.testing.assert_close(colored[..., :3], run(grey(1, 40, 56, 3))[0])
    if channels == 4:
        assert torch.equal(colored[..., 3], image[..., 3])


def test_confidence_is_a_mask_of_the_images(run, grey):
    _, confidence = run(grey(3, 41, 57))
    assert confidence.shape == (3, 41, 57)
    assert confidence.min() >= 0 and confidence.max() <= 1


def test_a_batch_equals_its_images_one_by_one(run, grey):
    image = grey(3)
    colored, confidence = run(image)
    apart = [run(image[i : i + 1]) for i in range(3)]
    torch.testing.assert_close(colored, torch.cat([first for first, _ in apart]), **ROUNDING)
    torch.testing.assert_close(confidence, torch.cat([sure for _, sure in apart]), **ROUNDING)


def test_a_mask_colours_only_inside(run, grey):
    image = grey(2)
    mask = torch.zeros(1, 40, 56)
    mask[:, :, 28:] = 1
    colored, _ = run(image, mask=mask)
    assert torch.equal(colored[:, :, :20], image[:, :, :20])
    assert chroma(colored[:, :, 36:]).mean() > COLOR
    assert torch.equal(run(image, mask=torch.zeros(1, 64, 64))[0], run(image)[0])


def test_controls_reach_the_finish(run, grey):
    image = grey(1)
    assert torch.equal(run(image, strength=0.0)[0], image)
    assert chroma(run(image, saturation=0.0)[0]).max() < 0.1
    assert chroma(run(image, chroma_ceiling=5.0)[0]).max() < 6


def test_fp16_intermediates(host, run, grey, monkeypatch):
    monkeypatch.setattr(host.mm, "intermediate_dtype", lambda: torch.float16, raising=False)
    colored, confidence = run(grey(2).half(), reference().half())
    assert colored.dtype == confidence.dtype == torch.float16


def test_published_finish(run, grey):
    colored, confidence = run(grey(2, 300, 260, 4), finish="published", resolution=0)
    assert colored.shape == (2, 224, 224, 3)
    assert confidence.shape == (2, 224, 224)


# ---- the references ----


def test_the_reference_counts(run, grey):
    first, other = (run(grey(1), reference(seed=seed))[0] for seed in (1, 2))
    assert (first - other).abs().mean() > DIFFERENT


def test_references_of_other_sizes_are_joined(run, grey):
    images = reference(seed=1), reference(1, 30, 90, seed=2), reference(2, 20, 20, seed=3)
    options = {"reference_2": images[1], "reference_3": images[2]}
    alone, second, three = (
        run(grey(1), images[0], **dict(list(options.items())[:more]))[0] for more in (0, 1, 2)
    )
    for first, other in ((alone, second), (second, three), (alone, three)):
        assert (first - other).abs().mean() > DIFFERENT
    only_third = run(grey(1), images[0], reference_3=images[1])[0]
    assert torch.equal(only_third, second)


def test_a_batch_of_references_serves_every_photo(run, grey):
    images, image = reference(2, seed=1), grey(3)
    colored, _ = run(image, images)
    assert colored.shape == image.shape
    apart, _ = run(image, images[:1], reference_2=images[1:])
    torch.testing.assert_close(colored, apart)


def test_references_are_read_once_for_all_frames(run, grey, network, monkeypatch):
    reads, frames, read, answer = [], [], network.encode_references, network.predict
    monkeypatch.setattr(
        network, "encode_references", lambda r, *rest: reads.append(len(r)) or read(r, *rest)
    )
    monkeypatch.setattr(network, "predict", lambda t, e: frames.append(len(t)) or answer(t, e))
    run(grey(5), reference(2), reference_2=reference(1, 20, 90, seed=3))
    assert reads == [3]
    assert sum(frames) == 5


def test_a_grey_reference_of_one_channel_is_refused(run, grey):
    with pytest.raises(ValueError, match="is gray; expected a color image"):
        run(grey(1), reference(channels=1))


# ---- what is ignored in them ----


@pytest.fixture
def hidden():
    """Two references that differ on the left only, and the mask of their left."""
    first, other = reference(seed=1), reference(seed=1)
    other[:, :, :18] = torch.tensor([1.0, 0.0, 0.0])
    mask = torch.zeros(1, 48, 36)
    mask[:, :, :18] = 1
    return first, other, mask


def test_what_is_ignored_has_no_influence_at_all(run, grey, hidden):
    first, other, mask = hidden
    seen = [run(grey(1), picture)[0] for picture in (first, other)]
    assert (seen[0] - seen[1]).abs().mean() > DIFFERENT
    of_one, of_other = (run(grey(1), picture, ignore=mask) for picture in (first, other))
    assert torch.equal(of_one[0], of_other[0])
    assert torch.equal(of_one[1], of_other[1])
    assert (of_one[0] - seen[0]).abs().mean() > DIFFERENT


def test_transparent_is_ignored(run, grey, hidden):
    first, other, mask = hidden
    masked, _ = run(grey(1), first, ignore=mask)
    for picture in (first, other):
        rgba = torch.cat([picture, 1 - mask[..., None]], dim=-1)
        assert torch.equal(run(grey(1), rgba)[0], masked)


def test_transparent_and_painted_add_up(run, grey, hidden):
    first, _, mask = hidden
    top = torch.zeros(1, 48, 36)
    top[:, :24] = 1
    both, _ = run(grey(1), first, ignore=torch.maximum(mask, top))
    rgba = torch.cat([first, 1 - top[..., None]], dim=-1)
    torch.testing.assert_close(run(grey(1), rgba, ignore=mask)[0], both)


@pytest.mark.parametrize("size", [(96, 72), (24, 18), (64, 64)])
def test_a_mask_of_another_size_is_brought_to_the_references(run, grey, size):
    first, other = reference(seed=1), reference(seed=1)
    other[:, :, :14] = torch.tensor([1.0, 0.0, 0.0])
    mask = torch.zeros(1, *size)
    mask[:, :, : size[1] // 2] = 1  # up to column 18 of 36, with a soft edge
    of_one, of_other = (run(grey(1), picture, ignore=mask)[0] for picture in (first, other))
    assert torch.equal(of_one, of_other)


@pytest.mark.parametrize("size", [(64, 64), (48, 36)])
def test_an_empty_mask_of_the_loader_ignores_nothing(run, grey, size):
    plain = run(grey(1))
    for got, want in zip(run(grey(1), ignore=torch.zeros(1, *size)), plain, strict=True):
        assert torch.equal(got, want)


def test_a_wholly_ignored_reference_gives_no_confidence(run, grey):
    colored, confidence = run(grey(1), ignore=torch.ones(1, 48, 36))
    assert colored.isfinite().all()
    assert confidence.max() < 0.01


def test_one_mask_for_all_references_or_one_each(run, grey, hidden):
    first, other, mask = hidden
    pair = torch.cat([first, other])
    shared, _ = run(grey(1), pair, ignore=mask)
    each, _ = run(grey(1), pair, ignore=mask.expand(2, -1, -1))
    assert torch.equal(shared, each)
    with pytest.raises(
        ValueError, match="'ignore in reference' has 3 masks for 2 reference images"
    ):
        run(grey(1), pair, ignore=mask.expand(3, -1, -1))


def test_the_mask_concerns_the_first_reference_alone(run, grey, hidden):
    first, other, mask = hidden
    ignored = {"ignore": mask, "reference_2": reference(seed=5)}
    assert torch.equal(run(grey(1), first, **ignored)[0], run(grey(1), other, **ignored)[0])
    seen = [
        run(grey(1), reference(seed=5), ignore=mask, reference_2=picture)[0]
        for picture in (first, other)
    ]
    assert (seen[0] - seen[1]).abs().mean() > DIFFERENT


# ---- the fallback ----


def test_the_fallback_takes_over_where_confidence_is_low(host, run, grey, colorizer, assured):
    resolution = colorizer.spec.resolution
    of_reference, _ = run(grey(2), resolution=resolution)
    assured(0.2)
    colored, confidence = run(grey(2), resolution=resolution, colorizer=colorizer)
    own = host.nodes.Colorize.execute(grey(2), colorizer).args[0]
    torch.testing.assert_close(colored, own, **ROUNDING)
    assert (colored - of_reference).abs().mean() > DIFFERENT
    torch.testing.assert_close(confidence, torch.full_like(confidence, 0.2))


def test_the_reference_stays_where_confidence_is_high(run, grey, colorizer, assured):
    of_reference, _ = run(grey(2))
    assured(0.8)
    torch.testing.assert_close(run(grey(2), colorizer=colorizer)[0], of_reference)


@pytest.mark.parametrize("confidence", [0.0, 1.0])
def test_the_threshold_goes_from_never_to_everywhere(run, grey, colorizer, assured, confidence):
    of_reference, _ = run(grey(1))
    assured(confidence)
    never, everywhere = (run(grey(1), colorizer=colorizer, threshold=t)[0] for t in (0.0, 1.0))
    torch.testing.assert_close(never, of_reference)
    assert (everywhere - of_reference).abs().mean() > DIFFERENT
    assert torch.equal(run(grey(1), threshold=1.0)[0], of_reference)  # without a fallback


def test_the_published_finish_takes_no_fallback(run, grey, colorizer):
    with pytest.raises(ValueError, match="supports no fallback"):
        run(grey(1), colorizer=colorizer, finish="published")


# ---- the rest ----


@pytest.mark.parametrize(
    "options, message",
    [
        ({"finish": "fast"}, "finish is 'fast'; expected exact or published"),
        ({"upsample": "magic"}, "upsample is 'magic'; expected one of"),
        ({"strength": 2.0}, "strength is 2.0; expected 0 to 1"),
        ({"threshold": 2.0}, "threshold is 2.0; expected 0 to 1"),
        ({"resolution": 8}, "resolution is 8; this network needs at least 16"),
        ({"mask": torch.ones(2, 40, 56)}, r"the mask has shape \(2, 40, 56\); expected \(3 or 1"),
    ],
)
def test_untrusted_values_are_refused(run, grey, options, message):
    with pytest.raises(ValueError, match=message):
        run(grey(3), **options)


def test_progress_counts_images(host, run, grey, monkeypatch):
    seen = []

    class Bar:
        def __init__(self, total):
            self.total = total

        def update_absolute(self, value, total):
            seen.append((value, total))

    monkeypatch.setattr(host.bridge.execution.comfy.utils, "ProgressBar", Bar)
    run(grey(3))
    assert seen == [(1, 3), (2, 3), (3, 3)]


def test_interrupt_stops_between_images(host, run, grey, network, monkeypatch):
    runs, answer = [], network.predict

    def stop_during_second(target, evidence):
        runs.append(1)
        if len(runs) == 2:
            host.mm.interrupt_current_processing(True)
        return answer(target, evidence)

    monkeypatch.setattr(network, "predict", stop_during_second)
    try:
        with pytest.raises(host.mm.InterruptProcessingException):
            run(grey(5))
    finally:
        host.mm.interrupt_current_processing(False)
    assert len(runs) == 2


def test_out_of_memory_on_one_image_says_what_to_do(run, grey, network, monkeypatch):
    def never_fits(*_):
        raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate")

    monkeypatch.setattr(network, "predict", never_fits)
    with pytest.raises(
        MemoryError, match="out of memory on one image of 56x40.*Lower the resolution"
    ):
        run(grey(2))
