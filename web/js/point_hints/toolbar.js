/** Toolbar, status line and file panel of the point-hint canvas. */

import { button, el, setText } from "./dom.js";
import { FIT } from "./geometry.js";
import * as state from "./state.js";

const NEAR = 1.5; // factor of one zoom step
const LARGEST_FILE = 1 << 20; // bytes

/** @typedef {ReturnType<import("./editor.js").createEditor>} Editor */

/** @param {Editor} editor */
export function createToolbar(editor) {
  const act = {
    undo: button("undo", "Undo (Ctrl+Z)", () => editor.apply(state.undo(editor.state))),
    redo: button("redo", "Redo (Ctrl+Shift+Z)", () => editor.apply(state.redo(editor.state))),
    photo: button("view-photo", "Show the grey photo", () => editor.show("photo"), "Grey"),
    result: button("view-result", "Show the result", () => editor.show("result"), "Result"),
    compare: button("compare", "Hold to see the other picture (C)", () => {}),
    points: button("points", "Show or hide the points (H)", () => {
      editor.change({ showPoints: !editor.showPoints });
    }),
    zoomOut: button("zoomOut", "Zoom out (-)", () => editor.zoom(1 / NEAR)),
    fit: button("fit", "Show all of the picture (0)", () => editor.setView(FIT)),
    zoomIn: button("zoomIn", "Zoom in (+)", () => editor.zoom(NEAR)),
    color: button("color", "Colours", () => panel("color")),
    more: button("more", "Import, export, clear", () => panel("file")),
  };

  function panel(name) {
    editor.setPanel(editor.panel === name ? "" : name);
  }

  hold(act.compare, (comparing) => editor.change({ comparing }));

  const group = (...parts) => el("div", { class: "group" }, ...parts);
  const element = el("div", { class: "toolbar", role: "toolbar", "aria-label": "Point hints" },
    group(act.undo, act.redo),
    el("div", { class: "segments" }, act.photo, act.result),
    group(act.compare, act.points),
    group(act.zoomOut, act.fit, act.zoomIn),
    group(act.color, act.more),
  );

  return {
    element,
    update() {
      const { state: now, pictures, mode } = editor;
      act.undo.disabled = !now.past.length || editor.locked;
      act.redo.disabled = !now.future.length || editor.locked;
      const result = mode === "result" && Boolean(pictures.result);
      act.result.disabled = act.compare.disabled = !pictures.result;
      press(act.photo, !result);
      press(act.result, result);
      press(act.compare, editor.comparing);
      press(act.points, editor.showPoints);
      press(act.color, editor.panel === "color");
      press(act.more, editor.panel === "file");
      act.zoomOut.disabled = act.fit.disabled = editor.view.zoom <= 1;
    },
  };
}

function press(one, on) {
  one.setAttribute("aria-pressed", String(on));
}

/** Tells `heard` while a button is held, by pointer or key. */
function hold(one, heard) {
  const end = () => heard(false);
  one.addEventListener("pointerdown", (event) => {
    if (event.button !== 0) return;
    one.setPointerCapture(event.pointerId);
    heard(true);
  });
  for (const type of ["pointerup", "pointercancel", "lostpointercapture", "blur", "keyup"]) {
    one.addEventListener(type, end);
  }
  one.addEventListener("keydown", (event) => {
    if ((event.key === " " || event.key === "Enter") && !event.repeat) heard(true);
  });
}

/**
 * The line below the picture: what is going on, how many points, how near.
 * @param {Editor} editor
 * @param {() => string} message of the host's side
 */
export function createStatus(editor, message) {
  const said = el("span", { class: "said", role: "status", "aria-live": "polite" });
  const repair = button("repair", "Drop what cannot be read", () => {
    editor.apply(state.replaceAll(editor.state, editor.state.points));
  }, "Keep the rest");
  const facts = el("span", { class: "facts", "aria-live": "polite" });
  const element = el("div", { class: "status" }, said, repair, facts);

  function text() {
    const { state: now } = editor;
    if (editor.locked) return "The points come over the link";
    if (editor.picking) return "Click a colour in the picture";
    if (editor.notice) return editor.notice;
    if (!now.readable) return `Kept as it is: ${now.problem}`;
    if (now.problem) return `Not all is right: ${now.problem}`;
    const hosts = message();
    if (hosts && (editor.live.message || now.points.length)) return hosts;
    const inviting = !now.points.length && editor.pictures.photo;
    return inviting ? "Click the picture to place a colour" : hosts;
  }

  return {
    element,
    update() {
      const { state: now, view } = editor;
      const words = text();
      setText(said, words);
      said.title = words;
      repair.hidden = !now.problem || !now.readable || editor.locked;
      const count = now.points.length;
      const all = count === 1 ? "1 point" : `${count} points`;
      const points = now.selected < 0 ? all : `point ${now.selected + 1} of ${count}`;
      setText(facts, view.zoom > 1.001 ? `${points} · ${Math.round(view.zoom * 100)} %` : points);
      element.dataset.live = editor.live.kind;
    },
  };
}

/**
 * Import, export and clear.
 * @param {Editor} editor
 */
export function createFiles(editor) {
  const text = el("textarea", {
    spellcheck: false, "aria-label": "Hints as JSON", placeholder: "Paste hints here",
  });
  const file = el("input", { type: "file", accept: ".json,application/json", hidden: true });
  let shown = "";

  function take(json) {
    const doc = state.parse(json);
    if (!json.trim()) return editor.say("Paste hints first, or choose a file");
    if (!doc.readable) return editor.say(`Not taken: ${doc.problem}`);
    editor.apply(state.replaceAll(editor.state, doc.points));
    const count = doc.points.length === 1 ? "1 point" : `${doc.points.length} points`;
    return editor.say(doc.problem ? `${count} taken; ${doc.problem}` : `${count} taken`);
  }

  file.addEventListener("change", async () => {
    const chosen = file.files[0];
    file.value = "";
    if (!chosen) return;
    if (chosen.size > LARGEST_FILE) editor.say("That file is too large");
    else take(await chosen.text());
  });

  function save() {
    const url = URL.createObjectURL(new Blob([editor.text], { type: "application/json" }));
    el("a", { href: url, download: "hints.json" }).click();
    setTimeout(() => URL.revokeObjectURL(url), 1000);
  }

  async function copy() {
    try {
      await navigator.clipboard.writeText(editor.text);
      editor.say("Copied");
    } catch {
      text.focus();
      text.select();
      editor.say("Press Ctrl+C to copy");
    }
  }

  const clear = button("clear", "Remove all points", () => {
    editor.apply(state.replaceAll(editor.state, []));
    editor.say("All points removed; undo brings them back");
  }, "Clear all");
  const element = el("div", { class: "panel files" }, text, el("div", { class: "row" },
    button("import", "Take the hints above", () => take(text.value), "Import"),
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
      if (element.hidden || editor.text === shown) return;
      shown = editor.text;
      text.value = shown;
    },
  };
}
