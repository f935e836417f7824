/**
 * State of the point-hint canvas: the document (points), its history and the brush. Pure.
 *
 * The document's text is the only truth that is saved. A text that came from outside is given back
 * unchanged until somebody edits: what cannot be read is never overwritten silently.
 *
 * @typedef {{x: number, y: number, color: string, size: number}} Point x, y in 0..1 of the picture
 * @typedef {{points: Point[], raw: string | null, problem: string, readable: boolean}} Doc
 *   raw: the text as it came, null once edited; problem: what is wrong with it; readable: false
 *   when nothing of it could be read
 * @typedef {Doc & {selected: number, color: string, size: number, past: Doc[], future: Doc[],
 *   base: Doc | null}} State base: the document before a gesture that is under way
 */

import { parseHex } from "./color.js";

export const VERSION = 1;
export const MOST = 1000;
export const SIZE = 2;
export const SMALLEST = 1;
export const LARGEST = 64;
export const HISTORY = 100;
export const RECENT = 12;
export const FIRST_COLOR = "#a8704c";
const DECIMALS = 1e5;
const KEYS = ["x", "y", "color", "size"];
const COLOR = /^#[0-9a-f]{6}$/i;
const SPACE = /[\x1c-\x1f\x85]|[^\S\ufeff]/; // what Python takes for white space

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

// --- Text ----------------------------------------------------------------------------------------

/**
 * The text of a saved value, which is untrusted.
 * @param {unknown} text
 * @returns {Doc}
 */
export function parse(text) {
  if (text === null || text === undefined) text = "";
  if (typeof text !== "string") text = JSON.stringify(text) ?? "";
  const [found, around] = readable(text);
  if (!found) return { points: [], raw: text, problem: around, readable: false };
  const points = [];
  const wrong = around ? [around] : [];
  found.forEach((value, index) => {
    const [point, what] = readPoint(value);
    if (what) wrong.push(`point ${index + 1}: ${what}`);
    if (point && points.length < MOST) points.push(point);
    else if (point) wrong.push(`point ${index + 1}: more than ${MOST}`);
  });
  const more = wrong.length > 1 ? ` (and ${wrong.length - 1} more)` : "";
  return { points, raw: text, problem: wrong.length ? wrong[0] + more : "", readable: true };
}

/** A text without what editors and people put around it, as the queue reads it. */
function trimmed(text) {
  let start = text.startsWith("\ufeff") ? 1 : 0, end = text.length;
  while (start < end && SPACE.test(text[start])) start++;
  while (end > start && SPACE.test(text[end - 1])) end--;
  return text.slice(start, end);
}

/** [list of points or null, what is wrong about it or ""]. */
function readable(text) {
  const inner = trimmed(text);
  if (!inner) return [[], ""];
  let value;
  try {
    value = JSON.parse(inner);
  } catch {
    return [null, "the hints are not JSON"];
  }
  if (Array.isArray(value)) return [value, "the hints are a list without version"];
  if (typeof value !== "object" || value === null) return [null, "the hints are no object"];
  if (value.version !== VERSION) {
    const shown = (JSON.stringify(value.version) ?? "missing").slice(0, 20);
    return [null, `the hints have version ${shown}; this canvas knows version ${VERSION}`];
  }
  if (!Array.isArray(value.points)) return [null, "the hints have no list of points"];
  const unknown = Object.keys(value).find((key) => key !== "version" && key !== "points");
  return [value.points, unknown === undefined ? "" : `${unknown.slice(0, 20)} is unknown`];
}

/** [point or null, what is wrong or ""]: out of range is clamped, unreadable is dropped. */
function readPoint(value) {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return [null, "not an object"];
  }
  for (const key of ["x", "y"]) {
    if (!isNumber(value[key])) return [null, `${key} is not a number`];
  }
  const { color } = value;
  if (typeof color !== "string" || !COLOR.test(color)) return [null, "color is not #rrggbb"];
  const size = value.size === undefined ? SIZE : value.size;
  const side = isNumber(size) ? size : SIZE;
  const point = makePoint(value.x, value.y, color.toLowerCase(), side);
  const unknown = Object.keys(value).find((key) => !KEYS.includes(key));
  if (unknown !== undefined) return [point, `${unknown.slice(0, 20)} is unknown`];
  if (!isNumber(size) || size < SMALLEST || size > LARGEST) return [point, "size is out of range"];
  for (const key of ["x", "y"]) {
    if (value[key] < 0 || value[key] > 1) return [point, `${key} is out of range`];
  }
  return [point, ""];
}

/**
 * A point inside its ranges, rounded as it is saved.
 * @returns {Point}
 */
export function makePoint(x, y, color, size = SIZE) {
  const round = (value) => Math.round(clamp(value, 0, 1) * DECIMALS) / DECIMALS;
  const side = Math.round(clamp(size, SMALLEST, LARGEST) * 100) / 100;
  return { x: round(x), y: round(y), color, size: side };
}

/**
 * @param {Point[]} points
 * @returns {string} compact JSON, always the same for the same points
 */
export function serialise(points) {
  const list = points.map(({ x, y, color, size }) => ({ x, y, color, size }));
  return JSON.stringify({ version: VERSION, points: list });
}

/**
 * What is saved: the text as it came, until it is edited.
 * @param {Doc} doc
 */
export function textOf(doc) {
  return doc.raw ?? serialise(doc.points);
}

// --- History -------------------------------------------------------------------------------------

/**
 * @param {unknown} [text]
 * @returns {State}
 */
