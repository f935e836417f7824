import assert from "node:assert/strict";
import test from "node:test";

import { createRuns, fitOf } from "../../../web/js/point_hints/staleness.js";
import { input, makeGraph, makeWorkflow } from "../page.mjs";

// --- What a result depends on --------------------------------------------------------------------

/** Whether a change of the workflow is noticed, and that taking it back is. */
function noticed(prepare, change, back) {
  const flow = makeWorkflow();
  const fit = () => fitOf(flow.node, flow.graph, flow.nodeOutputs);
  prepare?.(flow);
  const before = fit();
  assert.deepEqual(fit(), before);
  change(flow);
  const after = fit();
  back?.(flow);
  if (back) assert.deepEqual(fit(), before);
  return before.chosen !== after.chosen || before.made !== after.made;
}

test("the photo, the networks, the mask and the resolution count", () => {
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

test("a photo counts behind a node that shows none", () => {
  const scaled = (f) => f.link("image", 14);
  assert.ok(noticed(null, scaled, (f) => f.link("image", 10)));
  assert.ok(noticed(scaled, (f) => f.see("b.png"), (f) => f.see("a.png")));
});

test("what does not change the result does not count", () => {
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

test("pictures that runs make are told from those that people choose", () => {
  const flow = makeWorkflow();
  const fit = () => fitOf(flow.node, flow.graph, flow.nodeOutputs);
  flow.link("image", 14);
  const show = (filename, type) => {
    flow.nodeOutputs[3] = { images: [{ filename, subfolder: "", type }] };
  };
  for (const type of ["temp", "output"]) {
    show("1.png", type);
    const before = fit();
    show("2.png", type);
    assert.equal(fit().chosen, before.chosen);
    assert.notEqual(fit().made, before.made);
  }
  flow.link("image", 10);
  flow.nodeOutputs[1].images[0].type = "output"; // a loader of the output folder
  const before = fit();
  flow.nodeOutputs[1].images[0].filename = "c.png";
  assert.notEqual(fit().chosen, before.chosen);
});

test("odd graphs end", () => {
  assert.deepEqual(fitOf({ id: 1, inputs: [] }, {}, {}), { chosen: "", made: "" });
  const a = { id: 1, inputs: [input("image", 2)] }, b = { id: 2, inputs: [input("image", 1)] };
  const node = { id: 3, inputs: [input("image", 1)] };
  const ring = makeGraph("g", [a, b, node], [[1, 1], [2, 2]]);
  assert.ok(fitOf(node, ring, {}).chosen);
  const chain = Array.from({ length: 500 }, (_, id) => ({ id, inputs: [input("image", id + 1)] }));
  const long = makeGraph("g", chain, chain.map(({ id }) => [id, id]));
  assert.ok(fitOf(chain[0], long, undefined).chosen.length < 2000);
});

// --- Runs ----------------------------------------------------------------------------------------

function watch() {
  const made = { now: "" };
  made.runs = createRuns(() => made.now);
  made.put = (now) => {
    made.now = now;
    made.runs.note();
  };
  made.start = (length) => {
    made.runs.length(length);
    made.runs.started();
    return made.runs.current();
  };
  return made;
}

test("each run has the note of its own prompt", () => {
  const made = watch();
  for (const now of ["a", "b", "c"]) {
    made.put(now);
    made.runs.queued(false, 1);
  }
  made.now = "later";
  assert.deepEqual([made.start(3), made.start(2), made.start(1)], ["a", "b", "c"]);
  assert.equal(made.start(1), "later", "a run that was queued without a note");
});

test("a run may start before the page is told that it was queued", () => {
  const made = watch();
  made.put("a");
  assert.equal(made.start(1), "a");
  made.now = "b";
  made.runs.queued(false, 1);
  made.put("c");
  made.runs.queued(false, 1);
  assert.equal(made.start(1), "c");
});

test("prompts that were not queued are forgotten", () => {
  const made = watch();
  made.put("refused");
  made.put("a");
  assert.equal(made.start(1), "a");
});

test("a prompt that is put first runs first", () => {
  const made = watch();
  for (const now of ["a", "b"]) {
    made.put(now);
    made.runs.queued(false, 1);
  }
  made.put("first");
  made.runs.queued(true, 1);
  assert.deepEqual([made.start(3), made.start(2), made.start(1)], ["first", "a", "b"]);
});

test("a front end that does not ask the widget", () => {
  const made = watch();
  made.now = "a";
  made.runs.queued(false, 1);
  made.now = "b";
  assert.equal(made.start(1), "a");
});

test("notes are handed on, and a run that nobody saw start has none", () => {
  const made = watch();
  assert.equal(made.runs.current(), null);
  made.put("a");
  made.put("b");
  made.start(2);
  const next = createRuns(() => "now", ...made.runs.kept);
  assert.equal(next.current(), "a");
  next.started();
  assert.equal(next.current(), "b");
  next.length(0);
  assert.equal(next.current(), null);
});
