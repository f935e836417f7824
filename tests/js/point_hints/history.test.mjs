import assert from "node:assert/strict";
import test from "node:test";

import { createHistory, historyStep } from "../../../web/js/point_hints/history.js";

const appWith = (changeTracker) => ({
  extensionManager: { workflow: { activeWorkflow: { changeTracker } } },
});

test("a host without a history offers no steps", async () => {
  for (const app of [{}, appWith(undefined)]) {
    const history = createHistory(app);
    assert.deepEqual([history.canUndo(), history.canRedo()], [false, false]);
    history.record();
    await history.undo();
  }
});

test("steps run one after the other, also after a failed one", async () => {
  const log = [];
  const step = (name) => async () => {
    log.push(`${name} starts`);
    await new Promise((resolve) => setImmediate(resolve));
    log.push(`${name} ends`);
    if (name === "undo") throw new Error("the host reports it");
  };
  const tracker = { undoQueue: [1], redoQueue: [], undo: step("undo"), redo: step("redo") };
  const history = createHistory(appWith(tracker));
  assert.deepEqual([history.canUndo(), history.canRedo()], [true, false]);
  history.undo();
  await history.redo();
  assert.deepEqual(log, ["undo starts", "undo ends", "redo starts", "redo ends"]);
});

test("an edit is recorded by the newer name of the method if there is one", () => {
  const log = [];
  const older = { checkState: () => log.push("checkState") };
  createHistory(appWith(older)).record();
  createHistory(appWith({ ...older, captureCanvasState: () => log.push("capture") })).record();
  assert.deepEqual(log, ["checkState", "capture"]);
});

test("keys of undo and redo", () => {
  const key = (name, modifiers) => historyStep({ key: name, ...modifiers });
  assert.equal(key("z", { ctrlKey: true }), "undo");
  assert.equal(key("Z", { metaKey: true, shiftKey: true }), "redo");
  assert.equal(key("y", { ctrlKey: true }), "redo");
  assert.equal(key("z", {}), null);
  assert.equal(key("z", { ctrlKey: true, altKey: true }), null);
  assert.equal(key("a", { ctrlKey: true }), null);
});