export function create(text = "") {
  return {
    ...parse(text), selected: -1, color: FIRST_COLOR, size: SIZE, past: [], future: [], base: null,
  };
}

/** @returns {Doc} */
function docOf({ points, raw, problem, readable: known }) {
  return { points, raw, problem, readable: known };
}

const pushed = (list, doc) => [...list, doc].slice(-HISTORY);

/** @returns {State} */
function withPoints(state, points, selected = state.selected) {
  const next = { ...state, points, selected, raw: null, problem: "", readable: true };
  if (state.base) return next;
  return { ...next, past: pushed(state.past, docOf(state)), future: [] };
}

/** @returns {State} */
function withDoc(state, doc) {
  const selected = state.selected < doc.points.length ? state.selected : -1;
  return { ...state, ...doc, selected, base: null };
}

/**
 * A text from the host (load, its undo, paste). An own edit stays undoable.
 * @param {State} state
 * @param {unknown} text
 * @returns {State}
 */
export function load(state, text) {
  const doc = parse(text);
  if (doc.raw === textOf(state) && !state.base) return state;
  const edited = state.past.length > 0 || state.future.length > 0;
  const past = edited ? pushed(state.past, state.base ?? docOf(state)) : [];
  return { ...withDoc(state, doc), past, future: [] };
}

/** Starts a gesture: edits until `finish` become one step of the history. */
export function begin(state) {
  return state.base ? state : { ...state, base: docOf(state) };
}

/** Ends a gesture. */
export function finish(state) {
  if (!state.base) return state;
  const { base } = state;
  if (serialise(base.points) === serialise(state.points) && base.readable) {
    return { ...state, ...base, base: null };
  }
  return { ...state, base: null, past: pushed(state.past, base), future: [] };
}

/** Ends a gesture as if it had not been. */
export function cancel(state) {
  return state.base ? withDoc(state, state.base) : state;
}

/** @param {State} state */
export function undo(state) {
  const settled = finish(state);
  const doc = settled.past.at(-1);
  if (!doc) return settled;
  const future = pushed(settled.future, docOf(settled));
  return { ...withDoc(settled, doc), past: settled.past.slice(0, -1), future };
}

/** @param {State} state */
export function redo(state) {
  const settled = finish(state);
  const doc = settled.future.at(-1);
  if (!doc) return settled;
  const past = pushed(settled.past, docOf(settled));
  return { ...withDoc(settled, doc), past, future: settled.future.slice(0, -1) };
}

// --- Edits ---------------------------------------------------------------------------------------

/** Adds a point of the brush's colour and size and selects it; nothing when MOST are there. */
export function add(state, x, y) {
  if (state.points.length >= MOST) return state;
  const points = [...state.points, makePoint(x, y, state.color, state.size)];
  return withPoints(state, points, points.length - 1);
}

function replaced(state, index, change) {
  const point = state.points[index];
  if (!point) return state;
  const next = { ...point, ...change };
  const made = makePoint(next.x, next.y, next.color, next.size);
  if (KEYS.every((key) => made[key] === point[key])) return state;
  return withPoints(state, state.points.map((old, at) => (at === index ? made : old)));
}

/** Moves a point; it stays on the picture. */
export function move(state, index, x, y) {
  return replaced(state, index, { x, y });
}

/** Sets the brush's colour, and that of the selected point. */
export function recolor(state, color) {
  return replaced({ ...state, color }, state.selected, { color });
}

/** Sets the brush's size, and that of the selected point. */
export function resize(state, size) {
  const side = makePoint(0, 0, state.color, size).size;
  return replaced({ ...state, size: side }, state.selected, { size: side });
}

/** Removes a point; the selection stays on its point. */
export function remove(state, index) {
  if (!state.points[index]) return state;
  const points = state.points.filter((_, at) => at !== index);
  let { selected } = state;
  if (selected === index) selected = -1;
  else if (selected > index) selected -= 1;
  return withPoints(state, points, selected);
}

/** Replaces all points: import, clear, and "keep what can be read". */
export function replaceAll(state, points) {
  return withPoints(state, points.slice(0, MOST), -1);
}

/** Selects a point (-1: none); the brush takes its colour and size. */
export function select(state, index) {
  const point = state.points[index];
  if (!point) return state.selected === -1 ? state : { ...state, selected: -1 };
  return { ...state, selected: index, color: point.color, size: point.size };
}

/**
 * The point `step` places after the selected one, or -1 beyond the ends (unless `wrap`).
 * @returns {number}
 */
export function neighbour(state, step, wrap) {
  const count = state.points.length;
  if (!count) return -1;
  const start = state.selected < 0 ? (step > 0 ? -1 : count) : state.selected;
  const next = start + step;
  if (wrap) return (next + count) % count;
  return next >= 0 && next < count ? next : -1;
}

// --- Recent colours ------------------------------------------------------------------------------

/**
 * @param {string[]} list newest first
 * @param {string} color
 * @returns {string[]}
 */
export function pushRecent(list, color) {
  return [color, ...list.filter((other) => other !== color)].slice(0, RECENT);
}

/**
 * Recent colours from storage, which is untrusted.
 * @param {unknown} text
 * @returns {string[]}
 */
export function parseRecent(text) {
  try {
    const list = JSON.parse(String(text ?? "[]"));
    return Array.isArray(list) ? list.map(parseHex).filter(Boolean).slice(0, RECENT) : [];
  } catch {
    return [];
  }
}
