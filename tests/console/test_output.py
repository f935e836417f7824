"""Text of files never controls the terminal."""

import argparse
import logging

import pytest
from comfyui_colorist.console import output
from comfyui_colorist.console.output import ArgumentParser, SafeFormatter, escape_controls
from comfyui_colorist.console.progress import Progress

HOSTILE = "a\x1b[2J\rb\nc\x07\x9b31m\u202egnp.exe\u2028\x7f\udcff\x00"
ESCAPED = r"a\x1b[2J\rb\nc\x07\x9b31m\u202egnp.exe\u2028\x7f\udcff\x00"


def test_controls_are_escaped():
    assert escape_controls(HOSTILE) == ESCAPED
    assert escape_controls("a\nb\x1b", keep="\n") == "a\nb\\x1b"


@pytest.mark.parametrize(
    "text",
    ["", "plain", "größe é", "写真", "صورة", "👩\u200d🚀", "नमस्\u200dते", "a\\x1b", "–"],
)
def test_ordinary_text_stays(text):
    assert escape_controls(text) == text


def test_everything_printed_is_escaped(capsys):
    output.print_result(HOSTILE)
    output.log_stderr(HOSTILE)
    out, err = capsys.readouterr()
    assert (out, err) == (ESCAPED + "\n", ESCAPED + "\n")


def test_log_records_are_escaped(capsys):
    record = logging.LogRecord("colorist", logging.WARNING, "", 0, "%s", (HOSTILE,), None)
    output._StderrHandler().emit(record)
    assert ESCAPED in capsys.readouterr().err
    assert SafeFormatter("%(message)s").format(record) == ESCAPED.replace(r"\n", "\n")


def test_progress_labels_are_escaped(capsys):
    with Progress(HOSTILE, " photos", 2) as bar:
        bar.report(1, 2)
    assert ESCAPED in capsys.readouterr().err


def test_parsers_escape_what_they_quote(capsys):
    parser = ArgumentParser(prog="colorist")
    commands = parser.add_subparsers()
    assert isinstance(commands.add_parser("list"), argparse.ArgumentParser)
    with pytest.raises(SystemExit):
        parser.parse_args(["list", "\x1b[2J"])
    err = capsys.readouterr().err
    assert "\x1b" not in err and r"\x1b[2J" in err and err.startswith("usage:")
