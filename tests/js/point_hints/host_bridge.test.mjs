import assert from "node:assert/strict";
import test from "node:test";

import {
  RUN_ONCE_MESSAGE, controls, createPreviewClient, displayedImage, fetchSuggestions, isLinked,
  promotedWidget, sessionOf, upstreamNode, viewPath, watchControls,
} from "../../../web/js/point_hints/host_bridge.js";

// --- Graphs --------------------------------------------------------------------------------------

function graph(id, nodes, links, more = {}) {
  const mock = { id, nodes, links: new Map(links.map((link) => [link.id, link])), ...more };
  mock.getNodeById = (wanted) => nodes.find((node) => node.id === wanted) ?? null;
  for (const node of nodes) node.graph = mock;
  return mock;
}
const link = (id, from, slot = 0, type = "IMAGE") => ({
  id, origin_id: from, origin_slot: slot, type,
});
const input = (name, from, type = "IMAGE") => ({ name, link: from, type });
const hints = (from) => ({ id: 9, type: "ColoristPointHints", inputs: [input("image", from)] });

test("an unlinked input has no upstream node", () => {
  const node = hints(null);
  const root = graph("r", [node], []);
  assert.equal(upstreamNode(node, "image", root), null);
  assert.equal(upstreamNode(node, "reference", root), null);
  assert.equal(upstreamNode({ inputs: [] }, "image", root), null);
});

test("a dangling link has no upstream node", () => {
  const node = hints(5);
  assert.equal(upstreamNode(node, "image", graph("r", [node], [])), null);
  assert.equal(upstreamNode(node, "image", graph("r", [node], [link(5, 77)])), null);
});

test("links stored as an object, as in older front ends", () => {
  const node = hints(5), load = { id: 1, type: "LoadImage" };
  const root = graph("r", [node, load], []);
  root.links = { 5: link(5, 1) };
  assert.equal(upstreamNode(node, "image", root), load);
});

test("reroutes and bypassed nodes are followed", () => {
  const load = { id: 1, type: "LoadImage" };
  const reroute = { id: 2, type: "Reroute", inputs: [input("", 10, "*")] };
  const mask = { ...input("mask", 12, "MASK") };
  const blur = { id: 3, type: "ImageBlur", mode: 4, inputs: [mask, input("image", 11)] };
  const node = hints(12);
  const root = graph("r", [load, reroute, blur, node], [link(10, 1), link(11, 2), link(12, 3)]);
  assert.equal(upstreamNode(node, "image", root), load);
  blur.mode = 0;
  assert.equal(upstreamNode(node, "image", root), blur);
});

test("a cycle of reroutes terminates", () => {
  const a = { id: 1, type: "Reroute", inputs: [input("", 2)] };
  const b = { id: 2, type: "Reroute", inputs: [input("", 1)] };
  const node = hints(1);
  const root = graph("r", [a, b, node], [link(1, 1), link(2, 2)]);
  assert.equal(upstreamNode(node, "image", root), null);
});

test("links into and out of a subgraph are followed", () => {
  const load = { id: 1, type: "LoadImage" };
  const node = hints(3);
  const subgraph = graph("s", [node], [link(3, -10, 0)], { inputs: [{ name: "photo" }] });
  const place = { id: 4, type: "s", subgraph, inputs: [input("x", null), input("photo", 7)] };
  const root = graph("r", [load, place], [link(7, 1)]);
  assert.equal(upstreamNode(node, "image", root), load);

  const inner = { id: 1, type: "LoadImage" };
  const source = graph("t", [inner], [link(8, 1)], { outputs: [{ linkIds: [8] }] });
  const box = { id: 2, type: "t", subgraph: source };
  const outer = hints(6);
  const other = graph("r", [box, outer], [link(6, 2, 0)]);
  assert.equal(upstreamNode(outer, "image", other), inner);
});

test("the widget that a subgraph shows for an input", () => {
  const node = hints(3);
  const subgraph = graph("s", [node], [link(3, -10, 0)], { inputs: [{ name: "points" }] });
  const widget = { name: "points", value: "" };
  const place = { id: 4, type: "s", subgraph, inputs: [], widgets: [widget] };
  const root = graph("r", [place], []);
  assert.equal(promotedWidget(node, "image", root), widget);
  assert.equal(promotedWidget(node, "reference", root), null);
});

test("a nested subgraph is found in the list of subgraphs", () => {
  const load = { id: 1, type: "LoadImage" };
  const node = hints(3);
  const deep = graph("d", [node], [link(3, -10, 0)], { inputs: [{ name: "photo" }] });
  const middlePlace = { id: 5, type: "d", subgraph: deep, inputs: [input("photo", 4)] };
  const middle = graph("m", [load, middlePlace], [link(4, 1)]);
  const subgraphs = new Map([["m", middle]]);
  const root = graph("r", [{ id: 8, subgraph: middle }], [], { subgraphs });
  assert.equal(upstreamNode(node, "image", root), load);
});

