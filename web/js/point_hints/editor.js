/**
 * What one point-hint canvas shows and edits. Holds the state, tells the host of finished edits,
 * and asks for a new frame; the parts of the widget read it and call its methods.
 */

import { hexToLab } from "./color.js";
import * as state from "./state.js";
import * as geometry from "./geometry.js";
import { lightnessAt } from "./image_data.js";

const STORAGE = "colorist.hints.recent";
const NOTICE = 5000; // ms that a passing message stays

/**
 * @param {object} options
 * @param {(text: string) => void} options.onText a finished edit: the new value
 * @param {() => void} options.onEdit points changed, perhaps in the middle of a gesture
 * @param {() => void} options.invalidate asks for a new frame
 */
export function createEditor({ onText, onEdit, invalidate }) {
  let now = state.create();
  let text = state.textOf(now);
  let timer = null;

  const editor = {
    view: geometry.FIT,
    board: { width: 1, height: 1 },
    /** @type {{photo: any, result: any, reference: any}} */
    pictures: { photo: null, result: null, reference: null },
    resolution: geometry.WORKING,
    mode: "result",
    comparing: false,
    showPoints: true,
    /** @type {null | "photo" | "result" | "reference"} what the eyedropper picks from */
    picking: null,
    panel: "color",
    hovered: -1,
    cross: null,
    locked: false,
    suggested: [],
    recent: state.parseRecent(stored()),
    notice: "",
    live: { kind: "none", message: "" },

    get state() {
      return now;
    },

    /** The value as saved. */
    get text() {
      return text;
    },

    /** A value from the host. */
    load(value) {
      text = state.textOf(state.parse(value));
      set(state.load(now, text), false);
    },

    /** A state made by a function of state.js. */
    apply(next) {
      if (next !== now) set(next, true);
    },

    /** Plain fields of the editor. */
    change(fields) {
      Object.assign(editor, fields);
      invalidate();
    },

    /** A message that passes. */
    say(message) {
      clearTimeout(timer);
      timer = setTimeout(() => editor.change({ notice: "" }), NOTICE);
      editor.change({ notice: message });
    },

    /** The colour of the brush was chosen: it is worth keeping. */
    remember(color) {
      editor.recent = state.pushRecent(editor.recent, color);
      try {
        localStorage.setItem(STORAGE, JSON.stringify(editor.recent));
      } catch {
        // private window: recent colours last as long as the page
      }
      invalidate();
    },

    /** Sets the colour in one step. */
    choose(color) {
      editor.apply(state.recolor(now, color));
      editor.remember(color);
    },

    /** Which picture is shown: of the eyedropper, else by the view. */
    shown() {
      if (editor.picking) return editor.picking;
      const result = (editor.mode === "result") !== editor.comparing;
      return result && editor.pictures.result ? "result" : "photo";
    },

    /** Size in which the shown picture is laid out. */
    size() {
      const { photo, reference } = editor.pictures;
      const picture = editor.picking === "reference" ? reference : photo;
      return picture ?? { width: 4, height: 3 };
    },

    frame() {
      const view = geometry.clampView(editor.view, editor.size(), editor.board);
      return geometry.frame(view, editor.size(), editor.board);
    },

    setView(view) {
      editor.change({ view: geometry.clampView(view, editor.size(), editor.board) });
    },

    /** Zooms about a place of the board, by default its middle. */
    zoom(factor, px = editor.board.width / 2, py = editor.board.height / 2) {
      const { view, board } = editor;
      editor.setView(geometry.zoomAbout(view, factor, px, py, editor.size(), board));
    },

    /** Selects a point and brings it onto the board. */
    select(index) {
      editor.apply(state.select(now, index));
      const point = now.points[index];
      if (point) editor.reveal(point.x, point.y);
    },

    reveal(x, y) {
      editor.setView(geometry.reveal(editor.view, x, y, editor.size(), editor.board));
    },

    /** L that the colour plane shows: below the selected point, else of the brush's colour. */
    planeL() {
      const point = now.points[now.selected];
      if (point) return lightnessAt(editor.pictures.photo, point.x, point.y);
      return hexToLab(now.color)[0];
    },

    dispose() {
      clearTimeout(timer);
    },
  };

  function set(next, byUser) {
    if (byUser && editor.locked && next.points !== now.points) return;
    const edited = next.points !== now.points || next.raw !== now.raw;
    const moved = next.selected !== now.selected;
    now = next;
    if (edited || moved) editor.cross = null;
    if (edited) editor.hovered = -1;
    if (byUser && !now.base && state.textOf(now) !== text) {
      text = state.textOf(now);
      onText(text);
    }
    if (edited || moved) onEdit();
    invalidate();
  }

  return editor;
}

function stored() {
  try {
    return localStorage.getItem(STORAGE);
  } catch {
    return null;
  }
}
