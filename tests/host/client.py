"""What a test says to a running host, and how a saved workflow becomes a prompt for it."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

NESTED = "COMFY_DYNAMICCOMBO_V3"  # a list whose choice brings inputs of its own
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR", "IMAGECOMPARE", NESTED)
UNSEEN = ("MarkdownNote", "Note")  # nodes that the host never hears of
SEEDS = ("seed", "noise_seed")  # behind these the front end puts a widget of its own
MUTED = 2  # a node's mode
# Of this machine alone: a proxy of the environment must not be asked.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


@dataclass(frozen=True)
class Outcome:
    """What came of a prompt."""

    outputs: dict[str, dict]
    """By the id of an output node: images, text and the like."""
    error: str
    """"" where all went well."""


class Client:
    """Talks to the host at an address."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str) -> Any:
        with _open(f"{self.url}/{path}", timeout=60) as answer:
            return json.load(answer)

    def status(self, path: str) -> int:
        """Of a file that the host serves."""
        try:
            with _open(f"{self.url}/{path}", timeout=60) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def run(self, prompt: dict, timeout: float = 300) -> Outcome:
        """Queue a prompt and wait for its end."""
        body = json.dumps({"prompt": prompt}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/prompt", body, headers)
        try:
            with _open(request, timeout=60) as answer:
                queued = json.load(answer)
        except urllib.error.HTTPError as error:  # refused before anything ran
            return Outcome({}, error.read().decode())
        if queued["node_errors"]:  # some outputs are refused, the others run
            return Outcome({}, json.dumps(queued["node_errors"]))
        key = queued["prompt_id"]
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if done := self.get(f"history/{key}").get(key):
                status = done["status"]
                well = status["status_str"] == "success"
                return Outcome(done["outputs"], "" if well else json.dumps(status["messages"]))
            time.sleep(0.2)
        return Outcome({}, f"no end within {timeout:.0f} s")


def prompt_of(workflow: dict, nodes: dict) -> dict[str, dict]:
    """The prompt that the front end makes of a workflow without sub-graphs and bypassed nodes.

    Args:
        workflow: as it is saved.
        nodes: the host's /object_info.
    """
    wires = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in UNSEEN or node.get("mode") == MUTED:
            continue
        given = dict(_widgets(nodes[node["type"]]["input"], iter(node.get("widgets_values", []))))
        linked = {put["name"]: wires[put["link"]] for put in node["inputs"] if put.get("link")}
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": given | linked}
    return prompt


def _widgets(inputs: dict, values: Iterator) -> Iterator[tuple[str, Any]]:
    """Names and values of widgets; those that a workflow does not have yet get their defaults."""
    for group in ("required", "optional"):
        for name, (kind, *rest) in inputs.get(group, {}).items():
            options = rest[0] if rest else {}
            if options.get("forceInput") or not (isinstance(kind, list) or kind in WIDGETS):
                continue
            value = next(values, _default(kind, options))
            yield name, value
            if kind == NESTED:
                own = next(one["inputs"] for one in options["options"] if one["key"] == value)
                yield from ((f"{name}.{inner}", v) for inner, v in _widgets(own, values))
            if options.get("control_after_generate") or (kind == "INT" and name in SEEDS):
                next(values, None)


def _default(kind: str | list, options: dict) -> Any:
    choices = kind if isinstance(kind, list) else options.get("options") or [None]
    first = choices[0]["key"] if kind == NESTED else choices[0]
    return options.get("default", first)
