"""Exit codes and messages, the same for all commands and trainers."""

import os
import re
import subprocess
import sys

import pytest
from comfyui_colorist.console import errors
from comfyui_colorist.console.errors import ExitCode, UsageError


def fail(error: BaseException):
    def command() -> ExitCode:
        raise error

    return command


@pytest.mark.parametrize(
    ("error", "code", "message"),
    [
        (UsageError("-o is missing."), ExitCode.USAGE, "colorist: error: -o is missing.\n"),
        (ValueError("bad\nmore"), ExitCode.FAILED, "colorist: error: bad\n"),
        (
            OSError(28, "disk full", "a.png"),
            ExitCode.FAILED,
            "colorist: error: a.png: disk full; free some space, or write to another disk.\n",
        ),
        (KeyboardInterrupt(), ExitCode.INTERRUPTED, "stopped.\n"),
    ],
)
def test_exit_codes(error, code, message, capsys):
    assert errors.run_command(fail(error), "colorist") is code
    out, err = capsys.readouterr()
    assert (out, err) == ("", message)


def test_error_of_the_system_without_a_file(capsys):
    """No "None:" where the system names no file."""
    errors.run_command(fail(OSError(28, "disk full")))
    message = "error: disk full; free some space, or write to another disk.\n"
    assert capsys.readouterr().err == message
    assert errors.format_error(OSError(28, "disk full"), "a.png").startswith("a.png: disk full;")


@pytest.mark.skipif(not os.path.exists("/dev/full"), reason="a device of Linux")
@pytest.mark.parametrize("lines", [1, 10**5])
def test_stdout_on_a_full_disk(root, lines):
    """Reported once, and not a second time when Python exits."""
    command = (
        f"from comfyui_colorist.console.errors import ExitCode, run_command;"
        f"sys.exit(run_command(lambda: print('x\\n' * {lines}) or ExitCode.OK))"
    )
    script = str(root / "trainers" / "_standalone.py")
    start = f"import runpy, sys; runpy.run_path({script!r})['package']()"
    with open("/dev/full", "w") as full:
        arguments = [sys.executable, "-c", f"{start}; {command}"]
        process = subprocess.run(
            arguments,
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            check=False,
            env={**os.environ, "PYTHONUNBUFFERED": ""},
        )
    assert process.returncode == 1
    message = "No space left on device; free some space, or write to another disk.\n"
    assert process.stderr in (f"error: stdout: {message}", f"error: {message}")


def test_success_and_bugs():
    assert errors.run_command(lambda: ExitCode.OK) is ExitCode.OK
    with pytest.raises(KeyError):  # not an expected error: it keeps its traceback
        errors.run_command(fail(KeyError("x")))


def test_setup_errors_are_usage_errors():
    with pytest.raises(UsageError, match=r"^x is 2$"), errors.as_usage_errors():
        raise ValueError("x is 2")
    with pytest.raises(UsageError, match=r"^--x: x is 2$"), errors.as_usage_errors("--x"):
        raise ValueError("x is 2")


@pytest.mark.parametrize(
    ("error", "name", "text"),
    [
        (ValueError("too small"), "sub/a.png", "sub/a.png: too small"),
        (ValueError("a.png: too small"), "sub/a.png", "a.png: too small"),
        (MemoryError(), "", "MemoryError"),
    ],
)
def test_messages_name_the_file_once(error, name, text):
    assert errors.format_error(error, name) == text


def test_the_documented_codes(root):
    """The first table of exit codes in the documentation is that of all commands."""
    page = (root / "docs" / "command-line.md").read_text(encoding="utf-8")
    table = page.split("| exit code | meaning |")[1].split("\n\n")[0]
    assert [int(code) for code in re.findall(r"^\| (\d+) \|", table, re.M)] == list(ExitCode)
