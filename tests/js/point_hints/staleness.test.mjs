import assert from "node:assert/strict";
import test from "node:test";

import { createRunTracker, dependencyKeys } from "../../../web/js/point_hints/staleness.js";
import { input, makeGraph, makeWorkflow } from "../page.mjs";

// --- What a result depends on --------------------------------------------------------------------

/** Returns true if a change alters the keys; asserts that undoing it restores them. */
function noticed(prepare, change, back) {
  const flow = makeWorkflow();
  const fit = () => dependencyKeys(flow.node, flow.graph, flow.nodeOutputs);
  prepare?.(flow);
  const before = fit();
  assert.deepEqual(fit(), before);
  change(flow);
  const after = fit();
  back?.(flow);
  if (back) assert.deepEqual(fit(), before);
  return before.inputKey !== after.inputKey || before.outputKey !== after.outputKey;
}

test("photo, models, mask and resolution change the keys", () => {
  const table = [
    ["photo", null, (f) => f.see("b.png"), (f) => f.see("a.png")],
    ["no photo", null, (f) => f.link("image", null), (f) => f.link("image", 10)],
    ["resolution", null, (f) => (f.node.widgets[1].value = 512),
      (f) => (f.node.widgets[1].value = 0)],
    ["base linked", null, (f) => f.link("colorizer", 12), (f) => f.link("colorizer", null)],
    ["base's model", (f) => f.link("colorizer", 12), (f) => (f.base.widgets[0].value = "other"),
      (f) => (f.base.widgets[0].value = "auto")],
    ["base bypassed", (f) => f.link("colorizer", 12), (f) => (f.base.mode = 4),
      (f) => (f.base.mode = 0)],
    ["network's model", null, (f) => (f.network.widgets[0].value = "large"),
      (f) => (f.network.widgets[0].value = "small")],
    ["other network", null, (f) => f.link("pointhint", 12), (f) => f.link("pointhint", 11)],
    ["mask linked", null, (f) => f.link("mask", 15), (f) => f.link("mask", null)],
    ["mask's slot", (f) => f.link("mask", 15), (f) => (f.graph.links.get(15).origin_slot = 0),
      (f) => (f.graph.links.get(15).origin_slot = 1)],
  ];
  for (const [name, prepare, change, back] of table) {
    assert.ok(noticed(prepare, change, back), name);
  }
});

test("a photo behind a node without an image changes the keys", () => {
  const scaled = (f) => f.link("image", 14);
  assert.ok(noticed(null, scaled, (f) => f.link("image", 10)));
  assert.ok(noticed(scaled, (f) => f.see("b.png"), (f) => f.see("a.png")));
});

test("changes that do not affect the result keep the keys", () => {
  const seed = (f) => (f.base.widgets = [
    { name: "seed", value: 1, linkedWidgets: [{}] },
    { name: "control_after_generate", value: "randomize" },
  ]);
  const table = [
    ["reference", null, (f) => f.link("reference", 10)],
    ["strength", null, (f) => (f.node.widgets[0].value = 0.5)],
    ["a seed that the host draws", (f) => seed(f) && f.link("colorizer", 12),
      (f) => (f.base.widgets[0].value = 2)],
    ["the networks' loader in a new place", null, (f) => (f.network.pos = [5, 5])],
  ];
  for (const [name, prepare, change] of table) assert.ok(!noticed(prepare, change), name);
});

test("images produced by runs differ from user files", () => {
  const flow = makeWorkflow();
  const fit = () => dependencyKeys(flow.node, flow.graph, flow.nodeOutputs);
  flow.link("image", 14);
  const show = (filename, type) => {
    flow.nodeOutputs[3] = { images: [{ filename, subfolder: "", type }] };
  };
  for (const type of ["temp", "output"]) {
    show("1.png", type);
    const before = fit();
    show("2.png", type);
    assert.equal(fit().inputKey, before.inputKey);
    assert.notEqual(fit().outputKey, before.outputKey);
  }
  flow.link("image", 10);
  flow.nodeOutputs[1].images[0].type = "output"; // a loader of the output folder
  const before = fit();
  flow.nodeOutputs[1].images[0].filename = "c.png";
  assert.notEqual(fit().inputKey, before.inputKey);
});

test("cyclic and long graphs terminate", () => {
  assert.deepEqual(dependencyKeys({ id: 1, inputs: [] }, {}, {}), { inputKey: "", outputKey: "" });
  const a = { id: 1, inputs: [input("image", 2)] }, b = { id: 2, inputs: [input("image", 1)] };
  const node = { id: 3, inputs: [input("image", 1)] };
  const ring = makeGraph("g", [a, b, node], [[1, 1], [2, 2]]);
  assert.ok(dependencyKeys(node, ring, {}).inputKey);
  const chain = Array.from({ length: 500 }, (_, id) => ({ id, inputs: [input("image", id + 1)] }));
  const long = makeGraph("g", chain, chain.map(({ id }) => [id, id]));
  assert.ok(dependencyKeys(chain[0], long, undefined).inputKey.length < 2000);
});

// --- Runs ----------------------------------------------------------------------------------------

function watch() {
  const tracker = { now: "" };
  tracker.runs = createRunTracker(() => tracker.now);
  tracker.put = (now) => {
    tracker.now = now;
    tracker.runs.record();
  };
  tracker.start = (length) => {
    tracker.runs.setQueueLength(length);
    tracker.runs.started();
    return tracker.runs.current();
  };
  return tracker;
}

test("each run gets the snapshot of its own prompt", () => {
  const tracker = watch();
  for (const now of ["a", "b", "c"]) {
    tracker.put(now);
    tracker.runs.queued(false, 1);
  }
  tracker.now = "later";
  assert.deepEqual([tracker.start(3), tracker.start(2), tracker.start(1)], ["a", "b", "c"]);
  assert.equal(tracker.start(1), "later", "a run that was queued without a snapshot");
});

test("a run may start before the page learns that it was queued", () => {
  const tracker = watch();
  tracker.put("a");
  assert.equal(tracker.start(1), "a");
  tracker.now = "b";
  tracker.runs.queued(false, 1);
  tracker.put("c");
  tracker.runs.queued(false, 1);
  assert.equal(tracker.start(1), "c");
});

test("prompts that were not queued are dropped", () => {
  const tracker = watch();
  tracker.put("refused");
  tracker.put("a");
  assert.equal(tracker.start(1), "a");
});

test("a prompt queued at the front runs first", () => {
  const tracker = watch();
  for (const now of ["a", "b"]) {
    tracker.put(now);
    tracker.runs.queued(false, 1);
  }
  tracker.put("first");
  tracker.runs.queued(true, 1);
  assert.deepEqual([tracker.start(3), tracker.start(2), tracker.start(1)], ["first", "a", "b"]);
});

test("a front end that does not call the widget", () => {
  const tracker = watch();
  tracker.now = "a";
  tracker.runs.queued(false, 1);
  tracker.now = "b";
  assert.equal(tracker.start(1), "a");
});

test("snapshots are passed on; a run that started unseen has none", () => {
  const tracker = watch();
  assert.equal(tracker.runs.current(), null);
  tracker.put("a");
  tracker.put("b");
  tracker.start(2);
  const next = createRunTracker(() => "now", ...tracker.runs.saved);
  assert.equal(next.current(), "a");
  next.started();
  assert.equal(next.current(), "b");
  next.setQueueLength(0);
  assert.equal(next.current(), null);
});
