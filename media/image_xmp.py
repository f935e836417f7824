"""XMP packets of colorized copies: outdated properties are removed, the origin of colors is added.

Packets are edited as XML trees, so that everything else in them stays. (XMP Specification, part 1;
IPTC Photo Metadata Standard 2025.1.)
"""

import logging
from datetime import datetime
from xml.dom import minidom
from xml.parsers.expat import ExpatError
from xml.sax.saxutils import escape, quoteattr

from .. import __version__
from .errors import error_reason

log = logging.getLogger(__name__)

MAX_BYTES = 2**22  # a tree needs fifty times as much memory
RDF = "http://www.w3.org/1999/02/22-rdf-syntax-ns#"
XMLNS = "http://www.w3.org/2000/xmlns/"
XMP = "http://ns.adobe.com/xap/1.0/"
XMP_MEDIA = "http://ns.adobe.com/xap/1.0/mm/"
XMP_EVENT = "http://ns.adobe.com/xap/1.0/sType/ResourceEvent#"
TIFF = "http://ns.adobe.com/tiff/1.0/"
EXIF = "http://ns.adobe.com/exif/1.0/"
PHOTOSHOP = "http://ns.adobe.com/photoshop/1.0/"
IPTC_EXTENSION = "http://iptc.org/std/Iptc4xmpExt/2008-02-29/"
SOURCE_TYPE = "http://cv.iptc.org/newscodes/digitalsourcetype/compositeWithTrainedAlgorithmicMedia"
OUTDATED = (
    (XMP, "Thumbnails"),  # they show the gray photo
    *((TIFF, name) for name in ("Orientation", "ImageWidth", "ImageLength", "BitsPerSample")),
    *((TIFF, name) for name in ("Compression", "PhotometricInterpretation", "SamplesPerPixel")),
    *((EXIF, name) for name in ("ColorSpace", "PixelXDimension", "PixelYDimension")),
    *((PHOTOSHOP, name) for name in ("ColorMode", "ICCProfile")),
)
"""Properties that describe the old file."""
ORIGIN = tuple(
    (IPTC_EXTENSION, name) for name in ("DigitalSourceType", "AISystemUsed", "AISystemVersionUsed")
)
EMPTY_PACKET = (
    '<?xpacket begin="\ufeff" id="W5M0MpCehiHzreSzNTczkc9d"?>'
    f'<x:xmpmeta xmlns:x="adobe:ns:meta/"><rdf:RDF xmlns:rdf="{RDF}"/></x:xmpmeta>'
    '<?xpacket end="w"?>'
)


def clean_xmp(xmp: str | bytes, name: str) -> bytes:
    """Return an XMP packet without what describes the old file; empty if it is damaged.

    Args:
        xmp: packet of the source; may be empty.
        name: file name for warnings.
    """
    data = xmp.encode() if isinstance(xmp, str) else xmp
    if not data.strip(b"\0 \r\n\t"):
        return b""
    try:
        document, descriptions = _parse(data)
        for namespace, local_name in OUTDATED:
            _remove(descriptions, namespace, local_name)
        return _serialize(document)
    except (ValueError, ExpatError, RecursionError) as error:
        log.warning("%s: damaged XMP is left out (%s).", name, error_reason(error))
        return b""


def add_origin(xmp: bytes, model: str) -> bytes:
    """Return a packet that says which model inferred the colors, and when.

    Args:
        xmp: packet from `clean_xmp`; may be empty.
        model: name of the model.
    """
    model = "".join(c if c.isprintable() else "?" for c in model)  # XML holds no control characters
    document, descriptions = _parse(xmp or EMPTY_PACKET.encode())
    previous = [_remove(descriptions, namespace, name) for namespace, name in ORIGIN][0]
    change = f"colors inferred by {model}"
    change += f"; digital source type before: {previous}" if previous else ""
    about = next((node.getAttributeNS(RDF, "about") for node in descriptions), "")
    addition, (origin,) = _parse(_origin_packet(about, model, change).encode())
    document.getElementsByTagNameNS(RDF, "RDF")[0].appendChild(origin)
    if histories := _children(descriptions, XMP_MEDIA, "History"):  # a second one is not allowed
        _, added = _children([origin], XMP_MEDIA, "History")[0]
        event = added.getElementsByTagNameNS(RDF, "li")[0]
        # Prefixes of the event, whatever they are called where it goes
        event.setAttributeNS(XMLNS, "xmlns:rdf", RDF)
        event.setAttributeNS(XMLNS, "xmlns:stEvt", XMP_EVENT)
        for sequence in histories[0][1].getElementsByTagNameNS(RDF, "Seq")[:1]:
            sequence.appendChild(event)
        origin.removeChild(added)
    addition.unlink()
    return _serialize(document)


