"""The example workflows fit the nodes as they are now."""

import json
import re
from pathlib import Path

import pytest
from comfyui_colorist.model_store import catalog
from comfyui_colorist.model_store.paths import bundled_models

ROOT = Path(__file__).resolve().parents[2]
FILES = sorted((ROOT / "example_workflows").glob("*.json"))
NOT_WIDGETS = {"IMAGE", "MASK", "COLORIZER", "EXEMPLAR_COLORIZER", "COLOR_MEMORY"}
NOT_WIDGETS |= {"POINT_HINT_COLORIZER", "FILM_STATE"}
CHOSEN = {"film": True}  # inputs that a workflow is there to show


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_workflow(host, folder, file):
    text = file.read_text(encoding="utf-8")
    graph = json.loads(text)
    schemas = {node.GET_SCHEMA().node_id: node.GET_SCHEMA() for node in host.nodes.NODES}
    ours = [node for node in graph["nodes"] if node["type"] in schemas]
    assert ours
    for node in ours:
        schema = schemas[node["type"]]
        sockets = [put for put in schema.inputs if put.io_type in NOT_WIDGETS]
        assert [i["name"] for i in node["inputs"] if "widget" not in i] == [p.id for p in sockets]
        assert all(
            i["link"] for i, p in zip(node["inputs"], sockets, strict=True) if not p.optional
        )
        widgets = [put for put in schema.inputs if put.io_type not in NOT_WIDGETS]
        values = iter(node["widgets_values"])
        for put in widgets:
            value = next(values)
            if getattr(put, "control_after_generate", None):
                assert next(values) in ("fixed", "randomize")  # the front end's own widget
            if put.id == "model" and "models" in node["properties"]:
                _is_published(value, node["properties"]["models"])
            elif put.id == "model":
                assert value in bundled_models()
            else:
                assert value == CHOSEN.get(put.id, put.default)
        assert not list(values)
    assert not re.search(r"[/\\](home|root|Users|work|tmp)[/\\]", text)


def _is_published(value, models):
    """The front end offers to download it: from here, into this folder, where it is missing."""
    known = catalog.find_published(value)
    url = known.url(catalog.HUB)
    assert models == [{"name": value, "url": url, "directory": "colorization"}]
    assert known.downloadable and value == known.file
    assert url.startswith(("https://huggingface.co/", "https://civitai.com/"))
    assert Path(value).suffix in (".safetensors", ".sft", ".ckpt", ".pth", ".pt")


def test_one_workflow_offers_a_download():
    assert any('"models": [' in file.read_text(encoding="utf-8") for file in FILES)


@pytest.mark.parametrize("file", FILES, ids=lambda file: file.stem)
def test_links_agree_with_nodes(file):
    graph = json.loads(file.read_text(encoding="utf-8"))
    nodes = {node["id"]: node for node in graph["nodes"]}
    for link, source, output, target, put, kind in graph["links"]:
        assert link in nodes[source]["outputs"][output]["links"]
        assert nodes[target]["inputs"][put]["link"] == link
        assert nodes[source]["outputs"][output]["type"] == kind
        assert nodes[target]["inputs"][put]["type"] in (kind, "*")


def test_every_workflow_has_a_thumbnail():
    assert FILES
    for file in FILES:
        assert file.with_suffix(".jpg").is_file()
