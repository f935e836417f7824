import assert from "node:assert/strict";
import test from "node:test";

import { RUN_ONCE } from "../../../web/js/point_hints/host_bridge.js";
import { createEditor } from "../../../web/js/point_hints/editor.js";
import { createLive } from "../../../web/js/point_hints/preview_controller.js";
import { add, select } from "../../../web/js/point_hints/state.js";
import { install, makeHost, makeWorkflow, pass } from "../page.mjs";

install();

/** A canvas in a graph, and the host around it. */
function open() {
  const flow = makeWorkflow();
  const host = makeHost({ rootGraph: flow.graph, nodeOutputs: flow.nodeOutputs });
  let live = null;
  const editor = createEditor({ onText() {}, onEdit: () => live.edited(), invalidate() {} });
  live = createLive(flow.node, "hints", host, editor);
  live.connect();
  const page = { ...flow, ...host, host, live, editor };
  page.place = (x = 0.5) => editor.apply(add(editor.state, x, 0.5));
  page.said = () => live.message();
  page.put = () => {
    live.note();
    host.fire("promptQueued", { number: 0, batchCount: 1 });
  };
  page.start = (length = 1) => {
    host.queue(length);
    host.fire("execution_start", { prompt_id: "p" });
  };
  page.end = (session, left = 0) => {
    const info = {
      session, width: 64, height: 48, resolution: 224, reference: null,
      picture: { filename: `${session}p`, type: "temp" },
      result: { filename: `${session}r`, type: "temp" },
    };
    const output = { colorist_hints: [info] };
    live.executed(output);
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

test("before a run, and after it", async () => {
  const page = open();
  await pass();
  assert.equal(page.said(), RUN_ONCE);
  await page.run("a");
  assert.deepEqual([page.said(), page.live.isLive()], ["Live", true]);
  assert.ok(page.editor.pictures.result);
  assert.equal(page.sent.length, 0, "the run's own result is shown, nothing is asked");
  page.place();
  await pass();
  const [{ node, session, hints }] = page.asked("preview");
  assert.deepEqual([node, session, JSON.parse(hints).points.length], ["2", "a", 1]);
});

test("a finished run ends every word about the one before", async () => {
  const table = [
    [{ status: 404 }, RUN_ONCE], [{ status: 400, body: { error: "Not so." } }, "Not so."],
    [{ status: 500, body: {} }, "The host answers 500"], [null, "The host does not answer"],
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
    assert.equal(page.said(), sentence);
    page.answers({});
    await page.run("b");
    assert.deepEqual([page.said(), page.live.isLive()], ["Live", true], sentence);
  }
});

test("a host that is back is asked again", async () => {
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
  assert.equal(page.said(), RUN_ONCE);
});

test("an edit during a run, and then Queue", async () => {
  const page = open();
  await page.run("a");
  page.put();
  page.start();
  page.place();
  assert.match(page.said(), /^Waiting/);
  page.put();
  page.queue(2);
  page.end("b", 1);
  page.start();
  page.end("c");
  await pass();
  assert.equal(page.said(), "Live");
  assert.equal(page.asked("preview").length, 0, "the last run knew all points");
});

test("an edit during the last run is shown when the queue is empty", async () => {
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
  assert.equal(page.said(), "Live");
  assert.deepEqual(page.asked("preview").map(({ session }) => session), ["b"]);
  assert.equal(JSON.parse(page.sent[0].hints).points.length, 1);
});

test("not live while the session does not fit, live again when it does", async () => {
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
    assert.deepEqual([page.said(), page.live.isLive()], [RUN_ONCE, false]);
    page.live.look();
    page.place();
    await pass();
    assert.equal(page.editor.pictures.result, null);
    assert.equal(page.sent.length, 0);
    back(page);
    page.live.look();
    await pass();
    assert.ok(page.editor.pictures.result, "asked for again");
    assert.equal(page.said(), "Live");
  }
});

test("a photo changed behind a node without a picture is noticed", async () => {
  const page = open();
  page.link("image", 14);
  await page.run("a");
  assert.equal(page.said(), "Live");
  page.see("b.png");
  assert.equal(page.said(), RUN_ONCE);
});

test("a node upstream that shows what it made in the run", async () => {
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
    assert.equal(page.said(), "Live");
  }
  shows("c");
  assert.equal(page.said(), RUN_ONCE);
});

test("a photo changed during a run does not take the old photo's session", async () => {
  const page = open();
  page.put();
  page.start();
  page.see("b.png");
  page.end("a");
  await pass();
  assert.deepEqual([page.said(), page.editor.pictures.result], [RUN_ONCE, null]);
  page.place();
  await pass();
  assert.equal(page.sent.length, 0);
  page.see("a.png");
  page.live.look();
  await pass();
  assert.equal(page.said(), "Live");
});

test("two photos in the queue: the one that is seen is live when its run is done", async () => {
  const page = open();
  page.put();
  page.start();
  page.see("b.png");
  page.put();
  page.queue(2);
  page.end("a", 1);
  await pass();
  assert.equal(page.said(), RUN_ONCE);
  page.start();
  page.end("b");
  await pass();
  assert.equal(page.said(), "Live");
});

test("a result that comes after the photo was changed is not shown", async () => {
  const page = open();
  await page.run("a");
  const { result } = page.editor.pictures;
  page.place();
  page.see("b.png");
  await pass();
  assert.equal(page.asked("preview").length, 1);
  assert.equal(page.editor.pictures.result, result);
  page.live.look();
  assert.equal(page.editor.pictures.result, null);
});

test("a canvas in the place of another knows its session and the run under way", async () => {
  const first = open();
  await first.run("a");
  first.put();
  first.start();
  const second = open();
  second.live.memory = first.live.memory;
  await pass();
  assert.equal(second.said(), "Live");
  second.see("b.png");
  second.end("b");
  await pass();
  assert.equal(second.said(), RUN_ONCE);
});

test("suggestions are asked for again after anything but an answer", async () => {
  for (const status of [409, 500, 404]) {
    const page = open();
    await page.run("a");
    page.answers({ suggest: { status, body: {} } });
    page.place();
    await pass();
    assert.deepEqual([page.editor.suggested, page.asked("suggest").length], [[], 1]);
    page.answers({ suggest: { status: 200, body: { colors: ["#112233"] } } });
    page.live.look();
    await pass();
    assert.deepEqual(page.editor.suggested, ["#112233"]);
    page.live.look();
    await pass();
    assert.equal(page.asked("suggest").length, 2, "an answer is enough");
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