def _origin_packet(about: str, model: str, change: str) -> str:
    software = f"Colorist {__version__}"
    when = datetime.now().astimezone().isoformat(timespec="seconds")
    return (
        f'<rdf:RDF xmlns:rdf="{RDF}"><rdf:Description rdf:about={quoteattr(about)}'
        f' xmlns:Iptc4xmpExt="{IPTC_EXTENSION}" xmlns:xmpMM="{XMP_MEDIA}"'
        f' xmlns:stEvt="{XMP_EVENT}" xmlns:rdf="{RDF}">'
        f"<Iptc4xmpExt:DigitalSourceType>{SOURCE_TYPE}</Iptc4xmpExt:DigitalSourceType>"
        f"<Iptc4xmpExt:AISystemUsed>{escape(f'Colorist, {model}')}</Iptc4xmpExt:AISystemUsed>"
        f"<Iptc4xmpExt:AISystemVersionUsed>{__version__}</Iptc4xmpExt:AISystemVersionUsed>"
        '<xmpMM:History><rdf:Seq><rdf:li rdf:parseType="Resource">'
        f"<stEvt:action>edited</stEvt:action><stEvt:when>{when}</stEvt:when>"
        f"<stEvt:softwareAgent>{software}</stEvt:softwareAgent>"
        f"<stEvt:parameters>{escape(change)}</stEvt:parameters>"
        "</rdf:li></rdf:Seq></xmpMM:History></rdf:Description></rdf:RDF>"
    )


def _parse(xmp: bytes) -> tuple[minidom.Document, list[minidom.Element]]:
    """Return the tree of a packet and its descriptions.

    Raises:
        ValueError, ExpatError: not an XMP packet, or one with a document type, whose entities can
            fill the memory.
    """
    if len(xmp) > MAX_BYTES:
        raise ValueError(f"more than {MAX_BYTES // 2**20} MB")
    text = xmp.decode("utf-8-sig").strip("\0 \r\n\t")
    if "<!DOCTYPE" in text or "<!ENTITY" in text:
        raise ValueError("it declares a document type")
    document = minidom.parseString(text.encode())
    packets = document.getElementsByTagNameNS(RDF, "RDF")
    if not packets:
        raise ValueError("no RDF")
    descriptions = [
        node
        for node in packets[0].childNodes
        if isinstance(node, minidom.Element)
        and (node.namespaceURI, node.localName) == (RDF, "Description")
    ]
    for description in descriptions:
        _move_line_breaks(document, description)
    return document, descriptions


def _move_line_breaks(document: minidom.Document, description: minidom.Element) -> None:
    """Turn attributes with line breaks into elements; minidom writes them as spaces otherwise."""
    for attribute in list(description.attributes.values()):
        if attribute.namespaceURI and any(character in attribute.value for character in "\r\n\t"):
            element = document.createElementNS(attribute.namespaceURI, attribute.name)
            element.appendChild(document.createTextNode(attribute.value))
            description.removeAttributeNode(attribute)
            description.appendChild(element)


def _children(
    descriptions: list[minidom.Element], namespace: str, name: str
) -> list[tuple[minidom.Element, minidom.Element]]:
    """Return the elements of a property, each with its description."""
    return [
        (description, node)
        for description in descriptions
        for node in description.childNodes
        if isinstance(node, minidom.Element)
        and (node.namespaceURI, node.localName) == (namespace, name)
    ]


def _remove(descriptions: list[minidom.Element], namespace: str, name: str) -> str:
    """Remove a property, and return its text."""
    texts = []
    for description in descriptions:
        if attribute := description.getAttributeNodeNS(namespace, name):
            texts.append(attribute.value)
            description.removeAttributeNode(attribute)
    for description, node in _children(descriptions, namespace, name):
        texts += [child.data for child in node.childNodes if isinstance(child, minidom.Text)]
        description.removeChild(node)
    return "".join(texts).strip()


def _serialize(document: minidom.Document) -> bytes:
    """Return the packet with its processing instructions, but without an XML declaration."""
    return "".join(node.toxml() for node in document.childNodes).encode()