test("the image that a node displays", () => {
  const node = { id: 3 };
  const root = graph("r", [node], []);
  assert.equal(displayedImage(null, root, {}), null);
  assert.equal(displayedImage(node, root, {}), null);
  assert.equal(displayedImage(node, root, undefined), null);
  const file = { filename: "a b.png", subfolder: "x", type: "input" };
  const shown = displayedImage(node, root, { 3: { images: [file] } });
  assert.deepEqual([shown.file, shown.isInput], [file, true]);
  const temp = displayedImage(node, root, { 3: { images: [{ ...file, type: "temp" }] } });
  assert.equal(temp.isInput, false);
  assert.notEqual(temp.key, shown.key);
  node.imgs = [{ src: "http://x/view?filename=a.png&rand=0.5" }];
  const image = displayedImage(node, root, {});
  assert.equal(image.image, node.imgs[0]);
  node.imgs = [{ src: "http://x/view?filename=a.png&rand=0.7" }];
  assert.equal(displayedImage(node, root, {}).key, image.key, "a reload is the same image");
  const inside = { id: 3 };
  graph("s", [inside], []);
  assert.equal(displayedImage(inside, root, { 3: { images: [file] } }), null);
  assert.ok(displayedImage(inside, root, { "s:3": { images: [file] } }));
});

test("viewPath escapes names", () => {
  assert.equal(viewPath({ filename: "a b&c.png", type: "temp" }),
    "/view?filename=a+b%26c.png&subfolder=&type=temp");
});

// --- Widgets -------------------------------------------------------------------------------------

test("controls returns values that are not linked", () => {
  const node = {
    inputs: [{ name: "saturation", widget: { name: "saturation" }, link: 4 },
      { name: "strength", widget: { name: "strength" }, link: null }],
    widgets: [{ name: "strength", value: 0.5 }, { name: "saturation", value: 2 },
      { name: "upsample", value: "edges" }, { name: "resolution", value: 0 }],
  };
  assert.deepEqual(controls(node), { strength: 0.5, upsample: "edges" });
  assert.ok(isLinked(node, "saturation"));
  assert.ok(!isLinked(node, "strength") && !isLinked(node, "hints"));
  assert.deepEqual(controls({}), {});
});

test("watchControls reports changes and calls the original callback", () => {
  const calls = [];
  const widget = { name: "strength", callback: (value) => calls.push(value) };
  const resolution = { name: "resolution" }, other = { name: "hints" };
  const widgets = [widget, resolution, other];
  const stop = watchControls({ widgets }, () => calls.push("changed"));
  widget.callback(3);
  assert.deepEqual(calls, [3, "changed"]);
  resolution.callback(512);
  assert.deepEqual(calls, [3, "changed", "changed"]);
  assert.equal(other.callback, undefined);
  stop();
  widget.callback(4);
  assert.deepEqual(calls, [3, "changed", "changed", 4]);
  assert.equal(resolution.callback, undefined);
});

test("sessionOf validates the message of a run", () => {
  const info = { session: "ab", width: 3, height: 2 };
  assert.equal(sessionOf({ colorist_hints: [info] }), info);
  for (const output of [null, {}, { colorist_hints: [] }, { colorist_hints: [{ session: 7 }] },
    { colorist_hints: [{ session: "a", width: 0, height: 2 }] }]) {
    assert.equal(sessionOf(output), null);
  }
});

// --- Preview -------------------------------------------------------------------------------------

/** A host whose responses are set by the test. */
function host({ hidden = false } = {}) {
  const sent = [], shown = [], states = [], timers = [];
  const mock = { hidden, sent, shown, states, timers };
  mock.preview = createPreviewClient({
    fetchApi: (route, init) => new Promise((resolve, reject) => {
      init.signal.addEventListener("abort", () => reject(new Error("aborted")));
      sent.push({ route, body: JSON.parse(init.body), resolve, reject, signal: init.signal });
    }),
    onImage: (blob, request) => shown.push([blob, request.hints]),
    onStatus: (kind, text) => states.push([kind, text]),
    isHidden: () => mock.hidden,
    setTimer: (run, ms) => timers.push({ run, ms }) && timers.length,
    clearTimer: (id) => id && timers[id - 1] && (timers[id - 1].run = () => {}),
  });
  mock.reply = async (index, status, body) => {
    sent[index].resolve({ status, blob: async () => body, json: async () => body });
    await settle();
  };
  return mock;
}
const settle = () => new Promise((resolve) => setImmediate(resolve));
const ask = (mock, text) => mock.preview.request({ node: "1", session: "s", hints: text });

test("one request at a time; only the newest waiting one is sent", async () => {
  const mock = host();
  for (const text of ["a", "b", "c", "d"]) ask(mock, text);
  assert.deepEqual(mock.sent.map(({ body }) => body.hints), ["a"]);
  assert.equal(mock.sent[0].route, "/colorist/hints/preview");
  await mock.reply(0, 200, "A");
  assert.deepEqual(mock.sent.map(({ body }) => body.hints), ["a", "d"]);
  await mock.reply(1, 200, "D");
  assert.deepEqual(mock.shown, [["A", "a"], ["D", "d"]]);
  assert.equal(mock.sent.length, 2, "nothing more is sent");
});

