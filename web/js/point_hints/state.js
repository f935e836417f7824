/**
 * State of the point-hint canvas: the document (points) and the brush. Pure. Undo and redo are
 * those of the host, see history.js.
 *
 * The text of the document is what is saved. A text from outside is returned unchanged until the
 * first edit, so that unreadable content is never overwritten silently.
 *
 * @typedef {{x: number, y: number, color: string, size: number}} Point x, y in 0..1 of the image
 * @typedef {{points: Point[], raw: string | null, problem: string, readable: boolean}} Doc
 *   raw: the loaded text, null once edited; problem: why it is invalid, or ""; readable: false if
 *   nothing of it could be read
 * @typedef {Doc & {selected: number, color: string, size: number, base: Doc | null}} State
 *   base: the document before the current gesture
 */

import { parseColor, parseHex } from "./color.js";

export const VERSION = 1;
export const MAX_POINTS = 1000;
export const DEFAULT_SIZE = 2;
export const MIN_SIZE = 1;
export const MAX_SIZE = 64;
export const MAX_RECENT = 12;
export const DEFAULT_COLOR = "#a8704c";
const DECIMALS = 1e5;
const KEYS = ["x", "y", "color", "size"];
const SPACE = /[\x1c-\x1f\x85]|[^\S\ufeff]/; // white space by the rules of Python

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));
const isNumber = (value) => typeof value === "number" && Number.isFinite(value);

// --- Text ----------------------------------------------------------------------------------------

/**
 * Parses a saved value, which is untrusted.
 * @param {unknown} text
 * @returns {Doc}
 */
export function parse(text) {
  if (text === null || text === undefined) text = "";
  if (typeof text !== "string") text = JSON.stringify(text) ?? "";
  const [list, envelopeProblem] = readPointList(text);
  if (!list) return { points: [], raw: text, problem: envelopeProblem, readable: false };
  const points = [];
  const problems = envelopeProblem ? [envelopeProblem] : [];
  list.forEach((value, index) => {
    const [point, problem] = readPoint(value);
    if (problem) problems.push(`point ${index + 1}: ${problem}`);
    if (point && points.length < MAX_POINTS) points.push(point);
    else if (point) problems.push(`point ${index + 1}: more than ${MAX_POINTS}`);
  });
  const more = problems.length > 1 ? ` (and ${problems.length - 1} more)` : "";
  const problem = problems.length ? problems[0] + more : "";
  return { points, raw: text, problem, readable: true };
}

/** Returns true if a text is JSON of hints, complete or not; an empty text is not. */
export function isHints(text) {
  return Boolean(trim(text)) && parse(text).readable;
}

/** Removes byte order mark and white space, as the Python parser does. */
function trim(text) {
  let start = text.startsWith("\ufeff") ? 1 : 0, end = text.length;
  while (start < end && SPACE.test(text[start])) start++;
  while (end > start && SPACE.test(text[end - 1])) end--;
  return text.slice(start, end);
}

/** Returns [list of points or null, problem or ""]. */
function readPointList(text) {
  const inner = trim(text);
  if (!inner) return [[], ""];
  let value;
  try {
    value = JSON.parse(inner);
  } catch {
    return [null, "the hints are not JSON"];
  }
  if (Array.isArray(value)) return [value, "the hints are a list without a version"];
  if (typeof value !== "object" || value === null) return [null, "the hints are not a JSON object"];
  if (value.version !== VERSION) {
    const version = (JSON.stringify(value.version) ?? "missing").slice(0, 20);
    return [null, `the hints have version ${version}; this canvas supports version ${VERSION}`];
  }
  if (!Array.isArray(value.points)) return [null, "the hints have no list of points"];
  const unknown = Object.keys(value).find((key) => key !== "version" && key !== "points");
  return [value.points, unknown === undefined ? "" : `${unknown.slice(0, 20)} is not a known key`];
}

/** Returns [point or null, problem or ""]. Clamps values out of range. */
function readPoint(value) {
  if (typeof value !== "object" || value === null || Array.isArray(value)) {
    return [null, "not an object"];
  }
  for (const key of ["x", "y"]) {
    if (!isNumber(value[key])) return [null, `${key} is not a number`];
  }
  const color = parseColor(value.color);
  if (!color) return [null, "color is not #rrggbb or a CSS name"];
  const size = value.size === undefined ? DEFAULT_SIZE : value.size;
  const side = isNumber(size) ? size : DEFAULT_SIZE;
  const point = makePoint(value.x, value.y, color, side);
  const unknown = Object.keys(value).find((key) => !KEYS.includes(key));
  if (unknown !== undefined) return [point, `${unknown.slice(0, 20)} is not a known key`];
  if (!isNumber(size) || size < MIN_SIZE || size > MAX_SIZE) return [point, "size is out of range"];
  for (const key of ["x", "y"]) {
    if (value[key] < 0 || value[key] > 1) return [point, `${key} is out of range`];
  }
  return [point, ""];
}

/**
 * Creates a point, clamped to its ranges and rounded for saving.
 * @returns {Point}
 */
export function makePoint(x, y, color, size = DEFAULT_SIZE) {
  const round = (value) => Math.round(clamp(value, 0, 1) * DECIMALS) / DECIMALS;
  const side = Math.round(clamp(size, MIN_SIZE, MAX_SIZE) * 100) / 100;
  return { x: round(x), y: round(y), color, size: side };
}

/**
 * @param {Point[]} points
 * @returns {string} compact JSON, always the same for the same points
 */
