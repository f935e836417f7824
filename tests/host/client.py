"""HTTP client for a running host, and the conversion of saved workflows to prompts."""

import json
import time
import urllib.error
import urllib.request
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

DYNAMIC_COMBO = "COMFY_DYNAMICCOMBO_V3"  # a list whose choices have inputs
WIDGETS = ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO", "COLOR", "IMAGECOMPARE", DYNAMIC_COMBO)
FRONT_END_NODES = ("MarkdownNote", "Note")  # not part of a prompt
SEEDS = ("seed", "noise_seed")  # followed by a widget of the front end
MUTED = 2  # node.mode
# Local addresses must not go through a proxy of the environment.
_open = urllib.request.build_opener(urllib.request.ProxyHandler({})).open


@dataclass(frozen=True)
class Outcome:
    """The result of a prompt."""

    outputs: dict[str, dict]
    """Output node id -> images, text, ..."""
    error: str
    """Empty on success."""


class Client:
    """Client for the host at an address."""

    def __init__(self, url: str) -> None:
        self.url = url

    def get(self, path: str) -> Any:
        with _open(f"{self.url}/{path}", timeout=60) as answer:
            return json.load(answer)

    def status(self, path: str) -> int:
        """Return the HTTP status of a file."""
        try:
            with _open(f"{self.url}/{path}", timeout=60) as answer:
                return answer.status
        except urllib.error.HTTPError as error:
            return error.code

    def run(self, prompt: dict, timeout: float = 300) -> Outcome:
        """Queue a prompt and wait until it has finished."""
        body = json.dumps({"prompt": prompt}).encode()
        headers = {"Content-Type": "application/json"}
        request = urllib.request.Request(f"{self.url}/prompt", body, headers)
        try:
            with _open(request, timeout=60) as answer:
                queued = json.load(answer)
        except urllib.error.HTTPError as error:  # rejected before the run
            return Outcome({}, error.read().decode())
        if queued["node_errors"]:  # some outputs are rejected, the others run
            return Outcome({}, json.dumps(queued["node_errors"]))
        key = queued["prompt_id"]
        end = time.monotonic() + timeout
        while time.monotonic() < end:
            if done := self.get(f"history/{key}").get(key):
                status = done["status"]
                succeeded = status["status_str"] == "success"
                return Outcome(done["outputs"], "" if succeeded else json.dumps(status["messages"]))
            time.sleep(0.2)
        return Outcome({}, f"not finished within {timeout:.0f} s")


def prompt_of(workflow: dict, nodes: dict) -> dict[str, dict]:
    """Return the front end's prompt for a workflow without subgraphs and bypassed nodes.

    Args:
        workflow: As saved.
        nodes: The host's /object_info.
    """
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in FRONT_END_NODES or node.get("mode") == MUTED:
            continue
        values = dict(_widgets(nodes[node["type"]]["input"], iter(node.get("widgets_values", []))))
        linked = {put["name"]: links[put["link"]] for put in node["inputs"] if put.get("link")}
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": values | linked}
    return prompt


def _widgets(inputs: dict, values: Iterator) -> Iterator[tuple[str, Any]]:
    """Yield names and values of widgets; newer widgets get their defaults."""
    for group in ("required", "optional"):
        for name, (kind, *rest) in inputs.get(group, {}).items():
            options = rest[0] if rest else {}
            if options.get("forceInput") or not (isinstance(kind, list) or kind in WIDGETS):
                continue
            value = next(values, _default(kind, options))
            yield name, value
            if kind == DYNAMIC_COMBO:
                choice = next(c for c in options["options"] if c["key"] == value)
                nested = _widgets(choice["inputs"], values)
                yield from ((f"{name}.{inner}", v) for inner, v in nested)
            if options.get("control_after_generate") or (kind == "INT" and name in SEEDS):
                next(values, None)


def _default(kind: str | list, options: dict) -> Any:
    choices = kind if isinstance(kind, list) else options.get("options") or [None]
    first = choices[0]["key"] if kind == DYNAMIC_COMBO else choices[0]
    return options.get("default", first)
