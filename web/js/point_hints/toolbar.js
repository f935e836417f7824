/** Toolbar, status line and file panel of the point-hint canvas. */

import { button, el, setText } from "./dom.js";
import { FIT } from "./geometry.js";
import * as state from "./state.js";

const ZOOM_STEP = 1.5;
const MAX_FILE_BYTES = 1 << 20;

/** @typedef {ReturnType<typeof import("./editor.js").createEditor>} Editor */

/** @param {Editor} editor */
export function createToolbar(editor) {
  const buttons = {
    undo: button("undo", "Undo (Ctrl+Z)", () => editor.apply(state.undo(editor.state))),
    redo: button("redo", "Redo (Ctrl+Shift+Z)", () => editor.apply(state.redo(editor.state))),
    photo: button("view-photo", "Show the photo in gray", () => editor.show("photo"), "Gray"),
    result: button("view-result", "Show the result", () => editor.show("result"), "Result"),
    compare: button("compare", "Hold to compare (C)", () => {}),
    points: button("points", "Show or hide hint points (H)", () => {
      editor.change({ showPoints: !editor.showPoints });
    }),
    zoomOut: button("zoomOut", "Zoom out (-)", () => editor.zoom(1 / ZOOM_STEP)),
    fit: button("fit", "Fit image to view (0)", () => editor.setView(FIT)),
    zoomIn: button("zoomIn", "Zoom in (+)", () => editor.zoom(ZOOM_STEP)),
    color: button("color", "Colors", () => togglePanel("color")),
    more: button("more", "Import, export, clear hint points", () => togglePanel("file")),
  };

  function togglePanel(name) {
    editor.setPanel(editor.panel === name ? "" : name);
  }

  onHold(buttons.compare, (comparing) => editor.change({ comparing }));

  const group = (...parts) => el("div", { class: "group" }, ...parts);
  const element = el("div", { class: "toolbar", role: "toolbar", "aria-label": "Point hints" },
    group(buttons.undo, buttons.redo),
    el("div", { class: "segments" }, buttons.photo, buttons.result),
    group(buttons.compare, buttons.points),
    group(buttons.zoomOut, buttons.fit, buttons.zoomIn),
    group(buttons.color, buttons.more),
  );

  return {
    element,
    update() {
      const { state: current, images, mode } = editor;
      buttons.undo.disabled = !current.past.length || editor.locked;
      buttons.redo.disabled = !current.future.length || editor.locked;
      const result = mode === "result" && Boolean(images.result);
      buttons.result.disabled = buttons.compare.disabled = !images.result;
      setPressed(buttons.photo, !result);
      setPressed(buttons.result, result);
      setPressed(buttons.compare, editor.comparing);
      setPressed(buttons.points, editor.showPoints);
      setPressed(buttons.color, editor.panel === "color");
      setPressed(buttons.more, editor.panel === "file");
      buttons.zoomOut.disabled = buttons.fit.disabled = editor.view.zoom <= 1;
    },
  };
}

function setPressed(element, on) {
  element.setAttribute("aria-pressed", String(on));
}

/** Calls `onChange` with true while a button is held, by pointer or key, then with false. */
function onHold(element, onChange) {
  const end = () => onChange(false);
  element.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    element.setPointerCapture(event.pointerId);
    onChange(true);
  });
  for (const type of ["pointerup", "pointercancel", "lostpointercapture", "blur", "keyup"]) {
    element.addEventListener(type, end);
  }
  element.addEventListener("keydown", (event) => {
    if ((event.key === " " || event.key === "Enter") && !event.repeat) onChange(true);
  });
}

/**
 * The status line below the image: message, number of points, zoom.
 * @param {Editor} editor
 * @param {() => string} previewMessage
 */
export function createStatus(editor, previewMessage) {
  const message = el("span", { class: "message", role: "status", "aria-live": "polite" });
  const repair = button("repair", "Remove the points that cannot be read", () => {
    editor.apply(state.replaceAll(editor.state, editor.state.points));
  }, "Keep valid points");
  const counts = el("span", { class: "counts", "aria-live": "polite" });
  const element = el("div", { class: "status" }, message, repair, counts);

  function text() {
    const { state: current } = editor;
    if (editor.locked) return "The hint points come from the connected input";
    if (editor.picking) return "Click a color in the image";
    if (editor.notice) return editor.notice;
    if (!current.readable) return `Kept unchanged: ${current.problem}`;
    if (current.problem) return `Partly invalid: ${current.problem}`;
    const preview = previewMessage();
    if (preview && (editor.previewStatus.message || current.points.length)) return preview;
    const isEmpty = !current.points.length && editor.images.photo;
    return isEmpty ? "Click the image to place a hint point" : preview;
  }

  return {
    element,
    update() {
      const { state: current, view } = editor;
      const line = text();
      setText(message, line);
      message.title = line;
      repair.hidden = !current.problem || !current.readable || editor.locked;
      const count = current.points.length;
      const total = count === 1 ? "1 point" : `${count} points`;
      const points = current.selected < 0 ? total : `point ${current.selected + 1} of ${count}`;
      setText(counts, view.zoom > 1.001 ? `${points} · ${Math.round(view.zoom * 100)} %` : points);
      element.dataset.preview = editor.previewStatus.kind;
    },
  };
}

/**
 * The panel for import, export and clearing.
 * @param {Editor} editor
 */
export function createFiles(editor) {
  const text = el("textarea", {
    spellcheck: false, "aria-label": "Hints as JSON", placeholder: "Paste hints here",
  });
  const file = el("input", { type: "file", accept: ".json,application/json", hidden: true });
  let shownText = "";

  function importHints(json) {
    const doc = state.parse(json);
    if (!json.trim()) return editor.notify("Paste hints first, or choose a file");
    if (!doc.readable) return editor.notify(`Not imported: ${doc.problem}`);
    editor.apply(state.replaceAll(editor.state, doc.points));
    const count = doc.points.length === 1 ? "1 point" : `${doc.points.length} points`;
    return editor.notify(doc.problem ? `${count} imported; ${doc.problem}` : `${count} imported`);
  }

  file.addEventListener("change", async () => {
    const chosen = file.files[0];
    file.value = "";
    if (!chosen) return;
    if (chosen.size > MAX_FILE_BYTES) editor.notify("The file is too large");
    else importHints(await chosen.text());
  });

  function save() {
    const url = URL.createObjectURL(new Blob([editor.text], { type: "application/json" }));
    el("a", { href: url, download: "hints.json" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }

  async function copy() {
    try {
      await navigator.clipboard.writeText(editor.text);
      editor.notify("Copied");
    } catch {
      text.focus();
      text.select();
      editor.notify("Press Ctrl+C to copy");
    }
  }

  const clear = button("clear", "Remove all points", () => {
    editor.apply(state.replaceAll(editor.state, []));
    editor.notify("All points removed; undo restores them");
  }, "Clear all");
  const element = el("div", { class: "panel files" }, text, el("div", { class: "row" },
    button("import", "Import the hints above", () => importHints(text.value), "Import"),
    button("open", "Import a file", () => file.click(), "Open…"),
    button("copy", "Copy the hints", copy, "Copy"),
    button("save", "Save the hints as a file", save, "Save…"),
    el("span", { class: "space" }), clear, file,
  ));

  return {
    element,
    update() {
      element.hidden = editor.panel !== "file";
      clear.disabled = !editor.state.points.length || editor.locked;
      if (element.hidden || editor.text === shownText) return;
      shownText = editor.text;
      text.value = shownText;
    },
  };
}