test("request numbers rise", async () => {
  const mock = host();
  for (let i = 0; i < 5; i++) {
    ask(mock, `${i}`);
    await mock.reply(i, 200, "x");
  }
  const numbers = mock.sent.map(({ body }) => body.number);
  for (let i = 1; i < 5; i++) assert.ok(numbers[i] > numbers[i - 1]);
  assert.ok(numbers.every(Number.isSafeInteger));
});

test("a replaced request (204) shows nothing and is not an error", async () => {
  const mock = host();
  ask(mock, "a");
  await mock.reply(0, 204);
  assert.deepEqual([mock.shown, mock.states], [[], [["ok", ""]]]);
});

test("an unknown session (404) asks for a run", async () => {
  const mock = host();
  ask(mock, "a");
  ask(mock, "b");
  await mock.reply(0, 404, { error: "gone" });
  assert.deepEqual(mock.states, [["gone", RUN_ONCE_MESSAGE]]);
  assert.equal(mock.sent.length, 1, "the waiting request is dropped");
});

test("requests wait while the queue is busy", async () => {
  const mock = host();
  ask(mock, "a");
  await mock.reply(0, 409, { error: "queue" });
  assert.equal(mock.states[0][0], "busy");
  ask(mock, "b");
  assert.equal(mock.sent.length, 1);
  mock.preview.setQueueLength(2);
  assert.equal(mock.sent.length, 1);
  mock.preview.setQueueLength(0);
  assert.deepEqual(mock.sent.map(({ body }) => body.hints), ["a", "b"]);
  await mock.reply(1, 200, "B");
  assert.deepEqual(mock.shown, [["B", "b"]]);
});

test("a request that met a busy queue (409) is sent again", async () => {
  const mock = host();
  ask(mock, "a");
  await mock.reply(0, 409, {});
  mock.preview.setQueueLength(0);
  assert.deepEqual(mock.sent.map(({ body }) => body.hints), ["a", "a"]);
});

test("without a queue event, a busy queue is retried once", async () => {
  const mock = host();
  ask(mock, "a");
  await mock.reply(0, 409, {});
  assert.equal(mock.timers.length, 1);
  mock.timers[0].run();
  await mock.reply(1, 409, {});
  assert.equal(mock.timers.length, 1);
});

test("nothing is sent while the queue is busy", () => {
  const mock = host();
  mock.preview.setQueueLength(1);
  ask(mock, "a");
  assert.deepEqual([mock.sent.length, mock.states[0][0]], [0, "busy"]);
  mock.preview.setQueueLength(0);
  assert.equal(mock.sent.length, 1);
});

test("an error shows the message of the server", async () => {
  const table = [
    [400, { error: "point 1: x is 2." }, "point 1: x is 2."], [500, { error: "memory" }, "memory"],
    [413, {}, "The host responds with status 413"],
    [403, null, "The host responds with status 403"],
  ];
  for (const [status, body, text] of table) {
    const mock = host();
    ask(mock, "a");
    await mock.reply(0, status, body);
    assert.deepEqual(mock.states, [["refused", text]]);
  }
});

test("an unreachable host is reported", async () => {
  const mock = host();
  ask(mock, "a");
  mock.sent[0].reject(new TypeError("network"));
  await settle();
  assert.equal(mock.states[0][0], "offline");
  ask(mock, "b");
  await mock.reply(1, 200, "B");
  assert.deepEqual(mock.shown, [["B", "b"]]);
});

test("nothing is sent while the page is hidden", () => {
  const mock = host({ hidden: true });
  ask(mock, "a");
  ask(mock, "b");
  assert.equal(mock.sent.length, 0);
  mock.hidden = false;
  mock.preview.wake();
  assert.deepEqual(mock.sent.map(({ body }) => body.hints), ["b"]);
});

test("stop drops pending results; later requests work", async () => {
  const mock = host();
  ask(mock, "a");
  ask(mock, "b");
  mock.preview.stop();
  await settle();
  assert.ok(mock.sent[0].signal.aborted);
  assert.deepEqual([mock.shown, mock.states, mock.sent.length], [[], [], 1]);
  ask(mock, "c");
  await mock.reply(1, 200, "C");
  assert.deepEqual(mock.shown, [["C", "c"]]);
});

test("suggestions are validated; a failure returns null", async () => {
  const reply = (status, body) => async () => ({ status, json: async () => body });
  const list = ["#8a5a3c", "red", 7, "#FFF", ...Array(9).fill("#123456")];
  const { signal } = new AbortController();
  const asked = (fetchApi) => fetchSuggestions(fetchApi, { node: "1" }, signal);
  const wanted = ["#8a5a3c", ...Array(7).fill("#123456")];
  assert.deepEqual(await asked(reply(200, { colors: list })), wanted);
  assert.deepEqual(await asked(reply(200, {})), []);
  for (const status of [204, 404, 409, 500]) {
    assert.equal(await asked(reply(status, { colors: list })), null);
  }
  assert.equal(await asked(async () => { throw new Error("away"); }), null);
});
