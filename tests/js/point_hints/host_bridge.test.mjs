import assert from "node:assert/strict";
import test from "node:test";

import {
  RUN_ONCE, controls, createPreview, isLinked, sessionOf, shownPicture, suggestions, upstreamNode,
  viewPath, watchControls,
} from "../../../web/js/point_hints/host_bridge.js";

// --- Graphs --------------------------------------------------------------------------------------

function graph(id, nodes, links, more = {}) {
  const made = { id, nodes, links: new Map(links.map((link) => [link.id, link])), ...more };
  made.getNodeById = (wanted) => nodes.find((node) => node.id === wanted) ?? null;
  for (const node of nodes) node.graph = made;
  return made;
}
const link = (id, from, slot = 0, type = "IMAGE") => ({
  id, origin_id: from, origin_slot: slot, type,
});
const input = (name, from, type = "IMAGE") => ({ name, link: from, type });
const hints = (from) => ({ id: 9, type: "ColoristPointHints", inputs: [input("image", from)] });

test("nothing linked", () => {
  const node = hints(null);
  const root = graph("r", [node], []);
  assert.equal(upstreamNode(node, "image", root), null);
  assert.equal(upstreamNode(node, "reference", root), null);
  assert.equal(upstreamNode({ inputs: [] }, "image", root), null);
});

test("a link that leads nowhere", () => {
  const node = hints(5);
  assert.equal(upstreamNode(node, "image", graph("r", [node], [])), null);
  assert.equal(upstreamNode(node, "image", graph("r", [node], [link(5, 77)])), null);
});

test("links as an object, as older front ends have them", () => {
  const node = hints(5), load = { id: 1, type: "LoadImage" };
  const root = graph("r", [node, load], []);
  root.links = { 5: link(5, 1) };
  assert.equal(upstreamNode(node, "image", root), load);
});

