/** Drawing of the point-hint canvas: one frame at most per screen refresh, and none when idle. */

import { shownColor } from "./color.js";
import { HANDLE, footprint, toBoard } from "./geometry.js";
import { lightnessAt } from "./image_data.js";

const SHARPEST = 4; // device pixels per CSS pixel at most
const EMPTY = "#8f8f8f"; // L = 60

/**
 * @typedef {object} Scene what is drawn
 * @property {import("./geometry.js").Frame} rect of the picture on the board
 * @property {CanvasImageSource | null} image
 * @property {boolean} pixelated shows single pixels, far zoomed in
 * @property {import("./image_data.js").Picture | null} picture whose lightness hints get
 * @property {import("./state.js").Point[]} points none when they are hidden
 * @property {number} selected
 * @property {number} hovered
 * @property {number} resolution of the working image
 * @property {[number, number] | null} cross keyboard's crosshair, a place of the picture
 */

/**
 * @param {HTMLCanvasElement} canvas
 * @param {() => Scene | null} scene asked for once per frame; null draws nothing
 */
export function createView(canvas, scene) {
  const context = canvas.getContext("2d");
  let due = 0;

  function paint() {
    due = 0;
    const width = canvas.clientWidth, height = canvas.clientHeight;
    if (!width || !height) return;
    const shown = canvas.getBoundingClientRect().width / width || 1; // the graph's own zoom
    const scale = Math.min(SHARPEST, devicePixelRatio * Math.max(1, Math.ceil(shown * 2) / 2));
    const fine = [Math.round(width * scale), Math.round(height * scale)];
    if (canvas.width !== fine[0]) canvas.width = fine[0];
    if (canvas.height !== fine[1]) canvas.height = fine[1];
    context.setTransform(canvas.width / width, 0, 0, canvas.height / height, 0, 0);
    context.clearRect(0, 0, width, height);
    const what = scene();
    if (what) draw(context, what);
  }

  return {
    /** Asks for a new frame. */
    invalidate() {
      due ||= requestAnimationFrame(paint);
    },
    dispose() {
      cancelAnimationFrame(due);
      due = 0;
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
    context.fillStyle = EMPTY;
    context.fillRect(rect.left, rect.top, rect.width, rect.height);
  }
  points.forEach((point, index) => {
    if (index !== scene.selected) drawPoint(context, scene, point, index);
  });
  if (points[scene.selected]) drawPoint(context, scene, points[scene.selected], scene.selected);
  if (scene.cross) drawCross(context, ...toBoard(rect, ...scene.cross));
}

function drawPoint(context, scene, point, index) {
  const [x, y] = toBoard(scene.rect, point.x, point.y);
  const selected = index === scene.selected;
  const side = footprint(point.size, scene.rect, scene.resolution);
  if (side > 2 * HANDLE || selected && side > HANDLE) drawFootprint(context, x, y, side, selected);
  const radius = HANDLE + (index === scene.hovered ? 1 : 0);
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
  const L = lightnessAt(scene.picture, point.x, point.y);
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

function drawCross(context, x, y) {
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
