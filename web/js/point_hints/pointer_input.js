/** Pointer and wheel input on the image of the point-hint canvas: mouse, pen and touch. */

import * as geometry from "./geometry.js";
import * as state from "./state.js";

const DRAG_DISTANCE = { mouse: 3, touch: 8 }; // viewport pixels before a press becomes a drag
const LONG_PRESS_MS = 500;
const TOUCH_RADIUS = 20; // viewport pixels around a point that a finger hits
const WHEEL_ZOOM = 0.0015; // log zoom per wheel unit
const WHEEL_LINE = 33; // wheel units per line

/**
 * @param {HTMLCanvasElement} canvas
 * @param {ReturnType<typeof import("./editor.js").createEditor>} editor
 * @param {(event: WheelEvent) => void} passWheel forwards a wheel event to the graph
 * @returns {{cancel: () => boolean, detach: () => void}} cancel: reverts the current gesture;
 *   detach: removes the listeners on the window
 */
export function attachPointerInput(canvas, editor, passWheel) {
  /**
   * tap: a finger is down and has not moved yet; pinch: two fingers; rest: fingers that are down
   * and do nothing more
   * @type {null | {kind: "pan" | "point" | "tap" | "pinch" | "rest", x: number, y: number,
   *   dx: number, dy: number, moved: boolean, id: number, slack: number, timer?: any}}
   */
  let gesture = null;
  const fingers = new Map(); // pointer id -> [x, y] in viewport pixels

  /** Converts an event to viewport pixels; the graph's zoom scales the element. */
  function position(event) {
    const rect = canvas.getBoundingClientRect();
    const scale = rect.width / canvas.clientWidth || 1;
    return [(event.clientX - rect.left) / scale, (event.clientY - rect.top) / scale];
  }

  const hit = (x, y, radius = geometry.HIT_RADIUS) =>
    editor.showPoints ? geometry.hitTest(editor.state.points, editor.frame(), x, y, radius) : -1;

  // --- Gestures ---

  // Never preventDefault here: it would suppress mouseup, which the host's undo relies on.
  function onPointerDown(event) {
    event.stopPropagation();
    const [x, y] = position(event);
    if (event.pointerType === "touch") fingerDown(event, x, y);
    else if (gesture) return;
    else if (event.button === 1 || (event.button === 0 && editor.spaceDown)) {
      startGesture(event, "pan", x, y);
    } else if (event.button === 2) removeAt(hit(x, y));
    else if (event.button === 0) press(event, x, y, hit(x, y));
  }

  function startGesture(event, kind, x, y, dx = 0, dy = 0, moved = false) {
    const slack = DRAG_DISTANCE[event.pointerType] ?? DRAG_DISTANCE.mouse;
    gesture = { kind, x, y, dx, dy, moved, slack, id: event.pointerId };
    canvas.setPointerCapture(event.pointerId);
    updateCursor(x, y);
  }

  /** Picks a color, or starts to move the point that was hit, or adds one. */
  function press(event, x, y, index) {
    const rect = editor.frame();
    if (editor.picking) {
      if (geometry.isOnImage(rect, x, y, 0)) editor.pickColor(...geometry.toImage(rect, x, y));
    } else if (index >= 0) {
      const point = editor.state.points[index];
      const [px, py] = geometry.toViewport(rect, point.x, point.y);
      editor.apply(state.begin(state.select(editor.state, index)));
      startGesture(event, "point", x, y, px - x, py - y);
    } else if (geometry.isOnImage(rect, x, y) && !editor.readOnly) {
      if (!editor.showPoints) editor.change({ showPoints: true });
      if (editor.addPoint(...geometry.toImage(rect, x, y))) {
        startGesture(event, "point", x, y, 0, 0, true);
      }
    } else editor.apply(state.select(editor.state, -1));
  }

  function removeAt(index) {
    if (editor.picking) editor.change({ picking: null });
    else editor.remove(index);
  }

  function onPointerMove(event) {
    event.stopPropagation();
    const [x, y] = position(event);
    if (fingers.has(event.pointerId)) fingerMove(event, x, y);
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
    } else if (gesture.kind === "point") {
      gesture.moved ||= hasMoved(x, y);
      if (!gesture.moved) return;
      const target = geometry.toImage(editor.frame(), x + gesture.dx, y + gesture.dy);
      editor.apply(state.move(editor.state, editor.state.selected, ...target));
    }
  }

  const hasMoved = (x, y) => Math.hypot(x - gesture.x, y - gesture.y) >= gesture.slack;

  function onPointerUp(event) {
    event.stopPropagation();
    if (gesture?.kind === "tap" && gesture.id === event.pointerId) tap(event);
    fingers.delete(event.pointerId);
    if (gesture?.id === event.pointerId || (gesture && isMultiTouch() && !fingers.size)) {
      endGesture();
    }
  }

  const isMultiTouch = () => gesture.kind === "pinch" || gesture.kind === "rest";

  function endGesture() {
    const { kind } = gesture;
    gesture = null;
    if (kind === "point") editor.apply(state.finish(editor.state));
    canvas.style.cursor = "";
  }

  /** Reverts the gesture; returns false without one. */
  function cancel() {
    if (!gesture) return false;
    clearTimeout(gesture.timer);
    if (gesture.kind === "point") editor.apply(state.cancel(editor.state));
    gesture = null;
    return true;
  }

  /** The browser has taken the pointer, or it was released, which onPointerUp has handled. */
  function onPointerLost(event) {
    fingers.delete(event.pointerId);
    if (gesture?.id === event.pointerId || !fingers.size) cancel();
  }

  // --- Touch: tap and drag as with a mouse, pinch to zoom and pan, long press to remove ---

  function fingerDown(event, x, y) {
    fingers.set(event.pointerId, [x, y]);
    if (fingers.size === 1 && !gesture) {
      startGesture(event, "tap", x, y);
      gesture.timer = setTimeout(longPress, LONG_PRESS_MS);
    } else if (fingers.size === 2) {
      cancel(); // the point of the first finger
      startGesture(event, "pinch", x, y);
      gesture.id = null;
    }
  }

  function fingerMove(event, x, y) {
    if (gesture?.kind === "pinch" && fingers.size === 2) pinch(event.pointerId, x, y);
    fingers.set(event.pointerId, [x, y]);
    if (gesture?.kind === "tap" && hasMoved(x, y)) tap(event);
  }

  /** Zooms and pans by the movement of one of two fingers. */
  function pinch(id, x, y) {
    const [[otherX, otherY]] = [...fingers].filter(([key]) => key !== id).map(([, at]) => at);
    const [oldX, oldY] = fingers.get(id);
    const factor = Math.hypot(x - otherX, y - otherY) / Math.hypot(oldX - otherX, oldY - otherY);
    if (Number.isFinite(factor) && factor > 0) {
      editor.zoom(factor, (oldX + otherX) / 2, (oldY + otherY) / 2);
    }
    const { view, viewport } = editor;
    editor.setView(geometry.pan(view, (x - oldX) / 2, (y - oldY) / 2, editor.size(), viewport));
  }

  /** Turns the tap into the press of a mouse. */
  function tap(event) {
    const { x, y, timer } = gesture;
    clearTimeout(timer);
    gesture = null;
    press(event, x, y, hit(x, y, TOUCH_RADIUS));
  }

  function longPress() {
    const index = hit(gesture.x, gesture.y, TOUCH_RADIUS);
    gesture.kind = "rest";
    if (index >= 0 || editor.picking) removeAt(index);
    else editor.notify("Long press a point to remove it");
  }

  // --- Hover and wheel ---

  function onPointerLeave() {
    if (!gesture && editor.hovered !== -1) editor.change({ hovered: -1 });
  }

  function updateCursor(x, y) {
    let style = "default";
    if (gesture?.kind === "pan") style = "grabbing";
    else if (gesture) style = "none";
    else if (editor.spaceDown) style = "grab";
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

  const stop = (event) => event.stopPropagation();
  const listeners = {
    pointerdown: onPointerDown,
    pointermove: onPointerMove,
    pointerup: onPointerUp,
    pointercancel: onPointerLost,
    lostpointercapture: onPointerLost,
    pointerleave: onPointerLeave,
    focus: () => setPointerCapturing(true),
    blur: () => setPointerCapturing(false),
    contextmenu(event) {
      event.preventDefault();
      event.stopPropagation();
    },
    dblclick: stop,
    auxclick: stop,
    // keeps the middle button from starting the browser's scrolling
    mousedown: (event) => event.button === 1 && event.preventDefault(),
  };
  for (const [type, listener] of Object.entries(listeners)) canvas.addEventListener(type, listener);
  canvas.addEventListener("wheel", onWheel, { passive: false });

  return { cancel, detach: () => setPointerCapturing(false) };
}

/**
 * Keeps touches of the canvas from the graph, which zooms on a pinch: it listens on an ancestor
 * before the canvas does. Pointer events are unaffected.
 */
export function keepTouchesFromGraph() {
  const stop = (event) => {
    if (event.target.closest?.(".colorist-hints")) event.stopPropagation();
  };
  for (const type of ["touchstart", "touchmove", "touchend", "touchcancel"]) {
    window.addEventListener(type, stop, { capture: true, passive: true });
  }
}
