"""Exports: safetensors in each precision, and ONNX files that agree with the network."""

import dataclasses
import json
import subprocess
import sys

import pytest
import torch
from comfyui_colorist.cli import options
from comfyui_colorist.console import errors
from comfyui_colorist.model_defs import checkpoint, registry
from comfyui_colorist.trainers import export, onnx_export, onnx_tracing

ARCHITECTURES = ("ddcolor", "colorformer", "lite_colorformer", "exemplar", "pointhint")


def mini_file_of(architecture, request):
    """Return the file of a miniature network."""
    name = "" if architecture == "ddcolor" else f"_{architecture}"
    return request.getfixturevalue(f"mini{name}_file")


def config_of(file, out, **settings):
    return export.Config(model=str(file), out=out, **settings)


@pytest.fixture(scope="module", params=ARCHITECTURES)
def exported(request, tmp_path_factory):
    """The file of a miniature of each architecture, and its ONNX file."""
    pytest.importorskip("onnx")
    pytest.importorskip("onnxruntime")
    file = mini_file_of(request.param, request)
    out = tmp_path_factory.mktemp("onnx") / "new" / f"{request.param}.onnx"
    with pytest.MonkeyPatch.context() as patch:  # the tests check it themselves
        patch.setattr(onnx_export, "CHECKED_SIZES", ())
        export.main(config_of(file, out))
    assert [path.name for path in out.parent.iterdir()] == [out.name]
    return file, out


@pytest.mark.parametrize("batch, rows, columns", [(1, 1, 1), (3, 4, 7), (2, 9, 2)])
def test_onnx_equals_the_network_at_other_sizes(exported, batch, rows, columns):
    import onnxruntime

    file, out = exported
    network, spec, _ = registry.load(file)
    inputs = onnx_export.random_inputs(network, spec, batch, rows, columns)
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    names = list(onnx_export.INPUTS[spec.model_input])
    assert [node.name for node in session.get_inputs()] == names
    feed = {name: x.numpy() for name, x in zip(names, inputs, strict=True)}
    (ab,) = session.run(["ab"], feed)
    with torch.no_grad():
        expected = onnx_tracing.predict_ab(network, inputs).numpy()
    assert ab.shape == expected.shape
    assert expected.std() > 0.1
    # Float noise: the exemplar miniature's attention is far steeper than that of trained networks.
    assert abs(ab - expected).max() < onnx_export.TOLERANCE


def test_onnx_metadata_describes_the_network(exported):
    import onnxruntime

    file, out = exported
    network, spec, _ = registry.load(file)
    session = onnxruntime.InferenceSession(out, providers=["CPUExecutionProvider"])
    info = json.loads(session.get_modelmeta().custom_metadata_map["colorist"])
    assert info["architecture"] == spec.architecture
    config = registry.module_of(spec.architecture).Config(**info["config"])
    assert config == network.config
    assert info["spec"]["multiple"] == spec.multiple
    assert info["spec"]["prior"] == spec.prior
    assert set(info["inputs"]) == {node.name for node in session.get_inputs()}
    assert session.get_inputs()[0].shape[:1] == ["batch"]
    assert session.get_inputs()[0].shape[2:] == ["height", "width"]


def test_onnx_with_half_weights(tmp_path, mini_file, capsys):
    pytest.importorskip("onnxruntime")
    export.main(config_of(mini_file, tmp_path / "float32.onnx"))
    export.main(config_of(mini_file, tmp_path / "float16.onnx", dtype="float16"))
    float32, float16 = ((tmp_path / f"float{n}.onnx").stat().st_size for n in (32, 16))
    weights = 4 * sum(t.numel() for t in registry.load(mini_file)[0].state_dict().values())
    assert float32 - float16 > 0.3 * weights
    assert capsys.readouterr().err.count("largest error") == 2


@pytest.mark.parametrize("dtype", options.DTYPES)
def test_safetensors_round_trip(tmp_path, mini_pointhint_file, dtype):
    out = tmp_path / "x.safetensors"
    export.main(config_of(mini_pointhint_file, out, dtype=dtype))
    old, spec, _ = registry.load(mini_pointhint_file)
    new, new_spec, info = registry.load(out)
    assert new_spec == spec
    assert info["origin"]["file"] == mini_pointhint_file.name
    stored = checkpoint.read(out)[0]
    for name, tensor in old.state_dict().items():
        if tensor.is_floating_point():
            assert stored[name].dtype == getattr(torch, dtype)
            tensor = tensor.to(stored[name].dtype).float()
        assert torch.equal(new.state_dict()[name], tensor)


def test_a_different_graph_is_rejected(tmp_path, mini_file, monkeypatch):
    pytest.importorskip("onnxruntime")
    out = tmp_path / "x.onnx"
    out.write_bytes(b"mine")
    monkeypatch.setattr(onnx_export, "TOLERANCE", 0.0)
    with pytest.raises(ValueError, match="differs from the network by .* Lab units at batch 1"):
        export.main(config_of(mini_file, out, overwrite=True))
    assert out.read_bytes() == b"mine"
    assert [path.name for path in tmp_path.iterdir()] == ["x.onnx"]


def test_a_graph_of_one_size_is_rejected(mini_config):
    """Running other sizes reveals sizes that the trace has frozen."""
    pytest.importorskip("onnxruntime")

    class FixedSize(torch.nn.Module):
        config = mini_config

        def forward(self, x):
            height, width = (int(n) for n in x.shape[2:])
            return x[:, :2].reshape(-1, 2 * height * width).reshape(-1, 2, height, width)

    spec = registry.module_of("ddcolor").spec(mini_config)
    data = onnx_export.to_onnx(FixedSize(), spec, {})
    with pytest.raises(ValueError, match="the file fails at batch 1, 32 x 32 pixels"):
        onnx_export.check(data, FixedSize(), spec)


def test_invalid_settings_are_rejected(tmp_path, mini_file, monkeypatch):
    def error_of(**settings):
        with pytest.raises((ValueError, errors.UsageError)) as error:
            export.main(export.Config(**{"model": str(mini_file), **settings}))
        return str(error.value)

    out = tmp_path / "x.onnx"
    assert "must end in .safetensors or .onnx" in error_of(out=tmp_path / "x.pth")
    assert "expected one of float32, float16 for .onnx" in error_of(out=out, dtype="bfloat16")
    assert "opset is 9; expected 17 to 20" in error_of(out=out, opset=9)
    assert "none-such" in error_of(out=out, model="none-such")
    assert "is the input" in error_of(out=mini_file, overwrite=True)
    monkeypatch.setitem(sys.modules, "onnxruntime", None)
    assert "pip install comfyui-colorist[export]" in error_of(out=out)
    assert not list(tmp_path.iterdir())


def test_networks_without_a_graph_for_all_sizes_are_rejected(mini_pointhint_config):
    pytest.importorskip("onnxruntime")
    config = dataclasses.replace(mini_pointhint_config, cluster="cosine")
    network = registry.build("pointhint", config)
    spec = registry.module_of("pointhint").spec(config)
    with pytest.raises(ValueError, match="clustering by cosine"):
        onnx_export.to_onnx(network, spec, {})


def test_runs_by_path(root, tmp_path, mini_file):
    script = [sys.executable, str(root / "trainers" / "export.py"), "--model", str(mini_file)]
    done = subprocess.run(
        [*script, "--out", "x.safetensors", "--dtype", "float16"],
        cwd=tmp_path,
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr
    assert checkpoint.read_info(tmp_path / "x.safetensors")["architecture"] == "ddcolor"