export function serialize(points) {
  const list = points.map(({ x, y, color, size }) => ({ x, y, color, size }));
  return JSON.stringify({ version: VERSION, points: list });
}

/**
 * Returns the text to save: the loaded text until the first edit.
 * @param {Doc} doc
 */
export function textOf(doc) {
  return doc.raw ?? serialize(doc.points);
}

// --- Document ------------------------------------------------------------------------------------

/**
 * @param {unknown} [text]
 * @returns {State}
 */
export function create(text = "") {
  return {
    ...parse(text), selected: -1, color: DEFAULT_COLOR, size: DEFAULT_SIZE, base: null,
  };
}

/** @returns {Doc} */
function docOf({ points, raw, problem, readable }) {
  return { points, raw, problem, readable };
}

/** @returns {State} */
function withPoints(state, points, selected = state.selected) {
  return { ...state, points, selected, raw: null, problem: "", readable: true };
}

/** @returns {State} */
function withDoc(state, doc) {
  const selected = state.selected < doc.points.length ? state.selected : -1;
  return { ...state, ...doc, selected, base: null };
}

/**
 * Loads a text from the host (workflow, undo, paste).
 * @param {State} state
 * @param {unknown} text
 * @returns {State}
 */
export function load(state, text) {
  const doc = parse(text);
  return doc.raw === textOf(state) && !state.base ? state : withDoc(state, doc);
}

/**
 * Selects the point that an undo or redo has changed, else the point that was selected before.
 * @param {State} state after the undo
 * @param {State} before
 * @returns {State}
 */
export function resume(state, before) {
  const brushed = { ...state, color: before.color, size: before.size };
  const { points } = state, old = before.points;
  const changed = points.findIndex((point, index) => !isSame(point, old[index]));
  if (points.length >= old.length) return select(brushed, changed < 0 ? before.selected : changed);
  const kept = old[before.selected];
  return select(brushed, points.findIndex((point) => isSame(point, kept)));
}

const isSame = (point, other) => Boolean(other) && KEYS.every((key) => point[key] === other[key]);

/** Starts a gesture: all edits until `finish` become one undo step. */
export function begin(state) {
  return state.base ? state : { ...state, base: docOf(state) };
}

/** Ends a gesture. */
export function finish(state) {
  if (!state.base) return state;
  const { base } = state;
  const unchanged = serialize(base.points) === serialize(state.points) && base.readable;
  return { ...state, ...(unchanged ? base : {}), base: null };
}

/** Reverts a gesture. */
export function cancel(state) {
  return state.base ? withDoc(state, state.base) : state;
}

// --- Edits ---------------------------------------------------------------------------------------

/** Adds a point with the brush's color and size and selects it, up to MAX_POINTS. */
export function add(state, x, y) {
  if (state.points.length >= MAX_POINTS) return state;
  const points = [...state.points, makePoint(x, y, state.color, state.size)];
  return withPoints(state, points, points.length - 1);
}

function updatePoint(state, index, change) {
  const point = state.points[index];
  if (!point) return state;
  const next = { ...point, ...change };
  const updated = makePoint(next.x, next.y, next.color, next.size);
  if (isSame(updated, point)) return state;
  return withPoints(state, state.points.map((old, at) => (at === index ? updated : old)));
}

/** Moves a point, clamped to the image. */
export function move(state, index, x, y) {
  return updatePoint(state, index, { x, y });
}

/** Sets the color of the brush and of the selected point. */
export function recolor(state, color) {
  return updatePoint({ ...state, color }, state.selected, { color });
}

/** Sets the size of the brush and of the selected point. */
export function resize(state, size) {
  const side = makePoint(0, 0, state.color, size).size;
  return updatePoint({ ...state, size: side }, state.selected, { size: side });
}

/** Removes a point; another selected point stays selected. */
export function remove(state, index) {
  if (!state.points[index]) return state;
  const points = state.points.filter((_, at) => at !== index);
  let { selected } = state;
  if (selected === index) selected = -1;
  else if (selected > index) selected -= 1;
  return withPoints(state, points, selected);
}

/** Replaces all points, for import, clearing and repair. */
export function replaceAll(state, points) {
  return withPoints(state, points.slice(0, MAX_POINTS), -1);
}

/** Selects a point (-1: none) and copies its color and size to the brush. */
export function select(state, index) {
  const point = state.points[index];
  if (!point) return state.selected === -1 ? state : { ...state, selected: -1 };
  return { ...state, selected: index, color: point.color, size: point.size };
}

/**
 * Returns the index `step` after the selected point, or -1 beyond the ends unless `wrap`.
 * @returns {number}
 */
export function neighbor(state, step, wrap) {
  const count = state.points.length;
  if (!count) return -1;
  const start = state.selected < 0 ? (step > 0 ? -1 : count) : state.selected;
  const next = start + step;
  if (wrap) return (next + count) % count;
  return next >= 0 && next < count ? next : -1;
}

// --- Recent colors ------------------------------------------------------------------------------

/**
 * @param {string[]} list newest first
 * @param {string} color
 * @returns {string[]}
 */
export function pushRecent(list, color) {
  return [color, ...list.filter((other) => other !== color)].slice(0, MAX_RECENT);
}

/**
 * Parses recent colors from storage, which is untrusted.
 * @param {unknown} text
 * @returns {string[]}
 */
export function parseRecent(text) {
  try {
    const list = JSON.parse(String(text ?? "[]"));
    return Array.isArray(list) ? list.map(parseHex).filter(Boolean).slice(0, MAX_RECENT) : [];
  } catch {
    return [];
  }
}
