/**
 * The model of one point-hint canvas: holds its state, reports finished edits to the host and
 * requests new frames. The parts of the widget read it and call its methods.
 */

import { hexToLab } from "./color.js";
import * as geometry from "./geometry.js";
import { colorAt, lightnessAt } from "./image_data.js";
import * as state from "./state.js";

const STORAGE_KEY = "colorist.hints.recent";
const NOTICE_MS = 5000;

/**
 * @param {object} options
 * @param {(text: string) => void} options.onText receives the new value after a finished edit
 * @param {() => void} options.onEdit the points or the selection changed, also during a gesture
 * @param {() => void} options.invalidate requests a new frame
 */
export function createEditor({ onText, onEdit, invalidate }) {
  let current = state.create();
  let text = state.textOf(current);
  let noticeTimer = null;

  const editor = {
    view: geometry.FIT,
    viewport: { width: 1, height: 1 },
    /** @type {{photo: any, result: any, reference: any}} */
    images: { photo: null, result: null, reference: null },
    resolution: geometry.DEFAULT_RESOLUTION,
    mode: "result",
    comparing: false,
    showPoints: true,
    /** @type {null | "photo" | "result" | "reference"} source image of the eyedropper */
    picking: null,
    panel: "color",
    hovered: -1,
    crosshair: null,
    spaceDown: false, // the next drag pans
    /** @type {string | null} hints of the connected input; "" while they are unknown */
    linked: null,
    suggested: [],
    recent: state.parseRecent(storedRecent()),
    notice: "",
    previewStatus: { kind: "none", message: "" },

    get state() {
      return current;
    },

    /** The value to save. */
    get text() {
      return text;
    },

    /** True while edits are refused: the points are linked, or nothing of them could be read. */
    get readOnly() {
      return editor.linked !== null || !current.readable;
    },

    /** Loads a value from the host. */
    load(value) {
      text = state.textOf(state.parse(value));
      if (editor.linked === null) set(state.load(current, text), false);
    },

    /** Shows the hints of the connected input instead of the value; null shows the value again. */
    link(hints) {
      if (hints === editor.linked) return;
      editor.linked = hints;
      set(state.load(current, hints ?? text), false);
    },

    /** Takes over selection and brush of the canvas that this one replaces. */
    resume(before) {
      set(state.resume(current, before), false);
    },

    /** Applies a state that a function of state.js has returned. */
    apply(next) {
      if (next !== current) set(next, true);
    },

    /** Assigns plain fields of the editor. */
    change(fields) {
      Object.assign(editor, fields);
      invalidate();
    },

    /** Shows a message for NOTICE_MS. */
    notify(message) {
      clearTimeout(noticeTimer);
      noticeTimer = setTimeout(() => editor.change({ notice: "" }), NOTICE_MS);
      editor.change({ notice: message });
    },

    /** Adds a color to the recent colors. */
    addRecent(color) {
      editor.recent = state.pushRecent(editor.recent, color);
      try {
        localStorage.setItem(STORAGE_KEY, JSON.stringify(editor.recent));
      } catch {
        // in a private window, recent colors last as long as the page
      }
      invalidate();
    },

    /** Sets the color in one undoable step. */
    setColor(color) {
      editor.apply(state.recolor(current, color));
      editor.addRecent(color);
    },

    /** Adds a point as the start of a gesture; returns false if none can be added. */
    addPoint(x, y) {
      if (editor.readOnly) return false;
      const begun = state.begin(current);
      const added = state.add(begun, x, y);
      if (added === begun) {
        editor.notify(`The maximum of ${state.MAX_POINTS} hint points is reached`);
        return false;
      }
      editor.apply(added);
      editor.addRecent(added.color);
      return true;
    },

    remove(index) {
      if (!editor.readOnly) editor.apply(state.remove(current, index));
    },

    /** Takes the color of the eyedropper's source at x, y of the image. */
    pickColor(x, y) {
      const image = editor.images[editor.picking];
      if (!image) return;
      const color = colorAt(image, x, y);
      editor.change({ picking: null });
      editor.setView(editor.view);
      editor.setColor(color);
    },

    /** Returns which image is shown: the eyedropper's source, else as the mode says. */
    shown() {
      if (editor.picking) return editor.picking;
      const result = (editor.mode === "result") !== editor.comparing;
      return result && editor.images.result ? "result" : "photo";
    },

    /** Returns the size that determines the layout of the shown image. */
    size() {
      const { photo, reference } = editor.images;
      const image = editor.picking === "reference" ? reference : photo;
      return image ?? { width: 4, height: 3 };
    },

    frame() {
      const view = geometry.clampView(editor.view, editor.size(), editor.viewport);
      return geometry.frame(view, editor.size(), editor.viewport);
    },

    setView(view) {
      editor.change({ view: geometry.clampView(view, editor.size(), editor.viewport) });
    },

    /** Zooms about a viewport pixel, by default the center. */
    zoom(factor, px = editor.viewport.width / 2, py = editor.viewport.height / 2) {
      const { view, viewport } = editor;
      editor.setView(geometry.zoomAbout(view, factor, px, py, editor.size(), viewport));
    },

    /** Selects a point and scrolls it into view. */
    select(index) {
      editor.apply(state.select(current, index));
      const point = current.points[index];
      if (point) editor.reveal(point.x, point.y);
    },

    reveal(x, y) {
      editor.setView(geometry.reveal(editor.view, x, y, editor.size(), editor.viewport));
    },

    /** Returns L of the color plane: of the photo at the selected point, else of the brush. */
    planeLightness() {
      const point = current.points[current.selected];
      if (point) return lightnessAt(editor.images.photo, point.x, point.y);
      return hexToLab(current.color)[0];
    },

    dispose() {
      clearTimeout(noticeTimer);
    },
  };

  function set(next, byUser) {
    const linked = editor.linked !== null;
    if (byUser && linked && next.points !== current.points) return;
    const edited = next.points !== current.points || next.raw !== current.raw;
    const selectionMoved = next.selected !== current.selected;
    current = next;
    if (edited || selectionMoved) editor.crosshair = null;
    if (edited) editor.hovered = -1;
    if (byUser && !linked && !current.base && state.textOf(current) !== text) {
      text = state.textOf(current);
      onText(text);
    }
    if (edited || selectionMoved) onEdit();
    invalidate();
  }

  return editor;
}

function storedRecent() {
  try {
    return localStorage.getItem(STORAGE_KEY);
  } catch {
    return null;
  }
}
