/** Images of the point-hint canvas: loading, gray version, and colors at a position. */

import { GRAY_L, bytesToHex, lightness } from "./color.js";

const MAX_SIDE = 1280; // longest side of the stored pixels
const STEPS = 8192; // resolution of the table from L to gray levels
const DEFAULT_L = 60; // without an image

/**
 * @typedef {object} CanvasImage
 * @property {number} width of the original, in pixels
 * @property {number} height
 * @property {HTMLCanvasElement} color its pixels, at most MAX_SIDE wide and high
 * @property {HTMLCanvasElement} gray the same without chroma
 * @property {Uint8Array} levels gray level of each pixel, 0..255
 * @property {CanvasRenderingContext2D} pixels context of `color`
 * @property {string} [key] of its source
 */

/** Step of L -> nearest gray level; filled on first use. */
let grayTable = null;

function grayLevels() {
  if (grayTable) return grayTable;
  grayTable = new Uint8Array(STEPS + 1);
  let byte = 0;
  for (let step = 0; step <= STEPS; step++) {
    const L = (100 * step) / STEPS;
    while (byte < 255 && GRAY_L[byte + 1] - L <= L - GRAY_L[byte]) byte++;
    grayTable[step] = byte;
  }
  return grayTable;
}

/**
 * Loads an image from the host.
 * @param {string} url
 * @returns {Promise<HTMLImageElement>}
 */
export async function loadImage(url) {
  const image = new Image();
  image.decoding = "async";
  image.src = url;
  await image.decode();
  return image;
}

/**
 * Copies an image to canvases, in color and in gray.
 * @param {CanvasImageSource & {naturalWidth?: number, naturalHeight?: number}} source
 * @returns {CanvasImage | null} null for an image without pixels
 */
export function createCanvasImage(source) {
  const width = source.naturalWidth ?? source.width;
  const height = source.naturalHeight ?? source.height;
  if (!width || !height) return null;
  const scale = Math.min(1, MAX_SIDE / Math.max(width, height));
  const color = document.createElement("canvas");
  color.width = Math.max(1, Math.round(width * scale));
  color.height = Math.max(1, Math.round(height * scale));
  const pixels = color.getContext("2d", { willReadFrequently: true });
  pixels.imageSmoothingQuality = "high";
  pixels.drawImage(source, 0, 0, color.width, color.height);
  const data = pixels.getImageData(0, 0, color.width, color.height);
  const levels = desaturate(data.data);
  const gray = document.createElement("canvas");
  gray.width = color.width;
  gray.height = color.height;
  gray.getContext("2d").putImageData(data, 0, 0);
  return { width, height, color, gray, levels, pixels };
}

/** Makes RGBA bytes gray and opaque, in place; returns the gray levels. */
function desaturate(bytes) {
  const table = grayLevels();
  const levels = new Uint8Array(bytes.length / 4);
  let lastColor = -1, level = 0;
  for (let offset = 0, index = 0; offset < bytes.length; offset += 4, index++) {
    const r = bytes[offset], g = bytes[offset + 1], b = bytes[offset + 2];
    const color = (r << 16) | (g << 8) | b;
    if (color !== lastColor) {
      lastColor = color;
      level = r === g && g === b ? r : table[Math.round((lightness(r, g, b) / 100) * STEPS)];
    }
    levels[index] = level;
    bytes[offset] = bytes[offset + 1] = bytes[offset + 2] = level;
    bytes[offset + 3] = 255;
  }
  return levels;
}

const toPixel = (part, length) => Math.min(length - 1, Math.max(0, Math.floor(part * length)));

/** Returns L of an image at x, y in 0..1; DEFAULT_L without an image. */
export function lightnessAt(image, x, y) {
  if (!image) return DEFAULT_L;
  const { width, height } = image.gray;
  return GRAY_L[image.levels[toPixel(y, height) * width + toPixel(x, width)]];
}

/** Returns "#rrggbb" of an image at x, y in 0..1. */
export function colorAt(image, x, y) {
  const { width, height } = image.color;
  const [r, g, b] = image.pixels.getImageData(toPixel(x, width), toPixel(y, height), 1, 1).data;
  return bytesToHex([r, g, b]);
}
