/** The point-hint canvas: assembles its parts and connects them to a node. */

import { el } from "./dom.js";
import { createEditor } from "./editor.js";
import { createHistory, historyStep } from "./history.js";
import { watchControls } from "./host_bridge.js";
import { attachKeyboardInput } from "./keyboard_input.js";
import { createPicker } from "./picker.js";
import { attachPointerInput } from "./pointer_input.js";
import { createPreviewController } from "./preview_controller.js";
import { createFiles, createStatus, createToolbar } from "./toolbar.js";
import { createView } from "./view.js";

const MIN_HEIGHT = 250; // without an open panel
const PANEL_HEIGHT = 134;
const MAX_SAVED = 64;
const FOCUS_FRAMES = 60; // until the page shows the element of a new node
const KEEP_IMAGES_MS = 5000; // an undo replaces a canvas at once
const PIXELATED_SCALE = 6; // viewport pixels per image pixel from which pixels are not smoothed

/** State of removed canvases, for the canvases that replace them. */
const savedStates = new Map();

/**
 * @param {any} node
 * @param {string} name of the input
 * @param {{app: any, api: any}} host
 */
export function createHintsWidget(node, name, host) {
  const viewport = el("canvas", {
    class: "viewport", tabIndex: 0, role: "application",
    "aria-label": "Hint points on the image. Arrow keys move, Enter adds, Delete removes, "
      + "brackets select, I picks a color, Escape deselects.",
    dataset: { captureWheel: "true" },
  });
  const view = createView(viewport, scene);
  const widget = { current: null };
  const history = createHistory(host.app);
  let preview = null;

  const editor = createEditor({
    onText(text) {
      editor.notice = "";
      widget.current?.callback?.(text);
      node.graph?.setDirtyCanvas?.(true, true);
      history.record();
    },
    onEdit: () => preview.edited(),
    invalidate: view.invalidate,
  });
  preview = createPreviewController(node, name, host, editor);

  Object.assign(editor, {
    show(mode) {
      editor.change({ mode, picking: null });
      preview.request();
    },
    setPanel(panel) {
      editor.change({ panel, picking: null });
      root.style.minHeight = `${minHeight()}px`;
      node.setDirtyCanvas?.(true, true);
      node.expandToFitContent?.();
    },
    canPick: () => Object.values(editor.images).some(Boolean),
    startPicking() {
      const { photo, result, reference } = editor.images;
      if (!photo && !result && !reference) return;
      const first = reference ? "reference" : editor.shown();
      editor.change({ panel: "color", picking: editor.images[first] ? first : "photo" });
    },
  });

  const picker = createPicker(editor, () => viewport.focus());
  const toolbar = createToolbar(editor, history);
  const status = createStatus(editor, preview.message);
  const files = createFiles(editor);
  const stage = el("div", { class: "stage" }, viewport);
  const root = el("div", { class: "colorist-hints", dataset: { widget: name } },
    toolbar.element, stage, status.element, picker.element, files.element,
  );
  const parts = [toolbar, status, picker, files];
  for (const part of parts) part.update(); // so that no hidden part takes room before a paint
  root.style.minHeight = `${minHeight()}px`;

  function minHeight() {
    return MIN_HEIGHT + (editor.panel ? PANEL_HEIGHT : 0);
  }

  /** Updates the page elements and returns the scene to draw. */
  function scene() {
    for (const part of parts) part.update();
    const kind = editor.shown();
    const shown = editor.images[kind];
    const rect = editor.frame();
    const gray = kind === "photo" && !editor.picking;
    const pixels = gray ? editor.images.photo?.gray : shown?.color;
    return {
      rect, image: pixels ?? null, photo: editor.images.photo,
      pixelated: Boolean(shown) && rect.width / shown.width >= PIXELATED_SCALE,
      points: editor.showPoints && !editor.picking ? editor.state.points : [],
      selected: editor.state.selected, hovered: editor.hovered, crosshair: editor.crosshair,
      resolution: editor.resolution,
    };
  }

  // --- Page ---

  const resizeObserver = new ResizeObserver(() => {
    editor.viewport = { width: viewport.clientWidth || 1, height: viewport.clientHeight || 1 };
    editor.setView(editor.view);
  });

  /** In the classic renderer, wheel events over a widget do not reach the graph by themselves. */
  function passWheel(event) {
    if (globalThis.LiteGraph?.vueNodesMode) return;
    host.app.canvas?.processMouseWheel?.(event);
  }

  /** Removes the focus on a press elsewhere; the graph's canvas does not take it. */
  function blurOnOutsidePress(event) {
    if (!root.contains(event.target)) root.querySelector(":focus")?.blur();
  }

  const pointer = attachPointerInput(viewport, editor, passWheel);
  attachKeyboardInput(viewport, editor, pointer);
  root.addEventListener("wheel", (event) => {
    if (event.target !== viewport && !event.target.closest("textarea:focus")) passWheel(event);
  });
  root.addEventListener("pointerdown", (event) => event.stopPropagation());
  root.addEventListener("contextmenu", (event) => {
    if (!event.target.closest("input, textarea")) event.preventDefault();
    event.stopPropagation();
  });
  root.addEventListener("keydown", (event) => {
    const typing = event.target.closest("input, textarea");
    if (typing && !event.ctrlKey && !event.metaKey) event.stopPropagation();
    const step = event.target.type === "range" && historyStep(event);
    if (step) history[step](); // the host leaves undo in inputs to the browser
  });
  root.addEventListener("focusin", () => {
    document.addEventListener("pointerdown", blurOnOutsidePress, true);
  });
  root.addEventListener("focusout", () => {
    document.removeEventListener("pointerdown", blurOnOutsidePress, true);
  });
  root.addEventListener("pointerenter", () => {
    preview.refresh();
    view.invalidate();
  });

  // --- Life cycle in the graph ---

  let unwatch = null;
  let savedKey = null; // kept here because graphs lose their ids before their nodes are removed
  let focused = ""; // selector of the element that had the focus in the replaced canvas

  function updateKey() {
    const graph = host.app.rootGraph ?? host.app.graph;
    if (node.graph && graph?.id) savedKey = [graph.id, node.graph.id, node.id].join(" ");
  }

  /** Takes over the state of the canvas that this one replaces, after an undo of the host. */
  function restore() {
    updateKey();
    const saved = savedStates.get(savedKey);
    if (!saved) return;
    savedStates.delete(savedKey);
    Object.assign(editor, saved.fields);
    focused = saved.focused;
    root.style.minHeight = `${minHeight()}px`;
    preview.saved = saved.preview;
    editor.resume(saved.state);
  }

  function save() {
    if (!savedKey) return;
    const { view: currentView, mode, showPoints, panel, images } = editor;
    const fields = { view: currentView, mode, showPoints, panel, images };
    savedStates.delete(savedKey);
    savedStates.set(savedKey, {
      fields, state: editor.state, preview: preview.saved, focused: focusedSelector(),
    });
    setTimeout(() => delete fields.images, KEEP_IMAGES_MS);
    if (savedStates.size > MAX_SAVED) savedStates.delete(savedStates.keys().next().value);
  }

  function focusedSelector() {
    const element = root.contains(document.activeElement) ? document.activeElement : null;
    if (!element) return "";
    return element.dataset.action ? `[data-action="${element.dataset.action}"]`
      : `.${element.classList[0]}`;
  }

  /** Gives the focus back, once the canvas is on the page, unless the user has moved it. */
  function restoreFocus(frames = FOCUS_FRAMES) {
    const element = focused && root.querySelector(focused);
    if (!element || document.activeElement !== document.body) return;
    (element.disabled ? viewport : element).focus({ preventScroll: true });
    if (root.contains(document.activeElement)) focused = "";
    else if (frames) requestAnimationFrame(() => restoreFocus(frames - 1));
  }

  return {
    root,
    editor,
    widget,
    minHeight,
    preview,
    restore,
    restoreFocus: () => restoreFocus(),
    connect() {
      if (unwatch) return;
      unwatch = watchControls(node, () => preview.refresh());
      resizeObserver.observe(viewport);
      preview.connect();
      updateKey();
      view.invalidate();
    },
    dispose() {
      if (!unwatch) return;
      save();
      unwatch();
      pointer.detach();
      unwatch = null;
      resizeObserver.disconnect();
      document.removeEventListener("pointerdown", blurOnOutsidePress, true);
      preview.dispose();
      view.dispose();
      editor.dispose();
    },
  };
}
