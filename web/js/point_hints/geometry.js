/**
 * Geometry of the point-hint canvas: transforms between image and viewport coordinates. Pure.
 *
 * Viewport coordinates are CSS pixels of the widget's canvas, image coordinates are 0..1 in both
 * directions.
 *
 * @typedef {{width: number, height: number}} Size
 * @typedef {{zoom: number, x: number, y: number}} View zoom 1 shows the whole image; x, y is the
 *   image position at the center of the viewport
 * @typedef {{left: number, top: number, width: number, height: number}} Frame the image in viewport
 *   pixels
 */

export const FIT = Object.freeze({ zoom: 1, x: 0.5, y: 0.5 });
export const MAX_ZOOM = 40;
export const PADDING = 8; // keeps points at the edge of the image visible
export const HANDLE_RADIUS = 6.5;
export const HIT_RADIUS = 11;
export const DEFAULT_RESOLUTION = 224; // side of the working image until a run reports it

const clamp = (value, low, high) => Math.min(high, Math.max(low, value));

/**
 * Returns the frame of the image for a view.
 * @param {View} view
 * @param {Size} image
 * @param {Size} viewport
 * @returns {Frame}
 */
export function frame(view, image, viewport) {
  const available = (length) => Math.max(1, length - 2 * PADDING);
  const fit = Math.min(
    available(viewport.width) / image.width, available(viewport.height) / image.height,
  );
  const width = image.width * fit * view.zoom;
  const height = image.height * fit * view.zoom;
  const left = viewport.width / 2 - view.x * width;
  return { left, top: viewport.height / 2 - view.y * height, width, height };
}

/** Returns the view with its zoom in range and no empty space beside a larger image. */
export function clampView(view, image, viewport) {
  const zoom = clamp(Number.isFinite(view.zoom) ? view.zoom : 1, 1, MAX_ZOOM);
  const { width, height } = frame({ zoom, x: 0, y: 0 }, image, viewport);
  const center = (position, length, available) => {
    const half = (available / 2 - PADDING) / length;
    return half >= 0.5 || !Number.isFinite(position) ? 0.5 : clamp(position, half, 1 - half);
  };
  return {
    zoom, x: center(view.x, width, viewport.width), y: center(view.y, height, viewport.height),
  };
}

/** Zooms by a factor about viewport pixel (px, py), which keeps its image position if possible. */
export function zoomAbout(view, factor, px, py, image, viewport) {
  const zoom = clamp(view.zoom * factor, 1, MAX_ZOOM);
  const [x, y] = toImage(frame(view, image, viewport), px, py);
  const { width, height } = frame({ ...view, zoom }, image, viewport);
  const next = {
    zoom, x: x - (px - viewport.width / 2) / width, y: y - (py - viewport.height / 2) / height,
  };
  return clampView(next, image, viewport);
}

/** Moves the image by (dx, dy) viewport pixels. */
export function pan(view, dx, dy, image, viewport) {
  const { width, height } = frame(view, image, viewport);
  return clampView({ ...view, x: view.x - dx / width, y: view.y - dy / height }, image, viewport);
}

/** Moves the view as little as needed to show an image position. */
export function reveal(view, x, y, image, viewport) {
  const [px, py] = toViewport(frame(view, image, viewport), x, y);
  const margin = 3 * PADDING;
  const shift = (at, length) => clamp(at, margin, Math.max(margin, length - margin)) - at;
  return pan(view, shift(px, viewport.width), shift(py, viewport.height), image, viewport);
}

/** Converts viewport pixels to an image position, not clamped. */
export function toImage({ left, top, width, height }, px, py) {
  return [(px - left) / width, (py - top) / height];
}

/** Converts an image position to viewport pixels. */
export function toViewport({ left, top, width, height }, x, y) {
  return [left + x * width, top + y * height];
}

/** Returns true if a viewport pixel is on the image or within `tolerance` pixels of it. */
export function isOnImage(rect, px, py, tolerance = PADDING) {
  return (
    px >= rect.left - tolerance && px <= rect.left + rect.width + tolerance &&
    py >= rect.top - tolerance && py <= rect.top + rect.height + tolerance
  );
}

/**
 * Returns the nearest point within `radius` of viewport pixel (px, py); among equals the one that
 * is drawn last.
 * @returns {number} index or -1
 */
export function hitTest(points, rect, px, py, radius = HIT_RADIUS) {
  let hit = -1;
  let nearest = radius;
  points.forEach((point, index) => {
    const [x, y] = toViewport(rect, point.x, point.y);
    const distance = Math.hypot(x - px, y - py);
    if (distance <= nearest) {
      nearest = distance;
      hit = index;
    }
  });
  return hit;
}

/**
 * Returns the side of a hint's area in viewport pixels: the network reads hints in cells of 2 x 2
 * working pixels.
 * @param {number} size of the hint
 * @param {Frame} rect
 * @param {number} resolution square root of the working image's area
 */
export function footprint(size, rect, resolution) {
  const side = 2 * Math.ceil(size / 2);
  const workingSide = resolution > 0 ? resolution : DEFAULT_RESOLUTION;
  return (side * Math.sqrt(rect.width * rect.height)) / workingSide;
}
