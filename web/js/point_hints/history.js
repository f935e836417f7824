/**
 * Undo and redo of the canvas: those of the workflow, so that Ctrl+Z takes back the last change
 * wherever the focus is.
 */

/** @param {any} app */
export function createHistory(app) {
  let last = Promise.resolve(); // the host runs steps that overlap at the same time

  const tracker = () => app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
  const enqueue = (step) => {
    last = last.then(() => tracker()?.[step]?.()).catch(() => {}); // the host reports its errors
    return last;
  };

  return {
    canUndo: () => Boolean(tracker()?.undoQueue?.length),
    canRedo: () => Boolean(tracker()?.redoQueue?.length),
    undo: () => enqueue("undo"),
    redo: () => enqueue("redo"),
    /** Reports a finished edit: the host misses some edits made by keyboard. */
    record() {
      const current = tracker();
      if (current?.captureCanvasState) current.captureCanvasState();
      else current?.checkState?.();
    },
  };
}

/**
 * Returns the step that a key asks for.
 * @param {KeyboardEvent} event
 * @returns {"undo" | "redo" | null}
 */
export function historyStep(event) {
  if (!(event.ctrlKey || event.metaKey) || event.altKey) return null;
  const key = event.key.toLowerCase();
  if (key === "y" || (key === "z" && event.shiftKey)) return "redo";
  return key === "z" ? "undo" : null;
}
