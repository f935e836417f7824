"""The texts of the nodes in the languages of locales/, against the schemas.

English is a copy of the schemas: front ends before display names of inputs take it from there.
"""

import json
import re
from collections import Counter
from pathlib import Path

import pytest

LOCALES = Path(__file__).resolve().parents[2] / "locales"
LANGUAGES = ["de", "en", "es", "fr", "ja", "zh"]
HOSTS = {"loaders"}  # parts of a category that the front end itself translates, for all packs
NUMBER = re.compile(r"(?<![\d.])\d+(?:\.\d+)?")
# What must be found in every language as it is: names, files, choices, what is typed.
FIXED = re.compile(
    r"\b(?:[A-Z][A-Za-z]*[A-Z]\w*|bf16|fp16|fp32|models/[a-z/]+|R(?= after)|size(?= in pixels))\b"
    r"|\b(?:exact|published|auto)(?=:)|\.(?:safetensors|pth|pt|bin)\b"
    r"|\(images\)|\(download \.\.\.\)|#rrggbb|0\.\.1"
)
MESSAGE_SYNTAX = re.compile(r"[{}|@]")  # of vue-i18n, which would not show them as they are


def read(language: str, file: str) -> dict:
    return json.loads((LOCALES / language / file).read_text(encoding="utf-8"))


def flat(tree: dict, path: tuple[str, ...] = ()) -> dict[tuple[str, ...], str]:
    """Path -> text."""
    result = {}
    for name, value in tree.items():
        own = (*path, name)
        result |= flat(value, own) if isinstance(value, dict) else {own: value}
    return result


@pytest.fixture
def schemas(host, folder):
    return [node.GET_SCHEMA() for node in host.nodes.NODES]


@pytest.fixture
def english(schemas):
    """What the front end looks up: dots in ids become underscores, outputs go by their place."""

    def texts(put):
        return {"name": put.display_name, "tooltip": put.tooltip}

    return {
        schema.node_id.replace(".", "_"): {
            "display_name": schema.display_name,
            "description": schema.description,
            "inputs": {put.id.replace(".", "_"): texts(put) for put in schema.inputs},
            "outputs": {str(place): texts(put) for place, put in enumerate(schema.outputs)},
        }
        for schema in schemas
    }


@pytest.fixture
def pairs(english):
    """Path -> (English, translation) of a language."""

    def of(language):
        translated = flat(read(language, "nodeDefs.json"))
        return {path: (text, translated[path]) for path, text in flat(english).items()}

    return of


def test_there_are_these_languages_and_files():
    files = {path.relative_to(LOCALES).as_posix() for path in LOCALES.rglob("*") if path.is_file()}
    assert files == {f"{own}/{file}.json" for own in LANGUAGES for file in ("main", "nodeDefs")}


def test_english_is_what_the_schemas_say(english):
    assert read("en", "nodeDefs.json") == english


@pytest.mark.parametrize("language", LANGUAGES)
def test_every_text_is_there_and_none_is_left_over(english, language):
    assert set(flat(read(language, "nodeDefs.json"))) == set(flat(english))


@pytest.mark.parametrize("language", LANGUAGES)
def test_texts_can_be_shown(language):
    for path, text in flat(read(language, "nodeDefs.json")).items():
        assert text and text == text.strip(), path
        assert not MESSAGE_SYNTAX.search(text), path


@pytest.mark.parametrize("language", LANGUAGES)
def test_numbers_and_fixed_words_are_kept(pairs, language):
    for path, (text, own) in pairs(language).items():
        lost = Counter(NUMBER.findall(text)) - Counter(NUMBER.findall(own))
        assert not lost, (path, lost)
        assert not (lost := [word for word in FIXED.findall(text) if word not in own]), (path, lost)


@pytest.mark.parametrize("language", LANGUAGES)
def test_nodes_are_called_by_their_name_in_that_language(english, pairs, language):
    own_names = {
        node["display_name"]: read(language, "nodeDefs.json")[key]["display_name"]
        for key, node in english.items()
    }
    assert len(set(own_names.values())) == len(own_names)
    longest_first = "|".join(sorted(own_names, key=len, reverse=True))
    mentioned = re.compile(rf"\b(?:{longest_first})\b")
    for path, (text, own) in pairs(language).items():
        if path[-1] in ("description", "tooltip"):
            lost = [name for name in mentioned.findall(text) if own_names[name] not in own]
            assert not lost, (path, lost)


@pytest.mark.parametrize("language", LANGUAGES)
def test_one_english_text_has_one_translation(pairs, language):
    """Inputs that several nodes share read the same everywhere."""
    translations = {}
    for path, (text, own) in pairs(language).items():
        assert translations.setdefault(text, own) == own, path


@pytest.mark.parametrize("language", [own for own in LANGUAGES if own != "en"])
def test_no_sentence_is_left_in_english(pairs, language):
    for path, (text, own) in pairs(language).items():
        assert own != text or " " not in text, path


@pytest.mark.parametrize("language", LANGUAGES)
def test_menus_are_translated(schemas, language):
    parts = {part for schema in schemas for part in schema.category.split("/")} - HOSTS
    named = read(language, "main.json")
    assert set(named) == {"nodeCategories"} and set(named["nodeCategories"]) == parts
    assert all(named["nodeCategories"].values())
    assert language != "en" or all(part == text for part, text in named["nodeCategories"].items())
