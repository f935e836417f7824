"""Values of files are checked against the annotations of their dataclass."""

import dataclasses
import json
import math

import pytest
from comfyui_colorist.model_defs import checkpoint, gp_kernel, pointhint, registry
from comfyui_colorist.model_defs.checkpoint import CheckpointError
from comfyui_colorist.model_defs.validation import MAX_ITEMS, check_names, shown

HUGE = 10**5000
DEEP = []
for _ in range(100_000):
    DEEP = [DEEP]
BAD_VALUES = (
    *(None, "text", "", -1, -(10**9), 10**12, HUGE, 1.5, math.nan, math.inf, 1e308),
    *([], [1], {}, {"a": 1}, [[1, 2, 3]], [math.nan] * 4, ["a"] * 4, [10**9] * 4, DEEP),
    [1] * (MAX_ITEMS + 1),
)


@pytest.mark.parametrize("architecture", registry.ARCHITECTURES)
def test_every_field_rejects_values_of_wrong_type_or_absurd_size(architecture):
    module = registry.module_of(architecture)
    for preset in module.PRESETS.values():
        fields = dataclasses.asdict(preset)
        assert registry.parse_config(architecture, json.loads(json.dumps(fields))) == preset
        for name, good in fields.items():
            for bad in BAD_VALUES:
                if type(bad) is type(good) and not isinstance(bad, str):
                    continue  # may be valid; the absurd ones are tested below
                if name == "kernel" and bad in (None, {}):
                    continue
                if good == () and bad == []:
                    continue
                if isinstance(good, float) and bad == -1:
                    continue
                with pytest.raises(ValueError, match=rf"{name}|do not divide|multiple"):
                    registry.parse_config(architecture, {**fields, name: bad})


@pytest.mark.parametrize("architecture", registry.ARCHITECTURES)
@pytest.mark.parametrize(
    "bad", [-1, 10**12, HUGE, math.nan, True], ids=lambda bad: type(bad).__name__
)
def test_every_number_rejects_absurd_sizes(architecture, bad):
    preset = next(iter(registry.module_of(architecture).PRESETS.values()))
    fields = dataclasses.asdict(preset)
    for name, good in fields.items():
        if type(good) in (int, float) and not (name == "scale" and bad is True):
            changed = bad
        elif isinstance(good, tuple | list) and good and type(good[0]) in (int, float):
            changed = [bad, *good[1:]]
            if type(good[0]) is float and bad == -1:
                continue
        else:
            continue
        with pytest.raises(ValueError, match=name):
            registry.parse_config(architecture, {**fields, name: changed})


def test_unknown_and_missing_fields_are_named():
    with pytest.raises(ValueError, match="pointhint config has the unknown field 'colour'"):
        registry.parse_config("pointhint", {"colour": 1})
    with pytest.raises(ValueError, match="pointhint config lacks the field 'inner'"):
        registry.parse_config("pointhint", {})
    fields = dataclasses.asdict(pointhint.PRESETS["pointhint-nano"]) | {"kernel": {"colour": 1}}
    with pytest.raises(ValueError, match="pointhint: kernel has the unknown field 'colour'"):
        registry.parse_config("pointhint", fields)
    check_names({"stem": 8}, gp_kernel.Config, "kernel")


@pytest.mark.parametrize(
    "value", [HUGE, DEEP, "x" * 10**6, [HUGE] * 9, [0] * 10**6, {}, b""], ids=range(7)
)
def test_values_are_shown_briefly(value):
    assert len(shown(value)) < 300


# --- Specs in files ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("changes", "sentence"),
    [
        ({"gain": math.nan}, "NaN in its metadata"),
        ({"gain": 1e308}, "spec: gain is 1e\\+308; expected 0 to 4"),
        ({"fade": 1e308}, "spec: fade is 1e\\+308; expected 0 to 50"),
        ({"fade": -1}, "spec: fade"),
        ({"fade": True}, "spec: fade is True; expected a number"),
        ({"resolution": 10**9}, "spec: resolution is 1000000000; expected 1 to 2,048"),
        ({"resolution": "256"}, "spec: resolution is '256'; expected a whole number"),
        ({"resolution": HUGE // 10**1000}, "spec: resolution is a whole number of 13288 bits"),
        ({"prior": 1}, "spec: prior is 1; expected true or false"),
        ({"multiple": 1}, "spec has the unknown field 'multiple'"),
        ({"official": None}, "spec has the unknown field 'official'"),
        ([], "'spec' in its metadata is"),
    ],
)
def test_bad_specs_are_refused_with_file_and_remedy(
    tmp_path, mini_network, mini_config, changes, sentence
):
    path = tmp_path / "bad.safetensors"
    info = {
        "architecture": "ddcolor",
        "config": dataclasses.asdict(mini_config),
        "spec": changes,
    }
    path.write_bytes(checkpoint.to_bytes(mini_network.state_dict(), info))
    with pytest.raises(CheckpointError, match=f"^bad.safetensors: .*{sentence}"):
        registry.load(path)
    assert registry.role_of(path) is None
    with pytest.raises(CheckpointError, match=r"(?i)export .* again"):
        registry.describe(path)


def test_shapes_are_compared_before_anything_is_converted(
    tmp_path, mini_network, mini_config, monkeypatch
):
    """A valid config whose network would be far larger than its file."""
    path = tmp_path / "large.safetensors"
    config = dataclasses.asdict(mini_config) | {"width": 16384, "ffn_width": 16384}
    info = {"architecture": "ddcolor", "config": config}
    path.write_bytes(checkpoint.to_bytes(mini_network.state_dict(), info))
    monkeypatch.setattr(registry, "_to_float32", lambda _: pytest.fail("converted"))
    with pytest.raises(CheckpointError, match="tensors differ in shape"):
        registry.load(path)
