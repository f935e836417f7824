/** Rendering of the point-hint canvas: at most one frame per screen refresh, none when idle. */

import { shownColor } from "./color.js";
import { HANDLE_RADIUS, footprint, toViewport } from "./geometry.js";
import { lightnessAt } from "./image_data.js";

const MAX_SCALE = 4; // device pixels per CSS pixel
const EMPTY_COLOR = "#8f8f8f"; // L = 60

/**
 * @typedef {object} Scene the contents of one frame
 * @property {import("./geometry.js").Frame} rect of the image in the viewport
 * @property {CanvasImageSource | null} image
 * @property {boolean} pixelated draws pixels without smoothing
 * @property {import("./image_data.js").CanvasImage | null} photo whose lightness the points get
 * @property {import("./state.js").Point[]} points empty while they are hidden
 * @property {number} selected
 * @property {number} hovered
 * @property {number} resolution of the working image
 * @property {[number, number] | null} crosshair image position for keyboard input
 */

/**
 * @param {HTMLCanvasElement} canvas
 * @param {() => Scene | null} scene called once per frame; null draws nothing
 */
export function createView(canvas, scene) {
  const context = canvas.getContext("2d");
  let frameRequest = 0;

  function paint() {
    frameRequest = 0;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width || !height) return;
    const graphZoom = canvas.getBoundingClientRect().width / width || 1;
    const scale = Math.min(MAX_SCALE, devicePixelRatio * Math.max(1, Math.ceil(graphZoom * 2) / 2));
    const size = [Math.round(width * scale), Math.round(height * scale)];
    if (canvas.width !== size[0]) canvas.width = size[0];
    if (canvas.height !== size[1]) canvas.height = size[1];
    context.setTransform(canvas.width / width, 0, 0, canvas.height / height, 0, 0);
    context.clearRect(0, 0, width, height);
    const contents = scene();
    if (contents) draw(context, contents);
  }

  return {
    /** Requests a new frame. */
    invalidate() {
      frameRequest ||= requestAnimationFrame(paint);
    },
    dispose() {
      cancelAnimationFrame(frameRequest);
      frameRequest = 0;
    },
  };
}

function draw(context, scene) {
  const { rect, image, points } = scene;
  if (image) {
    context.imageSmoothingEnabled = !scene.pixelated;
    context.imageSmoothingQuality = "high";
    context.drawImage(image, rect.left, rect.top, rect.width, rect.height);
  } else {
    context.fillStyle = EMPTY_COLOR;
    context.fillRect(rect.left, rect.top, rect.width, rect.height);
  }
  points.forEach((point, index) => {
    if (index !== scene.selected) drawPoint(context, scene, point, index);
  });
  if (points[scene.selected]) drawPoint(context, scene, points[scene.selected], scene.selected);
  if (scene.crosshair) drawCrosshair(context, ...toViewport(rect, ...scene.crosshair));
}

function drawPoint(context, scene, point, index) {
  const [x, y] = toViewport(scene.rect, point.x, point.y);
  const selected = index === scene.selected;
  const side = footprint(point.size, scene.rect, scene.resolution);
  if (side > (selected ? 1 : 2) * HANDLE_RADIUS) drawFootprint(context, x, y, side, selected);
  const radius = HANDLE_RADIUS + (index === scene.hovered ? 1 : 0);
  const disc = (r, style) => {
    context.fillStyle = style;
    context.beginPath();
    context.arc(x, y, r, 0, 2 * Math.PI);
    context.fill();
  };
  if (selected) {
    disc(radius + 3.5, "#000");
    disc(radius + 2.5, "#fff");
  }
  disc(radius + 1, "#000");
  disc(radius, "#fff");
  const L = lightnessAt(scene.photo, point.x, point.y);
  disc(radius - 1.75, shownColor(point.color, L));
}

function drawFootprint(context, x, y, side, selected) {
  context.lineWidth = 1;
  for (const [grow, style] of [[1, "#000a"], [0, "#fffc"]]) {
    context.setLineDash(selected || grow ? [] : [3, 3]);
    context.strokeStyle = style;
    context.strokeRect(x - side / 2 - grow, y - side / 2 - grow, side + 2 * grow, side + 2 * grow);
  }
  context.setLineDash([]);
}

function drawCrosshair(context, x, y) {
  for (const [width, style] of [[3, "#000a"], [1, "#fff"]]) {
    context.lineWidth = width;
    context.strokeStyle = style;
    context.beginPath();
    for (const [dx, dy] of [[1, 0], [-1, 0], [0, 1], [0, -1]]) {
      context.moveTo(x + 4 * dx, y + 4 * dy);
      context.lineTo(x + 11 * dx, y + 11 * dy);
    }
    context.stroke();
  }
}
