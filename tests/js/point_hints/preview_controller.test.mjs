import assert from "node:assert/strict";
import test from "node:test";

import { RUN_ONCE_MESSAGE } from "../../../web/js/point_hints/host_bridge.js";
import { createEditor } from "../../../web/js/point_hints/editor.js";
import { createPreviewController } from "../../../web/js/point_hints/preview_controller.js";
import { add, select } from "../../../web/js/point_hints/state.js";
import { install, makeHost, makeWorkflow, pass } from "../page.mjs";

install();

/** A canvas in a graph with its host. */
function open() {
  const flow = makeWorkflow();
  const host = makeHost({ rootGraph: flow.graph, nodeOutputs: flow.nodeOutputs });
  let controller = null;
  const editor = createEditor({ onText() {}, onEdit: () => controller.edited(), invalidate() {} });
  controller = createPreviewController(flow.node, "hints", host, editor);
  controller.connect();
  const page = { ...flow, ...host, host, controller, editor };
  page.place = (x = 0.5) => editor.apply(add(editor.state, x, 0.5));
  page.message = () => controller.message();
  page.put = () => {
    controller.recordPrompt();
    host.fire("promptQueued", { number: 0, batchCount: 1 });
  };
  page.start = (length = 1) => {
    host.queue(length);
    host.fire("execution_start", { prompt_id: "p" });
  };
  page.end = (session, left = 0) => {
    const info = {
      session, width: 64, height: 48, resolution: 224, reference: null,
      photo: { filename: `${session}p`, type: "temp" },
      result: { filename: `${session}r`, type: "temp" },
    };
    const output = { colorist_hints: [info] };
    controller.executed(output);
    host.fire("executed", { node: "2", output });
    host.queue(left);
  };
  page.run = async (session) => {
    page.put();
    page.start();
    page.end(session);
    await pass();
  };
  page.answers = (answers) => {
    host.reply = (route) => answers[route] ?? { status: 200, body: {} };
  };
  return page;
}

test("before and after a run", async () => {
  const page = open();
  await pass();
  assert.equal(page.message(), RUN_ONCE_MESSAGE);
  await page.run("a");
  assert.deepEqual([page.message(), page.controller.isLive()], ["Live", true]);
  assert.ok(page.editor.images.result);
  assert.equal(page.sent.length, 0, "the result of the run is shown; nothing is requested");
  page.place();
  await pass();
  const [{ node, session, hints }] = page.asked("preview");
  assert.deepEqual([node, session, JSON.parse(hints).points.length], ["2", "a", 1]);
});

test("a finished run clears the status of the previous one", async () => {
  const table = [
    [{ status: 404 }, RUN_ONCE_MESSAGE], [{ status: 400, body: { error: "Not so." } }, "Not so."],
    [{ status: 500, body: {} }, "The host responds with status 500"],
    [null, "The host does not respond"],
  ];
  for (const [answer, sentence] of table) {
    const page = open();
    await page.run("a");
    page.host.reply = () => {
      if (!answer) throw new TypeError("network");
      return answer;
    };
    page.place();
    await pass();
    assert.equal(page.message(), sentence);
    page.answers({});
    await page.run("b");
    assert.deepEqual([page.message(), page.controller.isLive()], ["Live", true], sentence);
  }
});

test("a host that responds again is asked again", async () => {
  const page = open();
  await page.run("a");
  page.host.reply = () => {
    throw new TypeError("network");
  };
  page.place();
  await pass();
  page.answers({ preview: { status: 404 } });
  page.fire("reconnected");
  await pass();
  assert.equal(page.message(), RUN_ONCE_MESSAGE);
});

test("an edit during a run, then a second run", async () => {
  const page = open();
  await page.run("a");
  page.put();
  page.start();
  page.place();
  assert.match(page.message(), /^Waiting/);
  page.put();
  page.queue(2);
  page.end("b", 1);
  page.start();
  page.end("c");
  await pass();
  assert.equal(page.message(), "Live");
  assert.equal(page.asked("preview").length, 0, "the last run had all points");
});

test("an edit during the last run is previewed when the queue is empty", async () => {
  const page = open();
  await page.run("a");
  page.put();
  page.start();
  page.place();
  page.end("b", 1);
  await pass();
  assert.equal(page.asked("preview").length, 0);
  page.queue(0);
  await pass();
  assert.equal(page.message(), "Live");
  assert.deepEqual(page.asked("preview").map(({ session }) => session), ["b"]);
  assert.equal(JSON.parse(page.sent[0].hints).points.length, 1);
});

test("live only while the session matches the graph", async () => {
  const table = [
    [(p) => (p.node.widgets[1].value = 512), (p) => (p.node.widgets[1].value = 0)],
    [(p) => p.link("colorizer", 12), (p) => p.link("colorizer", null)],
    [(p) => p.link("mask", 15), (p) => p.link("mask", null)],
    [(p) => (p.network.widgets[0].value = "x"), (p) => (p.network.widgets[0].value = "small")],
    [(p) => p.see("b.png"), (p) => p.see("a.png")],
  ];
  for (const [change, back] of table) {
    const page = open();
    await page.run("a");
    change(page);
    assert.deepEqual([page.message(), page.controller.isLive()], [RUN_ONCE_MESSAGE, false]);
    page.controller.refresh();
    page.place();
    await pass();
    assert.equal(page.editor.images.result, null);
    assert.equal(page.sent.length, 0);
    back(page);
    page.controller.refresh();
    await pass();
    assert.ok(page.editor.images.result, "requested again");
    assert.equal(page.message(), "Live");
  }
});

