/**
 * Geometry of the point-hint canvas: where the picture lies on the board, and back. Pure.
 *
 * The board is the widget's canvas in CSS pixels, the picture is 0..1 in both directions.
 *
 * @typedef {{width: number, height: number}} Size
 * @typedef {{zoom: number, x: number, y: number}} View zoom 1 shows all of the picture; x, y is the
 *   place of the picture at the middle of the board
 * @typedef {{left: number, top: number, width: number, height: number}} Frame of the picture on the
 *   board
 */

export const FIT = Object.freeze({ zoom: 1, x: 0.5, y: 0.5 });
export const CLOSEST = 40;
export const PADDING = 8; // room for a point at the picture's edge
export const HANDLE = 6.5; // radius of a point's disc
export const REACH = 11; // how far from its middle a point is hit
export const WORKING = 224; // side of the working image until a run tells

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/**
 * @param {View} view
 * @param {Size} picture
 * @param {Size} board
 * @returns {Frame}
 */
export function frame(view, picture, board) {
  const room = (length) => Math.max(1, length - 2 * PADDING);
  const fit = Math.min(room(board.width) / picture.width, room(board.height) / picture.height);
  const width = picture.width * fit * view.zoom;
  const height = picture.height * fit * view.zoom;
  const left = board.width / 2 - view.x * width;
  return { left, top: board.height / 2 - view.y * height, width, height };
}

/** The view with its zoom in range and no empty board beside a picture that is larger. */
export function clampView(view, picture, board) {
  const zoom = clamp(Number.isFinite(view.zoom) ? view.zoom : 1, 1, CLOSEST);
  const { width, height } = frame({ zoom, x: 0, y: 0 }, picture, board);
  const middle = (at, length, room) => {
    const half = (room / 2 - PADDING) / length;
    return half >= 0.5 || !Number.isFinite(at) ? 0.5 : clamp(at, half, 1 - half);
  };
  return { zoom, x: middle(view.x, width, board.width), y: middle(view.y, height, board.height) };
}

/** Zooms by a factor; what lies under (px, py) stays there where the edges allow it. */
export function zoomAbout(view, factor, px, py, picture, board) {
  const zoom = clamp(view.zoom * factor, 1, CLOSEST);
  const [x, y] = toPicture(frame(view, picture, board), px, py);
  const { width, height } = frame({ ...view, zoom }, picture, board);
  const next = {
    zoom, x: x - (px - board.width / 2) / width, y: y - (py - board.height / 2) / height,
  };
  return clampView(next, picture, board);
}

/** Moves the picture by (dx, dy) board pixels. */
export function pan(view, dx, dy, picture, board) {
  const { width, height } = frame(view, picture, board);
  return clampView({ ...view, x: view.x - dx / width, y: view.y - dy / height }, picture, board);
}

/** The view moved as little as needed to bring a place of the picture onto the board. */
export function reveal(view, x, y, picture, board) {
  const [px, py] = toBoard(frame(view, picture, board), x, y);
  const near = 3 * PADDING;
  const off = (at, length) => clamp(at, near, Math.max(near, length - near)) - at;
  return pan(view, off(px, board.width), off(py, board.height), picture, board);
}

/** Board pixels -> place of the picture, not clamped. */
export function toPicture({ left, top, width, height }, px, py) {
  return [(px - left) / width, (py - top) / height];
}

/** Place of the picture -> board pixels. */
export function toBoard({ left, top, width, height }, x, y) {
  return [left + x * width, top + y * height];
}

/** Whether a place lies on the picture, with some pixels of grace on the board. */
export function onPicture(rect, px, py, grace = PADDING) {
  return (
    px >= rect.left - grace && px <= rect.left + rect.width + grace &&
    py >= rect.top - grace && py <= rect.top + rect.height + grace
  );
}

/**
 * The point under board pixel (px, py): the nearest within REACH; of equals the last drawn.
 * @returns {number} index or -1
 */
export function hitTest(points, rect, px, py, reach = REACH) {
  let found = -1;
  let nearest = reach;
  points.forEach((point, index) => {
    const [x, y] = toBoard(rect, point.x, point.y);
    const distance = Math.hypot(x - px, y - py);
    if (distance <= nearest) {
      nearest = distance;
      found = index;
    }
  });
  return found;
}

/**
 * Side in board pixels of what a hint covers: the network takes hints in cells of 2 x 2.
 * @param {number} size of the hint
 * @param {Frame} rect
 * @param {number} resolution side of a square as large as the working image
 */
export function footprint(size, rect, resolution) {
  const side = 2 * Math.ceil(size / 2);
  return (side * Math.sqrt(rect.width * rect.height)) / (resolution > 0 ? resolution : WORKING);
}
