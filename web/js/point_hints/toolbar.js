/** Toolbar, status line and file panel of the point-hint canvas. */

import { button, el, setText } from "./dom.js";
import { FIT } from "./geometry.js";
import * as state from "./state.js";

const ZOOM_STEP = 1.5;
const MAX_FILE_BYTES = 1 << 20;

/** @typedef {ReturnType<typeof import("./editor.js").createEditor>} Editor */

/**
 * @param {Editor} editor
 * @param {ReturnType<typeof import("./history.js").createHistory>} history
 */
export function createToolbar(editor, history) {
  const buttons = {
    undo: button("undo", "Undo the last change of the workflow (Ctrl+Z)", history.undo),
    redo: button("redo", "Redo (Ctrl+Shift+Z)", history.redo),
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
    el("span", { class: "socket", title: "Input for hints from another node" }, "hints"),
    group(buttons.undo, buttons.redo),
    el("div", { class: "segments" }, buttons.photo, buttons.result),
    group(buttons.compare, buttons.points),
    group(buttons.zoomOut, buttons.fit, buttons.zoomIn),
    group(buttons.color, buttons.more),
  );

  return {
    element,
    update() {
      const { images, mode } = editor;
      buttons.undo.disabled = !history.canUndo();
      buttons.redo.disabled = !history.canRedo();
      const result = mode === "result" && Boolean(images.result);
      buttons.result.disabled = buttons.compare.disabled = !images.result;
      setPressed(buttons.photo, !result);
      setPressed(buttons.result, result);
      setPressed(buttons.compare, editor.comparing);
      setPressed(buttons.points, editor.showPoints);
      for (const [name, panel] of [["color", "color"], ["more", "file"]]) {
        setPressed(buttons[name], editor.panel === panel);
        buttons[name].setAttribute("aria-expanded", String(editor.panel === panel));
      }
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
  const repair = button("repair", "", () => {
    editor.apply(state.replaceAll(editor.state, editor.state.points));
  }, " ");
  const counts = el("span", { class: "counts" });
  const spoken = el("span", { class: "spoken", "aria-live": "polite" });
  const element = el("div", { class: "status" }, message, repair, counts, spoken);

  function text() {
    const { state: current } = editor;
    if (editor.linked !== null) {
      const sentence = "Read-only: the points come from the connected hints";
      return editor.linked ? sentence : `${sentence}; the overlay shows them`;
    }
    if (editor.picking) return "Click a color in the image";
    if (editor.notice) return editor.notice;
    if (!current.readable) return `Kept unchanged: ${current.problem}`;
    if (current.problem) return `Partly invalid: ${current.problem}`;
    const preview = previewMessage();
    if (preview && (editor.previewStatus.message || current.points.length)) return preview;
    const isEmpty = !current.points.length && editor.images.photo;
    return isEmpty ? "Click the image to place a hint point" : preview;
  }

  /** Describes the selected point for screen readers. */
  function selectedText() {
    const { points, selected } = editor.state;
    const point = points[selected];
    if (!point) return "";
    const percent = (part) => `${Math.round(100 * part)} %`;
    return `Point ${selected + 1} of ${points.length}, ${point.color}, `
      + `${percent(point.x)} from the left, ${percent(point.y)} from the top`;
  }

  return {
    element,
    update() {
      const { state: current, view } = editor;
      const line = text();
      setText(message, line);
      message.title = line;
      repair.hidden = !current.problem || editor.linked !== null;
      setText(repair, current.readable ? "Keep valid points" : "Start over");
      repair.title = current.readable
        ? "Remove the points that cannot be read"
        : "Replace the hints by an empty list; undo restores them";
      repair.setAttribute("aria-label", `${repair.textContent}: ${repair.title}`);
      const count = current.points.length;
      const total = count === 1 ? "1 point" : `${count} points`;
      const points = current.selected < 0 ? total : `point ${current.selected + 1} of ${count}`;
      setText(counts, view.zoom > 1.001 ? `${points} · ${Math.round(view.zoom * 100)} %` : points);
      setText(spoken, selectedText());
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
      clear.disabled = !editor.state.points.length || editor.linked !== null;
      if (element.hidden || editor.text === shownText) return;
      shownText = editor.text;
      text.value = shownText;
    },
  };
}
