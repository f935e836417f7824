"""The shipped files (tracked and not in .comfyignore), and the rules of the node registry."""

import ast
import re
import subprocess
import sys
from pathlib import Path

import pytest
from PIL import Image

tomllib = pytest.importorskip("tomllib" if sys.version_info >= (3, 11) else "tomli")

ROOT = Path(__file__).resolve().parents[1]
REPOSITORY = "https://raw.githubusercontent.com/comfyui-colorist/comfyui-colorist/main/"
# The registry rejects packs that call these (docs.comfy.org/registry/standards).
CALLS = {"eval", "exec", "compile", "__import__"}
MODULES = {"subprocess", "pty", "pip", "marshal", "dill", "cloudpickle"}
OS_FUNCTIONS = {"system", "popen", "fork", "startfile"}
OS_PREFIXES = ("exec", "spawn", "posix_spawn")


@pytest.fixture(scope="module")
def shipped() -> list[Path]:
    """Files as the registry's publisher packs them, including new files of the working tree."""
    if not (ROOT / ".git").exists():
        pytest.skip("needs a git checkout")

    def listed(*options: str) -> set[str]:
        command = ["git", "ls-files", "-z", *options]
        ran = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
        return set(filter(None, ran.stdout.split("\0")))

    existing = listed("--cached", "--others", "--exclude-standard")
    left_out = listed("--cached", "--others", "--ignored", "--exclude-from=.comfyignore")
    return sorted(ROOT / name for name in existing - left_out if (ROOT / name).is_file())


@pytest.fixture(scope="module")
def declared() -> dict:
    return tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))


def test_tests_and_tools_stay_here(shipped):
    tops = {path.relative_to(ROOT).parts[0] for path in shipped}
    assert {"__init__.py", "nodes", "web", "weights", "example_workflows", "LICENSE"} <= tops
    assert not tops & {"tests", "benchmarks", "assets", "Makefile", "constraints.txt"}
    assert not [top for top in tops if top.startswith(".")]


def test_generated_folders_stay_here():
    """Without git, the publisher packs the whole folder, and .comfyignore alone leaves them out."""
    patterns = (ROOT / ".comfyignore").read_text(encoding="utf-8").splitlines()
    assert {"build/", "dist/"} <= set(patterns)


def test_all_code_of_the_package_is_shipped(shipped, declared):
    names = {str(path.relative_to(ROOT)) for path in shipped}
    for package in declared["tool"]["setuptools"]["packages"]:
        folder = ROOT.joinpath(*package.split(".")[1:])
        assert {str(path.relative_to(ROOT)) for path in folder.glob("*.py")} <= names


def test_the_archive_is_small(shipped):
    """Weights, which do not compress, make up nearly all of the archive."""
    others = [path for path in shipped if path.parent.name != "weights"]
    assert sum(path.stat().st_size for path in others) < 5e6


def test_shipped_python_runs_no_programs_and_no_text(shipped):
    result = []
    for path in shipped:
        if path.suffix == ".py":
            tree = ast.parse(path.read_text(encoding="utf-8"))
            lines = [node.lineno for node in ast.walk(tree) if _forbidden(node)]
            result += [f"{path.relative_to(ROOT)}:{line}" for line in lines]
    assert not result


def _forbidden(node: ast.AST) -> bool:
    match node:
        case ast.Call(func=ast.Name(id=name)):
            return name in CALLS
        case ast.Import(names=names):
            return any(alias.name.split(".")[0] in MODULES for alias in names)
        case ast.ImportFrom(module=str(module), level=0, names=names):
            from_os = module == "os" and any(_starts(alias.name) for alias in names)
            return from_os or module.split(".")[0] in MODULES
        case ast.Attribute(value=ast.Name(id="os"), attr=name):
            return _starts(name)
        case ast.Attribute(value=ast.Name(id="pickle"), attr=name):
            return name in ("load", "loads", "Unpickler")
    return False


def _starts(name: str) -> bool:
    return name in OS_FUNCTIONS or name.startswith(OS_PREFIXES)


@pytest.mark.parametrize(
    "code",
    ["eval('1')", "import subprocess", "from subprocess import run", "os.system('')"]
    + ["from os import popen", "os.execv('', [])", "pickle.load(f)", "__import__('os')"],
)
def test_forbidden_code_is_found(code):
    assert any(map(_forbidden, ast.walk(ast.parse(code))))


@pytest.mark.parametrize("code", ["network.eval()", "re.compile('')", "os.environ", "os.path"])
def test_allowed_code_is_not_found(code):
    assert not any(map(_forbidden, ast.walk(ast.parse(code))))


def test_shipped_javascript_runs_no_text(shipped):
    for path in shipped:
        if path.suffix in (".js", ".mjs"):
            text = path.read_text(encoding="utf-8")
            assert not re.search(r"\beval\s*\(|\bnew\s+Function\b|\bimport\s*\(\s*[`\"']http", text)


def test_the_registry_finds_version_icon_and_banner(declared):
    comfy, project = declared["tool"]["comfy"], declared["project"]
    assert re.fullmatch(r"[a-z][a-z0-9-]+", comfy["PublisherId"])
    assert project["urls"]["Repository"].removeprefix("https://github.com/") in comfy["Icon"]
    text = (ROOT / comfy["version"]["path"]).read_text(encoding="utf-8")
    assert re.search(r'^__version__ = "\d+\.\d+\.\d+"$', text, re.MULTILINE)
    icon, banner = (
        Image.open(ROOT / comfy[name].removeprefix(REPOSITORY)) for name in ("Icon", "Banner")
    )
    assert icon.size == (400, 400)
    assert banner.width * 9 == banner.height * 21
