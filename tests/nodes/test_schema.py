"""Laws that hold for every node, and how the pack reaches a host."""

import asyncio
import importlib.util
import inspect
import re
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]


@pytest.fixture
def schemas(host, folder):
    return [(node, node.GET_SCHEMA()) for node in host.nodes.NODES]


def test_ids_are_the_documented_ones(schemas):
    names = {schema.node_id: schema.display_name for _, schema in schemas}
    assert names == {
        "ColoristPhoto": "Colorize Photo",
        "ColoristLook": "Color Look",
        "ColoristLoadAutomatic": "Load Automatic Colorizer",
        "ColoristColorize": "Colorize",
        "ColoristVariations": "Colorize Variations",
        "ColoristBuildMemory": "Build Color Memory",
        "ColoristApplyMemory": "Apply Color Memory",
        "ColoristSaveMemory": "Save Color Memory",
        "ColoristLoadMemory": "Load Color Memory",
        "ColoristLoadExemplar": "Load Exemplar Colorizer",
        "ColoristExemplar": "Colorize by Reference",
        "ColoristFindReference": "Find References",
        "ColoristLoadPointHint": "Load Point-Hint Colorizer",
        "ColoristPointHints": "Colorize by Point Hints",
        "ColoristSuggestHints": "Suggest Hint Points",
        "ColoristMergeChroma": "Merge Chroma",
        "ColoristStabilize": "Stabilize Chroma",
        "ColoristMeasure": "Measure Color",
    }


def test_a_wrong_network_is_sent_to_a_loader_that_there_is(host, schemas):
    named = set(host.nodes.load.LOADER_BY_ROLE.values())
    assert named == {s.display_name for _, s in schemas if s.category == "Colorist/loaders"}


def test_every_node_explains_itself(schemas):
    for _, schema in schemas:
        assert schema.category.startswith("Colorist/")
        assert schema.description
        assert (ROOT / "web" / "docs" / f"{schema.node_id}.md").is_file()
        for put in [*schema.inputs, *schema.outputs]:
            assert put.display_name, (schema.node_id, put.id)
            assert put.tooltip, (schema.node_id, put.id)


def rows(page: str, heading: str) -> dict[str, list[str]]:
    """First cell -> the others, without marks, of the table that begins with `heading`."""
    table = page[page.index(f"\n| {heading} |") + 1 :].split("\n\n")[0]
    cells = [[cell.strip() for cell in row.split("|")[1:-1]] for row in table.splitlines()[2:]]
    return {first: [re.sub(r"[*`]", "", cell) for cell in others] for first, *others in cells}


def default_shown(put) -> str:
    """As a help page shows it; with its range, where that tells something."""
    default = getattr(put, "default", None)
    if default is None:
        return ""
    if isinstance(default, bool):
        return "on" if default else "off"
    if isinstance(default, str):
        return "no points" if put.id == "hints" else default
    return f"{default:g}" + ("" if put.id == "seed" else f" ({put.min:g} to {put.max:g})")


def test_help_pages_say_what_tooltips_say(schemas):
    """In the same order; a page may say more after that."""
    for _, schema in schemas:
        page = (ROOT / "web" / "docs" / f"{schema.node_id}.md").read_text(encoding="utf-8")
        inputs, outputs = rows(page, "input"), rows(page, "output")
        assert list(inputs) == [put.display_name for put in schema.inputs]
        assert list(outputs) == [put.display_name for put in schema.outputs]
        for put in schema.inputs:
            default, text = inputs[put.display_name]
            assert default == default_shown(put), (schema.node_id, put.id)
            says = ("Optional. " if put.optional else "") + put.tooltip
            assert text.startswith(says), (schema.node_id, put.id)
        for put in schema.outputs:
            assert outputs[put.display_name][0].startswith(put.tooltip), (schema.node_id, put.id)


def test_help_pages_list_advanced_inputs(host, schemas):
    if "advanced" not in inspect.signature(host.io.Int.Input).parameters:
        pytest.skip("this host has no advanced inputs")
    for _, schema in schemas:
        page = (ROOT / "web" / "docs" / f"{schema.node_id}.md").read_text(encoding="utf-8")
        listed = re.findall(
            r"^Advanced inputs, collapsed in newer versions of ComfyUI: (.+)\.$", page, re.M
        )
        advanced = [put.display_name for put in schema.inputs if getattr(put, "advanced", None)]
        assert listed == ([", ".join(advanced)] if advanced else []), schema.node_id


def test_an_input_of_one_name_is_the_same_everywhere(schemas):
    """Its kind, default, range and step; a name that means something else is another name."""
    facts = {}
    for _, schema in schemas:
        for put in schema.inputs:
            if hasattr(put, "min") and put.display_name not in ("count", "seed"):
                own = (put.id, put.default, put.min, put.max, put.step)
                assert facts.setdefault(put.display_name, own) == own, (schema.node_id, put.id)


