"""Plain English: docstrings, comments, messages and documents avoid the words of the list.

The list holds dialect that this project once had: each entry says what to write instead.
"""

import ast
import io
import re
import tokenize
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[1]
APART = ("tests", "docs", "assets", "build", "dist")
SOURCES = sorted(
    path
    for path in (*ROOT.glob("*.py"), *ROOT.glob("[a-z]*/**/*.py"))
    if path.relative_to(ROOT).parts[0] not in APART
)
SCRIPTS = sorted((ROOT / "web").rglob("*.js"))
PAGES = sorted(
    [
        ROOT / "README.md",
        ROOT / "CONTRIBUTING.md",
        *(ROOT / "docs").rglob("*.md"),
        *(ROOT / "web" / "docs").rglob("*.md"),
    ]
)

BANNED = {
    r"\bin the box\b|\bboxed\b": "bundled",
    r"\bat hand\b": "installed, available",
    r"\bgoes? on\b|\bwent on\b": "resumes, continues",
    r"\banew\b": "again, rebuilt",
    r"(?<!there )\bis no (?!longer|more|less|fewer|better|worse|need\b)\w+": "is not a",
    r"\bof its own\b": "separate, or leave it out",
    r"\btold\b(?! apart| from)": "reported, given",
    r"\bfilms?\b(?! grain| border| strip| stock| base| scan)": "video",
    r"\bpictures?\b": "image",
    r"\bcolour|\bgrey|\bcentre\b|\b(?:normal|initial|stabil)is(?!m)|\bcoloris[ei]": "color, gray",
    r"\blicence\b": "license",
    r"\bsurety\b": "confidence",
    r"\bhow surely\b": "confidence",
    r"\bsteadied\b|\bsteady\b": "stabilized, stable",
    r"\bbeside that\b": "also",
    r"\bby heart\b": "memorize, overfit",
}
"""Pattern, in lower case -> what to write instead."""

OPENINGS = r"(?:what|of|whether|how|as|those|that|where|if|with)\b"
"""A docstring begins with a command or a noun phrase, not with one of these."""

# Names in files, links and commands that are fixed: they are not prose.
FIXED = re.compile(
    r"`[^`]*`|\]\([^)]*\)|https?://\S+|<[^>]*>|film\.(?:md|json|mkv|mp4|mov)|--[\w-]+|\{[^}]*\}"
    r"|Colouri[sz]ation|\*colourise\*"
)


def messages(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of each docstring, comment and string of three words or more."""
    for token in tokenize.generate_tokens(io.StringIO(text).readline):
        is_text = token.type == tokenize.COMMENT or (
            token.type in (tokenize.STRING, getattr(tokenize, "FSTRING_MIDDLE", -1))
            and token.string.count(" ") > 1
        )
        if is_text:
            for offset, line in enumerate(token.string.splitlines()):
                yield token.start[0] + offset, line


def comments(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of each comment of a script."""
    for match in re.finditer(r"//[^\n]*|/\*.*?\*/", text, re.DOTALL):
        start = text.count("\n", 0, match.start()) + 1
        for offset, line in enumerate(match[0].splitlines()):
            yield start + offset, line


def paragraphs(text: str) -> Iterator[tuple[int, str]]:
    """Yield (line, text) of a document without its blocks of code."""
    fenced = False
    for number, line in enumerate(text.splitlines(), 1):
        fenced ^= line.lstrip().startswith("```")
        if not fenced and not line.startswith("    "):
            yield number, line


def dialect(lines: Iterator[tuple[int, str]]) -> list[str]:
    """Return a line for each banned word, with what to write instead."""
    faults = []
    for number, line in lines:
        prose = FIXED.sub("", line).lower()
        for pattern, instead in BANNED.items():
            if match := re.search(pattern, prose):
                faults.append(f"{number}: '{match[0]}' (write: {instead}): {line.strip()[:90]}")
    return faults


def relative(path: Path) -> str:
    return path.relative_to(ROOT).as_posix()


@pytest.mark.parametrize("path", SOURCES, ids=relative)
def test_sources_are_in_plain_english(path):
    text = path.read_text(encoding="utf-8")
    faults = dialect(messages(text))
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef | ast.Module):
            summary = (ast.get_docstring(node) or "").partition("\n")[0]
            if re.match(OPENINGS, summary.lower()):
                faults.append(f"{getattr(node, 'lineno', 1)}: docstring opens with: {summary[:70]}")
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize("path", SCRIPTS, ids=relative)
def test_scripts_are_in_plain_english(path):
    faults = dialect(comments(path.read_text(encoding="utf-8")))
    assert not faults, "\n" + "\n".join(faults)


@pytest.mark.parametrize("path", PAGES, ids=relative)
def test_pages_are_in_plain_english(path):
    faults = dialect(paragraphs(path.read_text(encoding="utf-8")))
    assert not faults, "\n" + "\n".join(faults)


def test_the_list_finds_what_it_should():
    lines = enumerate(["The film is no picture of its own.", "A `film.md` link, film grain."], 1)
    assert len(dialect(lines)) == 4
