"""XMP packets: what stays, what goes, and the origin of the colors."""

import runpy
from datetime import datetime
from pathlib import Path
from types import SimpleNamespace
from xml.etree import ElementTree

import numpy as np
import pytest
from comfyui_colorist import __version__
from comfyui_colorist.media import image_xmp
from comfyui_colorist.media.image_data import ImageMetadata
from comfyui_colorist.media.image_io import read_image, write_image
from comfyui_colorist.media.image_xmp import RDF, add_origin, clean_xmp

helpers = SimpleNamespace(**runpy.run_path(str(Path(__file__).with_name("image_helpers.py"))))
XMP = helpers.XMP
SOURCE_TYPES = "http://cv.iptc.org/newscodes/digitalsourcetype/"


def packet(attributes: str = "", elements: str = "", about: str = "") -> bytes:
    namespaces = {
        "rdf": RDF,
        "xmp": image_xmp.XMP,
        "xmpMM": image_xmp.XMP_MEDIA,
        "stEvt": image_xmp.XMP_EVENT,
        "tiff": image_xmp.TIFF,
        "photoshop": image_xmp.PHOTOSHOP,
        "ext": image_xmp.IPTC_EXTENSION,  # usually Iptc4xmpExt
    }
    declared = " ".join(f'xmlns:{prefix}="{uri}"' for prefix, uri in namespaces.items())
    return (
        f'<x:xmpmeta xmlns:x="adobe:ns:meta/" {declared}><rdf:RDF>'
        f'<rdf:Description rdf:about="{about}" {attributes}>{elements}</rdf:Description>'
        "</rdf:RDF></x:xmpmeta>"
    ).encode()


def properties(xmp: bytes) -> dict[str, list[str]]:
    """Return the text of all properties and fields, without their namespaces."""
    texts: dict[str, list[str]] = {}
    for node in ElementTree.fromstring(xmp).iter():
        pairs = [*node.attrib.items(), (node.tag, (node.text or "").strip())]
        for name, text in pairs:
            if text:
                texts.setdefault(name.split("}")[-1], []).append(text)
    return texts


def test_a_clean_packet_stays_as_it_is():
    assert clean_xmp(XMP, "x") == XMP
    assert clean_xmp(XMP.decode(), "x") == XMP
    assert clean_xmp(helpers.SIDEWAYS_XMP + b" \n\0", "x") == XMP
    assert clean_xmp(b"", "x") == clean_xmp(b"\0\0", "x") == b""


def test_properties_of_the_old_file_go():
    xmp = packet(
        'tiff:Orientation="6" photoshop:ColorMode="1" photoshop:City="Kyiv"',
        "<xmp:Thumbnails><rdf:Alt><rdf:li>gray preview</rdf:li></rdf:Alt></xmp:Thumbnails>"
        "<tiff:ImageWidth>5</tiff:ImageWidth><xmp:Rating>4</xmp:Rating>",
    )
    assert properties(clean_xmp(xmp, "x")) == {"City": ["Kyiv"], "Rating": ["4"]}


def test_line_breaks_and_special_characters_stay():
    text = 'two\nlines & "quotes" <b>\tMüller'
    written = "two&#xA;lines &amp; &quot;quotes&quot; &lt;b>&#9;Müller"
    xmp = packet(f'photoshop:Instructions="{written}"')
    for _ in range(2):
        xmp = add_origin(clean_xmp(xmp, "x"), "model")
        assert properties(xmp)["Instructions"] == [text]


@pytest.mark.parametrize(
    ("xmp", "reason"),
    [
        (b"<x/>", "no RDF"),
        (b"<x", "unclosed token"),
        (b"\xff\xfe", "can't decode byte"),
        (b'<a tiff:Orientation="6"/>', "unbound prefix"),
        (b"<a>" * 5000 + b"</a>" * 5000, "recursion"),
        (b" " * 2**22 + XMP, "more than 4 MB"),
        (
            b'<!DOCTYPE a [<!ENTITY b "bomb"><!ENTITY c "&b;&b;&b;">]><a>&c;</a>',
            "it declares a document type",
        ),
        (b'<!DOCTYPE a SYSTEM "file:///etc/passwd"><a/>', "it declares a document type"),
    ],
)
def test_damaged_packets_are_left_out(xmp, reason, caplog):
    assert clean_xmp(xmp, "x.jpg") == b""
    assert "x.jpg: damaged XMP is left out (" in caplog.text
    assert reason in caplog.text


@pytest.mark.parametrize("xmp", [b"", XMP])
def test_origin_is_added(xmp):
    before = properties(xmp) if xmp else {}
    texts = properties(add_origin(xmp, "ddcolor <nano> & co"))
    when = datetime.fromisoformat(texts.pop("when")[0])
    assert abs((datetime.now().astimezone() - when).total_seconds()) < 60
    assert texts == before | {
        "DigitalSourceType": [f"{SOURCE_TYPES}compositeWithTrainedAlgorithmicMedia"],
        "AISystemUsed": ["Colorist, ddcolor <nano> & co"],
        "AISystemVersionUsed": [__version__],
        "parseType": ["Resource"],
        "action": ["edited"],
        "softwareAgent": [f"Colorist {__version__}"],
        "parameters": ["colors inferred by ddcolor <nano> & co"],
    }


def test_origin_replaces_the_old_one_and_continues_the_history():
    """A second property of a name would make the packet invalid."""
    xmp = packet(
        f'ext:DigitalSourceType="{SOURCE_TYPES}print"',
        '<xmpMM:History><rdf:Seq><rdf:li stEvt:action="saved"/></rdf:Seq></xmpMM:History>',
        about="uuid:1",
    )
    texts = properties(add_origin(add_origin(xmp, "first"), "second"))
    source_type = f"{SOURCE_TYPES}compositeWithTrainedAlgorithmicMedia"
    assert texts["DigitalSourceType"] == [source_type]
    assert texts["AISystemUsed"] == ["Colorist, second"]
    assert texts["action"] == ["saved", "edited", "edited"]
    assert texts["parameters"] == [
        f"colors inferred by first; digital source type before: {SOURCE_TYPES}print",
        f"colors inferred by second; digital source type before: {source_type}",
    ]
    assert set(texts["about"]) == {"uuid:1"}  # others would be ignored


def test_a_damaged_history_gets_no_second_one():
    xmp = packet(elements="<xmpMM:History>lost</xmpMM:History>")
    texts = properties(add_origin(xmp, "bad\x01name\udc80"))
    assert texts["History"] == ["lost"]
    assert texts["AISystemUsed"] == ["Colorist, bad?name?"]


@pytest.mark.parametrize("suffix", [".jpg", ".png", ".tif", ".webp"])
@pytest.mark.parametrize("bits", [8, 16])
def test_files_name_the_model(tmp_path, suffix, bits):
    metadata = ImageMetadata(bit_depth=bits, xmp=XMP, inferred_by="ddcolor-nano")
    write_image(tmp_path / f"x{suffix}", np.zeros((4, 4, 3), np.float32), metadata)
    texts = properties(read_image(tmp_path / f"x{suffix}").metadata.xmp)
    assert texts["AISystemUsed"] == ["Colorist, ddcolor-nano"]
    assert texts["creator"] == ["Müller"]
