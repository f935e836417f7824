/** Pointer, wheel and keyboard input on the image of the point-hint canvas. */

import * as geometry from "./geometry.js";
import { colorAt } from "./image_data.js";
import * as state from "./state.js";

const DRAG_DISTANCE = 3; // viewport pixels before a press becomes a drag
const ARROW_STEP = 1; // viewport pixels
const ARROW_STEP_SHIFT = 10;
const ZOOM_STEP = 1.25; // factor per key press
const WHEEL_ZOOM = 0.0015; // log zoom per wheel unit
const WHEEL_LINE = 33; // wheel units per line
const ARROWS = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, -1], ArrowDown: [0, 1] };

/**
 * @param {HTMLCanvasElement} canvas
 * @param {ReturnType<typeof import("./editor.js").createEditor>} editor
 * @param {(event: WheelEvent) => void} passWheel forwards a wheel event to the graph
 * @returns {() => void} removes the listeners on the window
 */
export function attachPointerInput(canvas, editor, passWheel) {
  /** @type {null | {kind: "pan" | "point", x: number, y: number, dx: number, dy: number,
   *   moved: boolean, id: number}} */
  let gesture = null;
  let spaceDown = false;

  /** Converts an event to viewport pixels; the graph's zoom scales the element. */
  function position(event) {
    const rect = canvas.getBoundingClientRect();
    const scale = rect.width / canvas.clientWidth || 1;
    return [(event.clientX - rect.left) / scale, (event.clientY - rect.top) / scale];
  }

  const hit = (x, y) =>
    editor.showPoints ? geometry.hitTest(editor.state.points, editor.frame(), x, y) : -1;

  // --- Pointer ---

  // Never preventDefault here: it would suppress mouseup, which the host's undo relies on.
  function onPointerDown(event) {
    event.stopPropagation();
    if (gesture) return;
    const [x, y] = position(event);
    if (event.button === 1 || (event.button === 0 && spaceDown)) startGesture(event, "pan", x, y);
    else if (event.button === 2) removeAt(x, y);
    else if (event.button === 0) press(event, x, y);
  }

  function startGesture(event, kind, x, y, dx = 0, dy = 0, moved = false) {
    gesture = { kind, x, y, dx, dy, moved, id: event.pointerId };
    canvas.setPointerCapture(event.pointerId);
    updateCursor(x, y);
  }

  function press(event, x, y) {
    const rect = editor.frame();
    if (editor.picking) {
      pickColor(rect, x, y);
      return;
    }
    const index = hit(x, y);
    if (index >= 0) {
      const point = editor.state.points[index];
      const [px, py] = geometry.toViewport(rect, point.x, point.y);
      editor.apply(state.begin(state.select(editor.state, index)));
      startGesture(event, "point", x, y, px - x, py - y);
    } else if (geometry.isOnImage(rect, x, y) && !editor.locked) {
      if (!editor.showPoints) editor.change({ showPoints: true });
      if (addPoint(...geometry.toImage(rect, x, y))) {
        startGesture(event, "point", x, y, 0, 0, true);
      }
    } else editor.apply(state.select(editor.state, -1));
  }

  /** Adds a point as the start of a gesture. */
  function addPoint(x, y) {
    const begun = state.begin(editor.state);
    const added = state.add(begun, x, y);
    if (added === begun) {
      editor.notify(`The maximum of ${state.MAX_POINTS} hint points is reached`);
      return false;
    }
    editor.apply(added);
    editor.addRecent(added.color);
    return true;
  }

  function pickColor(rect, x, y) {
    const image = editor.images[editor.picking];
    if (!image || !geometry.isOnImage(rect, x, y, 0)) return;
    const color = colorAt(image, ...geometry.toImage(rect, x, y));
    editor.change({ picking: null });
    editor.setView(editor.view);
    editor.setColor(color);
  }

  const remove = (index) => editor.apply(state.remove(editor.state, index));

  function removeAt(x, y) {
    if (editor.picking) editor.change({ picking: null });
    else remove(hit(x, y));
  }

  function onPointerMove(event) {
    event.stopPropagation();
    const [x, y] = position(event);
    if (!gesture) {
      const hovered = editor.picking ? -1 : hit(x, y);
      if (hovered !== editor.hovered) editor.change({ hovered });
      updateCursor(x, y);
      return;
    }
    if (event.pointerId !== gesture.id) return;
    if (gesture.kind === "pan") {
      const { view, viewport } = editor;
      editor.setView(geometry.pan(view, x - gesture.x, y - gesture.y, editor.size(), viewport));
      [gesture.x, gesture.y] = [x, y];
      return;
    }
    gesture.moved ||= Math.hypot(x - gesture.x, y - gesture.y) >= DRAG_DISTANCE;
    if (!gesture.moved) return;
    const target = geometry.toImage(editor.frame(), x + gesture.dx, y + gesture.dy);
    editor.apply(state.move(editor.state, editor.state.selected, ...target));
  }

  function onPointerUp(event) {
    event.stopPropagation();
    if (gesture?.id === event.pointerId) endGesture();
  }

  function endGesture() {
    const { kind } = gesture;
    gesture = null;
    if (kind === "point") editor.apply(state.finish(editor.state));
    canvas.style.cursor = "";
  }

  /** Reverts the gesture after the browser has canceled it. */
  function cancelGesture() {
    if (!gesture) return;
    if (gesture.kind === "point") editor.apply(state.cancel(editor.state));
    gesture = null;
  }

  function onPointerLeave() {
    if (!gesture && editor.hovered !== -1) editor.change({ hovered: -1 });
  }

  function updateCursor(x, y) {
    let style = "default";
    if (gesture?.kind === "pan") style = "grabbing";
    else if (gesture) style = "none";
    else if (spaceDown) style = "grab";
    else if (editor.hovered >= 0) style = "move";
    else if (geometry.isOnImage(editor.frame(), x, y)) style = "crosshair";
    canvas.style.cursor = style;
  }

  /** Zooms the image while it has the focus; otherwise the graph zooms. */
  function onWheel(event) {
    if (document.activeElement !== canvas) {
      passWheel(event);
      return;
    }
    event.preventDefault();
    event.stopPropagation();
    const delta = event.deltaMode === 1 ? event.deltaY * WHEEL_LINE : event.deltaY;
    editor.zoom(Math.exp(-delta * WHEEL_ZOOM), ...position(event));
  }

  // --- Keyboard ---

  function onKeyDown(event) {
    const modified = event.ctrlKey || event.metaKey;
    const name = event.key.length === 1 ? event.key.toLowerCase() : event.key;
    if (modified && (name === "z" || name === "y") && !event.altKey) {
      const redo = name === "y" || event.shiftKey;
      editor.apply(redo ? state.redo(editor.state) : state.undo(editor.state));
      maskModifiers(event);
    } else if (modified || event.altKey || !handlePlainKey(event, name)) return;
    event.preventDefault();
    event.stopPropagation();
  }

  /**
   * Hides Ctrl and Meta from the host's undo, which listens on the window before us and reads the
   * event one frame later. It then records our step instead of undoing a host step.
   */
  function maskModifiers(event) {
    for (const name of ["ctrlKey", "metaKey"]) Object.defineProperty(event, name, { value: false });
  }

  /** @returns {boolean} true if the key was handled */
  function handlePlainKey(event, name) {
    const { state: current } = editor;
    if (ARROWS[name]) moveByArrow(...ARROWS[name], event.shiftKey ? ARROW_STEP_SHIFT : ARROW_STEP);
    else if (name === "Tab") return selectNext(event.shiftKey ? -1 : 1, false);
    else if (name === "[" || name === "]") selectNext(name === "]" ? 1 : -1, true);
    else if (name === "Delete" || name === "Backspace") remove(current.selected);
    else if (name === "Enter") onEnter();
    else if (name === "+" || name === "=") editor.zoom(ZOOM_STEP);
    else if (name === "-" || name === "_") editor.zoom(1 / ZOOM_STEP);
    else if (name === "0") editor.setView(geometry.FIT);
    else if (name === "Escape") onEscape();
    else if (name === " ") spaceDown = true;
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
    const [x, y] = geometry.toImage(editor.frame(), width / 2, height / 2);
    return [Math.min(1, Math.max(0, x)), Math.min(1, Math.max(0, y))];
  }

  function moveByArrow(dx, dy, pixels) {
    const { width, height } = editor.frame();
    const [right, below] = [(dx * pixels) / width, (dy * pixels) / height];
    const point = editor.state.points[editor.state.selected];
    if (point && !editor.picking) {
      const target = [point.x + right, point.y + below];
      editor.apply(state.move(editor.state, editor.state.selected, ...target));
      editor.reveal(...target);
      return;
    }
    const [x, y] = crosshair();
    const moved = [x + right * 4, y + below * 4].map((part) => Math.min(1, Math.max(0, part)));
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
    if (editor.picking) {
      const rect = editor.frame();
      pickColor(rect, ...geometry.toViewport(rect, ...target));
    } else if (!editor.locked) {
      const added = state.add(editor.state, ...target);
      editor.apply(added);
    }
  }

  function onEscape() {
    if (gesture) cancelGesture();
    else if (editor.picking) editor.change({ picking: null });
    else editor.apply(state.select(editor.state, -1));
    editor.change({ crosshair: null });
  }

  /**
   * Handles the middle button before the graph does: in Nodes 2.0 the graph takes it before the
   * page elements see it. Active while the image has the focus, as for the wheel.
   */
  function capturePointer(event) {
    if (event.target !== canvas || (event.button !== 1 && !(event.buttons & 4))) return;
    const handlers = {
      pointerdown: onPointerDown, pointermove: onPointerMove, pointerup: onPointerUp,
    };
    handlers[event.type](event);
  }

  function setPointerCapturing(on) {
    for (const type of ["pointerdown", "pointermove", "pointerup"]) {
      if (on) window.addEventListener(type, capturePointer, true);
      else window.removeEventListener(type, capturePointer, true);
    }
  }

  function onKeyUp(event) {
    if (event.key === " ") spaceDown = false;
    if (event.key.toLowerCase() === "c" && editor.comparing) editor.change({ comparing: false });
  }

  function onBlur() {
    setPointerCapturing(false);
    spaceDown = false;
    editor.change({ comparing: false, crosshair: null });
  }

  const stop = (event) => event.stopPropagation();
  const swallow = (event) => {
    event.preventDefault();
    event.stopPropagation();
  };
  const listeners = {
    pointerdown: onPointerDown,
    pointermove: onPointerMove,
    pointerup: onPointerUp,
    pointercancel: cancelGesture,
    lostpointercapture: cancelGesture,
    pointerleave: onPointerLeave,
    keydown: onKeyDown,
    keyup: onKeyUp,
    focus: () => setPointerCapturing(true),
    blur: onBlur,
    contextmenu: swallow,
    dblclick: stop,
    auxclick: stop,
    // keeps the middle button from starting the browser's scrolling
    mousedown: (event) => event.button === 1 && event.preventDefault(),
  };
  for (const [type, listener] of Object.entries(listeners)) canvas.addEventListener(type, listener);
  canvas.addEventListener("wheel", onWheel, { passive: false });

  return () => setPointerCapturing(false);
}