def test_ids_of_inputs_and_outputs_differ(schemas):
    for _, schema in schemas:
        ids = [put.id for put in [*schema.inputs, *schema.outputs]]
        assert len(ids) == len(set(ids))


def test_execute_takes_the_inputs_and_has_their_defaults(schemas):
    for node, schema in schemas:
        parameters = inspect.signature(node.execute).parameters
        assert set(parameters) == {put.id for put in schema.inputs}
        for put in schema.inputs:
            default = getattr(put, "default", None)
            if default is not None:
                assert parameters[put.id].default == default, (schema.node_id, put.id)
            elif put.optional:
                assert parameters[put.id].default is None


def test_search_words_reach_hosts_that_know_them(host, schemas):
    if "search_aliases" not in inspect.signature(host.io.Schema).parameters:
        pytest.skip("this host has no search_aliases")
    for _, schema in schemas:
        coloring = {"colorize", "colourise", "black and white", "b&w"} & set(schema.search_aliases)
        colors = schema.display_name.startswith("Colorize")  # helpers would hide these nodes
        assert len(coloring) == (4 if colors else 0), schema.node_id
        assert len(schema.search_aliases) == len(set(schema.search_aliases)), schema.node_id


def test_few_widgets_are_in_sight(host, schemas):
    if "advanced" not in inspect.signature(host.io.Int.Input).parameters:
        pytest.skip("this host has no advanced inputs")
    for _, schema in schemas:
        seen = [put.id for put in schema.inputs if hasattr(put, "default") and not put.advanced]
        assert len(seen) <= 3, (schema.node_id, seen)


def test_only_the_gallery_draws_a_new_seed_after_each_run(schemas):
    """The front end does so for every input called seed, unless it is told not to."""
    result = {
        schema.node_id: put.control_after_generate
        for _, schema in schemas
        for put in schema.inputs
        if put.id == "seed"
    }
    assert result == {"ColoristVariations": True, "ColoristBuildMemory": False}


def test_newer_keywords_are_dropped_where_unknown_and_typos_are_not(host):
    class Old:
        def __init__(self, id, tooltip=None):
            self.id, self.tooltip = id, tooltip

    class New(Old):
        def __init__(self, id, tooltip=None, advanced=None):
            super().__init__(id, tooltip)
            self.advanced = advanced

    make = host.bridge.build_supported
    assert make(Old, "a", tooltip="t", advanced=True).tooltip == "t"
    assert make(New, "a", tooltip="t", advanced=True).advanced is True
    with pytest.raises(TypeError, match="tooltpi"):
        make(New, "a", tooltpi="t")


@pytest.mark.parametrize("name", ["my pack.v1-test", "comfyui-colorist", "ünïcode (2)"])
def test_the_folder_may_have_any_name(host, folder, tmp_path, name):
    """Loaded with the host's own recipe (nodes.py, load_custom_node)."""
    link = tmp_path / "custom_nodes" / name
    link.parent.mkdir()
    link.symlink_to(ROOT, target_is_directory=True)
    module_name = str(link).replace(".", "_x_")
    spec = importlib.util.spec_from_file_location(module_name, link / "__init__.py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[module_name] = module
    try:
        spec.loader.exec_module(module)
        extension = asyncio.run(module.comfy_entrypoint())
        assert isinstance(extension, host.bridge.ComfyExtension)
        nodes = asyncio.run(extension.get_node_list())
        ids = [node.GET_SCHEMA().node_id for node in nodes]
        assert ids == [node.GET_SCHEMA().node_id for node in host.nodes.NODES]
        assert not hasattr(module, "NODE_CLASS_MAPPINGS")
        assert (link / module.WEB_DIRECTORY).is_dir()
    finally:
        for key in [key for key in sys.modules if key.startswith(module_name)]:
            del sys.modules[key]


def test_importing_the_pack_costs_little():
    code = (
        "import runpy, sys;"
        f"runpy.run_path({str(ROOT / 'trainers' / '_standalone.py')!r})['package']();"
        "print(sorted({name.split('.')[0] for name in sys.modules} & "
        "{'torch', 'numpy', 'scipy', 'PIL', 'av', 'torchvision', 'einops', 'sklearn', 'cv2'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"


def test_importing_the_nodes_needs_torch_numpy_and_safetensors_alone():
    code = (
        "import runpy, sys;"
        f"runpy.run_path({str(ROOT / 'tests' / 'host' / 'standin.py')!r})['install']();"
        f"runpy.run_path({str(ROOT / 'trainers' / '_standalone.py')!r})['package']();"
        "import comfyui_colorist.nodes;"
        "print(sorted({name.split('.')[0] for name in sys.modules} & "
        "{'scipy', 'PIL', 'av', 'torchvision', 'sklearn', 'cv2', 'transformers'}))"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
