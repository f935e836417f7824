/** Pointer, wheel and keys on the picture of the point-hint canvas. */

import * as geometry from "./geometry.js";
import { colorAt } from "./image_data.js";
import * as state from "./state.js";

const DRAG = 3; // board pixels before a press becomes a drag
const STEP = 1; // board pixels that an arrow key moves a point
const STRIDE = 10; // the same with Shift
const NEAR = 1.25; // factor of one zoom step
const WHEEL = 0.0015; // zoom per unit of the wheel
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * @param {HTMLCanvasElement} canvas
 * @param {ReturnType<import("./editor.js").createEditor>} editor
 * @param {(event: WheelEvent) => void} passWheel hands a wheel that is not ours to the graph
 */
export function attachBoard(canvas, editor, passWheel) {
  /** @type {null | {kind: "pan" | "point", x: number, y: number, dx: number, dy: number,
   *   moved: boolean, id: number}} */
  let gesture = null;
  let space = false;

  /** Event -> board pixels; the graph's zoom scales the element. */
  function at(event) {
    const rect = canvas.getBoundingClientRect();
    const scale = rect.width / canvas.clientWidth || 1;
    return [(event.clientX - rect.left) / scale, (event.clientY - rect.top) / scale];
  }

  const hit = (x, y) =>
    editor.showPoints ? geometry.hitTest(editor.state.points, editor.frame(), x, y) : -1;

  // --- Pointer ---

  // Never preventDefault here: it would suppress mouseup, on which the host's undo hangs.
  function down(event) {
    event.stopPropagation();
    if (gesture) return;
    const [x, y] = at(event);
    if (event.button === 1 || (event.button === 0 && space)) start(event, "pan", x, y);
    else if (event.button === 2) removeAt(x, y);
    else if (event.button === 0) press(event, x, y);
  }

  function start(event, kind, x, y, dx = 0, dy = 0, moved = false) {
    gesture = { kind, x, y, dx, dy, moved, id: event.pointerId };
    canvas.setPointerCapture(event.pointerId);
    cursor(x, y);
  }

  function press(event, x, y) {
    const rect = editor.frame();
    if (editor.picking) {
      pick(rect, x, y);
      return;
    }
    const index = hit(x, y);
    if (index >= 0) {
      const point = editor.state.points[index];
      const [px, py] = geometry.toBoard(rect, point.x, point.y);
      editor.apply(state.begin(state.select(editor.state, index)));
      start(event, "point", x, y, px - x, py - y);
    } else if (geometry.onPicture(rect, x, y) && !editor.locked) {
      if (!editor.showPoints) editor.change({ showPoints: true });
      if (place(...geometry.toPicture(rect, x, y))) start(event, "point", x, y, 0, 0, true);
    } else editor.apply(state.select(editor.state, -1));
  }

  /** Adds a point as the start of a gesture. */
  function place(x, y) {
    const begun = state.begin(editor.state);
    const added = state.add(begun, x, y);
    if (added === begun) {
      editor.say(`There are ${state.MOST} points, which is the most`);
      return false;
    }
    editor.apply(added);
    editor.remember(added.color);
    return true;
  }

  function pick(rect, x, y) {
    const picture = editor.pictures[editor.picking];
    if (!picture || !geometry.onPicture(rect, x, y, 0)) return;
    const color = colorAt(picture, ...geometry.toPicture(rect, x, y));
    editor.change({ picking: null });
    editor.setView(editor.view);
    editor.choose(color);
  }

  const remove = (index) => editor.apply(state.remove(editor.state, index));

  function removeAt(x, y) {
    if (editor.picking) editor.change({ picking: null });
    else remove(hit(x, y));
  }

  function moveTo(event) {
    event.stopPropagation();
    const [x, y] = at(event);
    if (!gesture) {
      const hovered = editor.picking ? -1 : hit(x, y);
      if (hovered !== editor.hovered) editor.change({ hovered });
      cursor(x, y);
      return;
    }
    if (event.pointerId !== gesture.id) return;
    if (gesture.kind === "pan") {
      const { view, board } = editor;
      editor.setView(geometry.pan(view, x - gesture.x, y - gesture.y, editor.size(), board));
      [gesture.x, gesture.y] = [x, y];
      return;
    }
    gesture.moved ||= Math.hypot(x - gesture.x, y - gesture.y) >= DRAG;
    if (!gesture.moved) return;
    const place = geometry.toPicture(editor.frame(), x + gesture.dx, y + gesture.dy);
    editor.apply(state.move(editor.state, editor.state.selected, ...place));
  }

  function up(event) {
    event.stopPropagation();
    if (gesture?.id === event.pointerId) end();
  }

  function end() {
    const { kind } = gesture;
    gesture = null;
    if (kind === "point") editor.apply(state.finish(editor.state));
    canvas.style.cursor = "";
  }

  /** The gesture was taken away: as if it had not been. */
  function lost() {
    if (!gesture) return;
    if (gesture.kind === "point") editor.apply(state.cancel(editor.state));
    gesture = null;
  }

  function leave() {
    if (!gesture && editor.hovered !== -1) editor.change({ hovered: -1 });
  }

  function cursor(x, y) {
    let style = "default";
    if (gesture?.kind === "pan") style = "grabbing";
    else if (gesture) style = "none";
    else if (space) style = "grab";
    else if (editor.hovered >= 0) style = "move";
    else if (geometry.onPicture(editor.frame(), x, y)) style = "crosshair";
    canvas.style.cursor = style;
  }

  /** Zooms the picture when it has the focus; the graph keeps the wheel otherwise. */
  function wheel(event) {
    if (document.activeElement !== canvas) {
      passWheel(event);
      return;
    }
    event.preventDefault();
    event.stopPropagation();
    const delta = event.deltaMode === 1 ? event.deltaY * 33 : event.deltaY;
    editor.zoom(Math.exp(-delta * WHEEL), ...at(event));
  }

  // --- Keys ---

  function key(event) {
    const mod = event.ctrlKey || event.metaKey;
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (mod && (name === "z" || name === "y") && !event.altKey) {
      const redo = name === "y" || event.shiftKey;
      editor.apply(redo ? state.redo(editor.state) : state.undo(editor.state));
      hide(event);
    } else if (mod || event.altKey || !plainKey(event, name)) return;
    event.preventDefault();
    event.stopPropagation();
  }

  /**
   * The host's undo listens at the window before us and reads the event one frame later. It gets
   * to see a plain key: it then takes our step for its history instead of undoing one of its own.
   */
  function hide(event) {
    for (const name of ["ctrlKey", "metaKey"]) Object.defineProperty(event, name, { value: false });
  }

  /** @returns {boolean} whether the key was ours */
  function plainKey(event, name) {
    const { state: now } = editor;
    if (ARROWS[name]) arrow(...ARROWS[name], event.shiftKey ? STRIDE : STEP);
    else if (name === "Tab") return choose(event.shiftKey ? -1 : 1, false);
    else if (name === "[" || name === "]") choose(name === "]" ? 1 : -1, true);
    else if (name === "Delete" || name === "Backspace") remove(now.selected);
    else if (name === "Enter") enter();
    else if (name === "+" || name === "=") editor.zoom(NEAR);
    else if (name === "-" || name === "_") editor.zoom(1 / NEAR);
    else if (name === "0") editor.setView(geometry.FIT);
    else if (name === "Escape") escape();
    else if (name === " ") space = true;
    else if (name === "c") editor.change({ comparing: true });
    else if (name === "h") editor.change({ showPoints: !editor.showPoints });
    else if (name === "i") editor.startPicking();
    else return false;
    return true;
  }

  /** The place that keys work on: the crosshair, at first the middle of what is seen. */
  function cross() {
    if (editor.cross) return editor.cross;
    const { width, height } = editor.board;
    const [x, y] = geometry.toPicture(editor.frame(), width / 2, height / 2);
    return [Math.min(1, Math.max(0, x)), Math.min(1, Math.max(0, y))];
  }

  function arrow(dx, dy, pixels) {
    const { width, height } = editor.frame();
    const [right, below] = [(dx * pixels) / width, (dy * pixels) / height];
    const point = editor.state.points[editor.state.selected];
    if (point && !editor.picking) {
      const to = [point.x + right, point.y + below];
      editor.apply(state.move(editor.state, editor.state.selected, ...to));
      editor.reveal(...to);
      return;
    }
    const [x, y] = cross();
    const moved = [x + right * 4, y + below * 4].map((part) => Math.min(1, Math.max(0, part)));
    editor.change({ cross: moved });
    editor.reveal(...moved);
  }

  function choose(step, wrap) {
    const index = state.neighbour(editor.state, step, wrap);
    if (index < 0) return false; // Tab leaves the picture after the last point
    editor.select(index);
    return true;
  }

  function enter() {
    const place = cross();
    if (editor.picking) {
      const rect = editor.frame();
      pick(rect, ...geometry.toBoard(rect, ...place));
    } else if (!editor.locked) {
      const added = state.add(editor.state, ...place);
      editor.apply(added);
    }
  }

  function escape() {
    if (gesture) lost();
    else if (editor.picking) editor.change({ picking: null });
    else editor.apply(state.select(editor.state, -1));
    editor.change({ cross: null });
  }

  /**
   * In Nodes 2.0 the graph takes the middle button before the page's elements see it. While the
   * picture has the focus it is ours, as the wheel is.
   */
  function early(event) {
    if (event.target !== canvas || (event.button !== 1 && !(event.buttons & 4))) return;
    ({ pointerdown: down, pointermove: moveTo, pointerup: up })[event.type](event);
  }

  function setEarly(on) {
    for (const type of ["pointerdown", "pointermove", "pointerup"]) {
      if (on) window.addEventListener(type, early, true);
      else window.removeEventListener(type, early, true);
    }
  }

  function keyUp(event) {
    if (event.key === " ") space = false;
    if (event.key.toLowerCase() === "c" && editor.comparing) editor.change({ comparing: false });
  }

  function blur() {
    setEarly(false);
    space = false;
    editor.change({ comparing: false, cross: null });
  }

  const stop = (event) => event.stopPropagation();
  const swallow = (event) => {
    event.preventDefault();
    event.stopPropagation();
  };
  const on = {
    pointerdown: down,
    pointermove: moveTo,
    pointerup: up,
    pointercancel: lost,
    lostpointercapture: lost,
    pointerleave: leave,
    keydown: key,
    keyup: keyUp,
    focus: () => setEarly(true),
    blur,
    contextmenu: swallow,
    dblclick: stop,
    auxclick: stop,
    // the middle button must not start the browser's scrolling
    mousedown: (event) => event.button === 1 && event.preventDefault(),
  };
  for (const [type, heard] of Object.entries(on)) canvas.addEventListener(type, heard);
  canvas.addEventListener("wheel", wheel, { passive: false });

  /** Lets go of the window. */
  return () => setEarly(false);
}
