/** Keyboard input on the image of the point-hint canvas. */

import * as geometry from "./geometry.js";
import * as state from "./state.js";

const ARROW_STEP = 1; // viewport pixels
const ARROW_STEP_SHIFT = 10;
const ZOOM_STEP = 1.25; // factor per key press
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

const clamp = (part) => Math.min(1, Math.max(0, part));

/**
 * @param {HTMLCanvasElement} canvas
 * @param {ReturnType<typeof import("./editor.js").createEditor>} editor
 * @param {{cancel: () => boolean}} pointer cancels the pointer's gesture; false without one
 */
export function attachKeyboardInput(canvas, editor, pointer) {
  function onKeyDown(event) {
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (event.ctrlKey || event.metaKey || event.altKey || !handle(event, name)) return;
    event.preventDefault();
    event.stopPropagation();
  }

  /** @returns {boolean} true if the key was handled */
  function handle(event, name) {
    const { state: current } = editor;
    if (ARROWS[name]) moveByArrow(...ARROWS[name], event.shiftKey ? ARROW_STEP_SHIFT : ARROW_STEP);
    else if (name === "Tab") return selectNext(event.shiftKey ? -1 : 1, false);
    else if (name === "[" || name === "]") selectNext(name === "]" ? 1 : -1, true);
    else if (name === "Delete" || name === "Backspace") editor.remove(current.selected);
    else if (name === "Enter") onEnter();
    else if (name === "+" || name === "=") editor.zoom(ZOOM_STEP);
    else if (name === "-" || name === "_") editor.zoom(1 / ZOOM_STEP);
    else if (name === "0") editor.setView(geometry.FIT);
    else if (name === "Escape") onEscape();
    else if (name === " ") editor.spaceDown = true;
    else if (name === "c") editor.change({ comparing: true });
    else if (name === "h") editor.change({ showPoints: !editor.showPoints });
    else if (name === "i") editor.startPicking();
    else return false;
    return true;
  }

  /** Returns the position for keyboard input: the crosshair, initially the center of the view. */
  function crosshair() {
    if (editor.crosshair) return editor.crosshair;
    const { width, height } = editor.viewport;
    return geometry.toImage(editor.frame(), width / 2, height / 2).map(clamp);
  }

  function moveByArrow(dx, dy, pixels) {
    const { width, height } = editor.frame();
    const [right, below] = [(dx * pixels) / width, (dy * pixels) / height];
    const point = editor.state.points[editor.state.selected];
    if (point && !editor.picking) {
      if (editor.readOnly) return;
      const target = [point.x + right, point.y + below];
      const begun = state.begin(editor.state); // a held key is one undo step
      editor.apply(state.move(begun, begun.selected, ...target));
      editor.reveal(...target);
      return;
    }
    const [x, y] = crosshair();
    const moved = [x + right * 4, y + below * 4].map(clamp);
    editor.change({ crosshair: moved });
    editor.reveal(...moved);
  }

  function selectNext(step, wrap) {
    const index = state.neighbor(editor.state, step, wrap);
    if (index < 0) return false; // Tab leaves the canvas after the last point
    editor.select(index);
    return true;
  }

  function onEnter() {
    const target = crosshair();
    if (editor.picking) editor.pickColor(...target);
    else if (editor.addPoint(...target)) editor.apply(state.finish(editor.state));
  }

  function onEscape() {
    if (!pointer.cancel()) {
      if (editor.picking) editor.change({ picking: null });
      else editor.apply(state.select(editor.state, -1));
    }
    editor.change({ crosshair: null });
  }

  function onKeyUp(event) {
    if (event.key === " ") editor.spaceDown = false;
    if (ARROWS[event.key]) editor.apply(state.finish(editor.state));
    if (event.key.toLowerCase() === "c" && editor.comparing) editor.change({ comparing: false });
  }

  function onBlur() {
    editor.spaceDown = false;
    editor.apply(state.finish(editor.state));
    editor.change({ comparing: false, crosshair: null });
  }

  canvas.addEventListener("keydown", onKeyDown);
  canvas.addEventListener("keyup", onKeyUp);
  canvas.addEventListener("blur", onBlur);
}