test("through reroutes and bypassed nodes", () => {
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

test("reroutes in a ring end", () => {
  const a = { id: 1, type: "Reroute", inputs: [input("", 2)] };
  const b = { id: 2, type: "Reroute", inputs: [input("", 1)] };
  const node = hints(1);
  const root = graph("r", [a, b, node], [link(1, 1), link(2, 2)]);
  assert.equal(upstreamNode(node, "image", root), null);
});

test("out of a subgraph and into one", () => {
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

test("a subgraph inside a subgraph is found by the list of subgraphs", () => {
  const load = { id: 1, type: "LoadImage" };
  const node = hints(3);
  const deep = graph("d", [node], [link(3, -10, 0)], { inputs: [{ name: "photo" }] });
  const middlePlace = { id: 5, type: "d", subgraph: deep, inputs: [input("photo", 4)] };
  const middle = graph("m", [load, middlePlace], [link(4, 1)]);
  const subgraphs = new Map([["m", middle]]);
  const root = graph("r", [{ id: 8, subgraph: middle }], [], { subgraphs });
  assert.equal(upstreamNode(node, "image", root), load);
});

test("the picture a node shows", () => {
  const node = { id: 3 };
  const root = graph("r", [node], []);
  assert.equal(shownPicture(null, root, {}), null);
  assert.equal(shownPicture(node, root, {}), null);
  assert.equal(shownPicture(node, root, undefined), null);
  const file = { filename: "a b.png", subfolder: "x", type: "input" };
  const shown = shownPicture(node, root, { 3: { images: [file] } });
  assert.deepEqual([shown.file, shown.loaded], [file, true]);
  const temp = shownPicture(node, root, { 3: { images: [{ ...file, type: "temp" }] } });
  assert.equal(temp.loaded, false);
  assert.notEqual(temp.key, shown.key);
  node.imgs = [{ src: "http://x/view?filename=a.png&rand=0.5" }];
  const image = shownPicture(node, root, {});
  assert.equal(image.image, node.imgs[0]);
  node.imgs = [{ src: "http://x/view?filename=a.png&rand=0.7" }];
  assert.equal(shownPicture(node, root, {}).key, image.key, "a reload is the same picture");
  const inside = { id: 3 };
  graph("s", [inside], []);
  assert.equal(shownPicture(inside, root, { 3: { images: [file] } }), null);
  assert.ok(shownPicture(inside, root, { "s:3": { images: [file] } }));
});

test("addresses are escaped", () => {
  assert.equal(viewPath({ filename: "a b&c.png", type: "temp" }),
    "/view?filename=a+b%26c.png&subfolder=&type=temp");
});

// --- Widgets -------------------------------------------------------------------------------------

test("controls that are no links", () => {
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

test("changes of controls are heard and passed on", () => {
  const calls = [];
  const widget = { name: "strength", callback: (value) => calls.push(value) };
  const resolution = { name: "resolution" }, other = { name: "hints" };
  const widgets = [widget, resolution, other];
  const stop = watchControls({ widgets }, () => calls.push("heard"));
  widget.callback(3);
  assert.deepEqual(calls, [3, "heard"]);
  resolution.callback(512);
  assert.deepEqual(calls, [3, "heard", "heard"]);
  assert.equal(other.callback, undefined);
  stop();
  widget.callback(4);
  assert.deepEqual(calls, [3, "heard", "heard", 4]);
  assert.equal(resolution.callback, undefined);
});

test("what a run says", () => {
  const info = { session: "ab", width: 3, height: 2 };
  assert.equal(sessionOf({ colorist_hints: [info] }), info);
  for (const output of [null, {}, { colorist_hints: [] }, { colorist_hints: [{ session: 7 }] },
    { colorist_hints: [{ session: "a", width: 0, height: 2 }] }]) {
    assert.equal(sessionOf(output), null);
  }
});

// --- Preview -------------------------------------------------------------------------------------

/** A host whose replies are given by hand. */
function host({ hidden = false } = {}) {
  const sent = [], shown = [], states = [], timers = [];
  const made = { hidden, sent, shown, states, timers };
  made.preview = createPreview({
    fetchApi: (route, init) => new Promise((resolve, reject) => {
      init.signal.addEventListener("abort", () => reject(new Error("aborted")));
      sent.push({ route, body: JSON.parse(init.body), resolve, reject, signal: init.signal });
    }),
    onPicture: (blob, request) => shown.push([blob, request.hints]),
    onState: (kind, text) => states.push([kind, text]),
    isHidden: () => made.hidden,
    later: (run, ms) => timers.push({ run, ms }) && timers.length,
    forget: (id) => id && timers[id - 1] && (timers[id - 1].run = () => {}),
  });
  made.reply = async (index, status, body) => {
    sent[index].resolve({ status, blob: async () => body, json: async () => body });
    await settle();
  };
  return made;
}
const settle = () => new Promise((resolve) => setImmediate(resolve));
const ask = (made, text) => made.preview.request({ node: "1", session: "s", hints: text });

test("one request at a time, and the newest of those that wait", async () => {
  const made = host();
  for (const text of ["a", "b", "c", "d"]) ask(made, text);
  assert.deepEqual(made.sent.map(({ body }) => body.hints), ["a"]);
  assert.equal(made.sent[0].route, "/colorist/hints/preview");
  await made.reply(0, 200, "A");
  assert.deepEqual(made.sent.map(({ body }) => body.hints), ["a", "d"]);
  await made.reply(1, 200, "D");
  assert.deepEqual(made.shown, [["A", "a"], ["D", "d"]]);
  assert.equal(made.sent.length, 2, "nothing more when all is done");
});

test("numbers rise", async () => {
  const made = host();
  for (let i = 0; i < 5; i++) {
    ask(made, `${i}`);
    await made.reply(i, 200, "x");
  }
  const numbers = made.sent.map(({ body }) => body.number);
  for (let i = 1; i < 5; i++) assert.ok(numbers[i] > numbers[i - 1]);
  assert.ok(numbers.every(Number.isSafeInteger));
});

test("a dropped request shows nothing and is no fault", async () => {
  const made = host();
  ask(made, "a");
  await made.reply(0, 204);
  assert.deepEqual([made.shown, made.states], [[], [["ok", ""]]]);
});

test("an unknown session asks for a run", async () => {
  const made = host();
  ask(made, "a");
  ask(made, "b");
  await made.reply(0, 404, { error: "gone" });
  assert.deepEqual(made.states, [["gone", RUN_ONCE]]);
  assert.equal(made.sent.length, 1, "what waited is dropped");
});

test("a busy queue is waited for", async () => {
  const made = host();
  ask(made, "a");
  await made.reply(0, 409, { error: "queue" });
  assert.equal(made.states[0][0], "busy");
  ask(made, "b");
  assert.equal(made.sent.length, 1);
  made.preview.queue(2);
  assert.equal(made.sent.length, 1);
  made.preview.queue(0);
  assert.deepEqual(made.sent.map(({ body }) => body.hints), ["a", "b"]);
  await made.reply(1, 200, "B");
  assert.deepEqual(made.shown, [["B", "b"]]);
});

test("what met a busy queue is asked again", async () => {
  const made = host();
  ask(made, "a");
  await made.reply(0, 409, {});
  made.preview.queue(0);
  assert.deepEqual(made.sent.map(({ body }) => body.hints), ["a", "a"]);
});

test("without an event a busy queue is tried once more, not for ever", async () => {
  const made = host();
  ask(made, "a");
  await made.reply(0, 409, {});
  assert.equal(made.timers.length, 1);
  made.timers[0].run();
  await made.reply(1, 409, {});
  assert.equal(made.timers.length, 1);
});

test("nothing is asked while the queue is known to work", () => {
  const made = host();
  made.preview.queue(1);
  ask(made, "a");
  assert.deepEqual([made.sent.length, made.states[0][0]], [0, "busy"]);
  made.preview.queue(0);
  assert.equal(made.sent.length, 1);
});

test("a refusal is told in the host's words", async () => {
  const table = [
    [400, { error: "point 1: x is 2." }, "point 1: x is 2."], [500, { error: "memory" }, "memory"],
    [413, {}, "The host answers 413"], [403, null, "The host answers 403"],
  ];
  for (const [status, body, text] of table) {
    const made = host();
    ask(made, "a");
    await made.reply(0, status, body);
    assert.deepEqual(made.states, [["refused", text]]);
  }
});

test("a host that is away", async () => {
  const made = host();
  ask(made, "a");
  made.sent[0].reject(new TypeError("network"));
  await settle();
  assert.equal(made.states[0][0], "offline");
  ask(made, "b");
  await made.reply(1, 200, "B");
  assert.deepEqual(made.shown, [["B", "b"]]);
});

test("nothing is asked while the page is hidden", () => {
  const made = host({ hidden: true });
  ask(made, "a");
  ask(made, "b");
  assert.equal(made.sent.length, 0);
  made.hidden = false;
  made.preview.wake();
  assert.deepEqual(made.sent.map(({ body }) => body.hints), ["b"]);
});

test("after a stop nothing is shown, and it can go on", async () => {
  const made = host();
  ask(made, "a");
  ask(made, "b");
  made.preview.stop();
  await settle();
  assert.ok(made.sent[0].signal.aborted);
  assert.deepEqual([made.shown, made.states, made.sent.length], [[], [], 1]);
  ask(made, "c");
  await made.reply(1, 200, "C");
  assert.deepEqual(made.shown, [["C", "c"]]);
});

test("suggestions are checked, and a failure is not an answer", async () => {
  const reply = (status, body) => async () => ({ status, json: async () => body });
  const list = ["#8a5a3c", "red", 7, "#FFF", ...Array(9).fill("#123456")];
  const { signal } = new AbortController();
  const asked = (fetchApi) => suggestions(fetchApi, { node: "1" }, signal);
  const wanted = ["#8a5a3c", ...Array(7).fill("#123456")];
  assert.deepEqual(await asked(reply(200, { colors: list })), wanted);
  assert.deepEqual(await asked(reply(200, {})), []);
  for (const status of [204, 404, 409, 500]) {
    assert.equal(await asked(reply(status, { colors: list })), null);
  }
  assert.equal(await asked(async () => { throw new Error("away"); }), null);
});