test("a photo changed behind a node without an image is detected", async () => {
  const page = open();
  page.link("image", 14);
  await page.run("a");
  assert.equal(page.message(), "Live");
  page.see("b.png");
  assert.equal(page.message(), RUN_ONCE_MESSAGE);
});

test("an upstream node that displays its result of the run", async () => {
  const page = open();
  page.link("image", 14);
  const shows = (filename) => {
    page.nodeOutputs[3] = { images: [{ filename, type: "temp" }] };
  };
  for (const session of ["a", "b"]) {
    page.put();
    page.start();
    shows(session);
    page.end(session);
    await pass();
    assert.equal(page.message(), "Live");
  }
  shows("c");
  assert.equal(page.message(), RUN_ONCE_MESSAGE);
});

test("a photo changed during a run does not match the old photo's session", async () => {
  const page = open();
  page.put();
  page.start();
  page.see("b.png");
  page.end("a");
  await pass();
  assert.deepEqual([page.message(), page.editor.images.result], [RUN_ONCE_MESSAGE, null]);
  page.place();
  await pass();
  assert.equal(page.sent.length, 0);
  page.see("a.png");
  page.controller.refresh();
  await pass();
  assert.equal(page.message(), "Live");
});

test("two queued photos: the shown one is live when its run has finished", async () => {
  const page = open();
  page.put();
  page.start();
  page.see("b.png");
  page.put();
  page.queue(2);
  page.end("a", 1);
  await pass();
  assert.equal(page.message(), RUN_ONCE_MESSAGE);
  page.start();
  page.end("b");
  await pass();
  assert.equal(page.message(), "Live");
});

test("a result that arrives after a photo change is not shown", async () => {
  const page = open();
  await page.run("a");
  const { result } = page.editor.images;
  page.place();
  page.see("b.png");
  await pass();
  assert.equal(page.asked("preview").length, 1);
  assert.equal(page.editor.images.result, result);
  page.controller.refresh();
  assert.equal(page.editor.images.result, null);
});

test("a replacing canvas takes over the session and the current run", async () => {
  const first = open();
  await first.run("a");
  first.put();
  first.start();
  const second = open();
  second.controller.saved = first.controller.saved;
  await pass();
  assert.equal(second.message(), "Live");
  second.see("b.png");
  second.end("b");
  await pass();
  assert.equal(second.message(), RUN_ONCE_MESSAGE);
});

test("suggestions are requested again after a failure", async () => {
  for (const status of [409, 500, 404]) {
    const page = open();
    await page.run("a");
    page.answers({ suggest: { status, body: {} } });
    page.place();
    await pass();
    assert.deepEqual([page.editor.suggested, page.asked("suggest").length], [[], 1]);
    page.answers({ suggest: { status: 200, body: { colors: ["#112233"] } } });
    page.controller.refresh();
    await pass();
    assert.deepEqual(page.editor.suggested, ["#112233"]);
    page.controller.refresh();
    await pass();
    assert.equal(page.asked("suggest").length, 2, "a response is enough");
  }
});

test("suggestions wait for the queue", async () => {
  const page = open();
  await page.run("a");
  page.answers({ suggest: { status: 200, body: { colors: ["#112233"] } } });
  page.place(0.2);
  await pass();
  page.queue(1);
  page.place(0.8);
  await pass();
  assert.deepEqual([page.editor.suggested, page.asked("suggest").length], [[], 1]);
  page.queue(0);
  await pass();
  assert.deepEqual(page.editor.suggested, ["#112233"]);
  page.editor.apply(select(page.editor.state, -1));
  assert.deepEqual(page.editor.suggested, []);
});

test("a widget of a node above refreshes the canvas", async () => {
  const page = open();
  await page.run("a");
  const [{ name, callback }] = page.photo.widgets;
  assert.ok(callback, name);
  page.see("b.png");
  callback.call(page.photo.widgets[0], "b.png");
  await pass();
  assert.equal(page.message(), RUN_ONCE_MESSAGE);
  page.see("a.png");
  callback.call(page.photo.widgets[0], "a.png");
  await pass();
  assert.equal(page.message(), "Live");
  page.network.widgets[0].value = "large";
  page.network.widgets[0].callback("large");
  await pass();
  assert.equal(page.message(), RUN_ONCE_MESSAGE);
  page.controller.dispose();
  assert.equal(page.photo.widgets[0].callback, undefined, "nothing is left behind");
});

test("linked hints are shown and cannot be edited", async () => {
  const page = open();
  page.place();
  const own = page.editor.text;
  const linked = { name: "hints", link: 16, type: "STRING", widget: { name: "hints" } };
  const points = [{ x: 0.1, y: 0.1, color: "#112233", size: 2 }];
  const hints = JSON.stringify({ version: 1, points });
  page.node.inputs.push(linked);
  page.graph.links.set(16, { id: 16, origin_id: 6, origin_slot: 0, type: "STRING" });
  page.graph.nodes.push({ id: 6, inputs: [], widgets: [{ name: "value", value: hints }] });
  page.controller.refresh();
  assert.deepEqual([page.editor.readOnly, page.editor.state.points], [true, points]);
  page.place();
  page.editor.apply(select(page.editor.state, 0));
  assert.equal(page.editor.state.points.length, 1);
  assert.equal(page.editor.text, own);
  linked.link = null;
  page.controller.refresh();
  assert.deepEqual([page.editor.readOnly, page.editor.state.points[0].x], [false, 0.5]);
});
