/** The widget of the point-hint canvas: puts its parts together and ties them to a node. */

import { watchControls } from "./host_bridge.js";
import { attachBoard } from "./pointer_input.js";
import { addStyle, el } from "./dom.js";
import { createEditor } from "./editor.js";
import { createLive } from "./preview_controller.js";
import { createPicker } from "./picker.js";
import { createFiles, createStatus, createToolbar } from "./toolbar.js";
import { createView } from "./view.js";

const HEIGHT = 250; // with no panel open
const PANEL = 134;
const REMEMBERED = 64;
const PIXELS = 6; // board pixels per pixel of the picture from which single pixels are shown

/** What canvases that were taken away leave to those that take their place. */
const memories = new Map();

/**
 * @param {any} node
 * @param {string} name of the input
 * @param {{app: any, api: any}} host
 */
export function createHints(node, name, host) {
  addStyle();
  const board = el("canvas", {
    class: "board", tabIndex: 0, role: "application",
    "aria-label":
      "Points on the picture. Arrows move, Enter adds, Delete removes, brackets choose.",
    dataset: { captureWheel: "true" },
  });
  const view = createView(board, scene);
  const widget = { current: null };
  let live = null;

  const editor = createEditor({
    onText(text) {
      editor.notice = "";
      widget.current?.callback?.(text);
      node.graph?.setDirtyCanvas?.(true, true);
      capture();
    },
    onEdit: () => live.edited(),
    invalidate: view.invalidate,
  });
  live = createLive(node, name, host, editor);

  /** Tells the host's undo of a finished edit; by mouse it would notice, by key not always. */
  function capture() {
    const tracker = host.app.extensionManager?.workflow?.activeWorkflow?.changeTracker;
    if (tracker?.captureCanvasState) tracker.captureCanvasState();
    else tracker?.checkState?.();
  }

  Object.assign(editor, {
    show(mode) {
      editor.change({ mode, picking: null });
      live.ask();
    },
    setPanel(panel) {
      editor.change({ panel, picking: null });
      root.style.minHeight = `${minHeight()}px`;
      node.setDirtyCanvas?.(true, true);
      node.expandToFitContent?.();
    },
    canPick: () => Object.values(editor.pictures).some(Boolean),
    startPicking() {
      const { photo, result, reference } = editor.pictures;
      if (!photo && !result && !reference) return;
      const first = reference ? "reference" : editor.shown();
      editor.change({ panel: "color", picking: editor.pictures[first] ? first : "photo" });
    },
  });

  const picker = createPicker(editor, () => board.focus());
  const toolbar = createToolbar(editor);
  const status = createStatus(editor, live.message);
  const files = createFiles(editor);
  const stage = el("div", { class: "stage" }, board);
  const root = el("div", { class: "colorist-hints", dataset: { widget: name } },
    toolbar.element, stage, status.element, picker.element, files.element,
  );
  root.style.minHeight = `${minHeight()}px`;

  function minHeight() {
    return HEIGHT + (editor.panel ? PANEL : 0);
  }

  /** Brings the page's elements up to date and says what to draw. */
  function scene() {
    for (const part of [toolbar, status, picker, files]) part.update();
    const kind = editor.shown();
    const picture = editor.pictures[kind];
    const rect = editor.frame();
    const gray = kind === "photo" && !editor.picking;
    const source = gray ? editor.pictures.photo?.gray : picture?.color;
    return {
      rect, image: source ?? null, picture: editor.pictures.photo,
      pixelated: Boolean(picture) && rect.width / picture.width >= PIXELS,
      points: editor.showPoints && !editor.picking ? editor.state.points : [],
      selected: editor.state.selected, hovered: editor.hovered, cross: editor.cross,
      resolution: editor.resolution,
    };
  }

  // --- Page ---

  const resized = new ResizeObserver(() => {
    editor.board = { width: board.clientWidth || 1, height: board.clientHeight || 1 };
    editor.setView(editor.view);
  });

  /** In the classic canvas the wheel over a widget does not reach the graph by itself. */
  function passWheel(event) {
    if (globalThis.LiteGraph?.vueNodesMode) return;
    host.app.canvas?.processMouseWheel?.(event);
  }

  /** A press elsewhere takes the focus away: the graph's own canvas does not. */
  function pressedElsewhere(event) {
    if (!root.contains(event.target)) root.querySelector(":focus")?.blur();
  }

  const release = attachBoard(board, editor, passWheel);
  root.addEventListener("wheel", (event) => {
    if (event.target !== board && !event.target.closest("textarea:focus")) passWheel(event);
  });
  root.addEventListener("pointerdown", (event) => event.stopPropagation());
  root.addEventListener("contextmenu", (event) => {
    if (!event.target.closest("input, textarea")) event.preventDefault();
    event.stopPropagation();
  });
  root.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea");
    if (typing && !event.ctrlKey && !event.metaKey) event.stopPropagation();
  });
  root.addEventListener("focusin", () => {
    document.addEventListener("pointerdown", pressedElsewhere, true);
  });
  root.addEventListener("focusout", () => {
    document.removeEventListener("pointerdown", pressedElsewhere, true);
  });
  root.addEventListener("pointerenter", () => {
    live.look();
    view.invalidate();
  });

  // --- Life in the graph ---

  let unwatch = null;
  let key = null; // of the memory; graphs lose their ids before their nodes go

  /** Takes over from the canvas that was in this place: before an undo of the host, say. */
  function recall() {
    const graph = host.app.rootGraph ?? host.app.graph;
    if (!node.graph || !graph?.id) return;
    key = [graph.id, node.graph.id, node.id].join(" ");
    const memory = memories.get(key);
    if (!memory) return;
    memories.delete(key);
    Object.assign(editor, memory.fields);
    root.style.minHeight = `${minHeight()}px`;
    live.memory = memory.live;
    live.lookSoon();
  }

  function remember() {
    if (!key) return;
    const { view: seen, mode, showPoints, panel } = editor;
    memories.delete(key);
    memories.set(key, { fields: { view: seen, mode, showPoints, panel }, live: live.memory });
    if (memories.size > REMEMBERED) memories.delete(memories.keys().next().value);
  }

  return {
    root,
    editor,
    widget,
    minHeight,
    live,
    recall,
    connect() {
      if (unwatch) return;
      unwatch = watchControls(node, () => live.look());
      resized.observe(board);
      live.connect();
      recall();
      view.invalidate();
    },
    dispose() {
      if (!unwatch) return;
      remember();
      unwatch();
      release();
      unwatch = null;
      resized.disconnect();
      document.removeEventListener("pointerdown", pressedElsewhere, true);
      live.dispose();
      view.dispose();
      editor.dispose();
    },
  };
}
