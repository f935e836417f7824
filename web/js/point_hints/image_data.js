/** Pictures of the point-hint canvas: loading them, and what their pixels say. */

import { GRAY_L, bytesToHex, lightness } from "./color.js";

const SIDE = 1280; // longest side whose pixels are kept
const STEPS = 8192;

/**
 * @typedef {object} Picture
 * @property {number} width of the original, in pixels
 * @property {number} height
 * @property {HTMLCanvasElement} color its pixels, at most SIDE wide and high
 * @property {HTMLCanvasElement} gray the same without chroma
 * @property {Uint8Array} level grey of each pixel, 0..255
 * @property {CanvasRenderingContext2D} pixels context of `color`
 */

/** L in STEPS steps -> the nearest grey byte; made when first asked for. */
let greys = null;

function grayBytes() {
  if (greys) return greys;
  greys = new Uint8Array(STEPS + 1);
  let byte = 0;
  for (let step = 0; step <= STEPS; step++) {
    const L = (100 * step) / STEPS;
    while (byte < 255 && GRAY_L[byte + 1] - L <= L - GRAY_L[byte]) byte++;
    greys[step] = byte;
  }
  return greys;
}

/**
 * Loads an image of the host.
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
 * A picture and its grey one.
 * @param {CanvasImageSource & {naturalWidth?: number, naturalHeight?: number}} source
 * @returns {Picture | null} null for an image without pixels
 */
export function makePicture(source) {
  const width = source.naturalWidth ?? source.width;
  const height = source.naturalHeight ?? source.height;
  if (!width || !height) return null;
  const scale = Math.min(1, SIDE / Math.max(width, height));
  const color = document.createElement("canvas");
  color.width = Math.max(1, Math.round(width * scale));
  color.height = Math.max(1, Math.round(height * scale));
  const pixels = color.getContext("2d", { willReadFrequently: true });
  pixels.imageSmoothingQuality = "high";
  pixels.drawImage(source, 0, 0, color.width, color.height);
  const data = pixels.getImageData(0, 0, color.width, color.height);
  const level = desaturate(data.data);
  const gray = document.createElement("canvas");
  gray.width = color.width;
  gray.height = color.height;
  gray.getContext("2d").putImageData(data, 0, 0);
  return { width, height, color, gray, level, pixels };
}

/** Makes RGBA bytes grey in place; returns their levels. Transparent pixels become opaque. */
function desaturate(bytes) {
  const table = grayBytes();
  const level = new Uint8Array(bytes.length / 4);
  let last = -1, shown = 0;
  for (let at = 0, index = 0; at < bytes.length; at += 4, index++) {
    const r = bytes[at], g = bytes[at + 1], b = bytes[at + 2];
    const key = (r << 16) | (g << 8) | b;
    if (key !== last) {
      last = key;
      shown = r === g && g === b ? r : table[Math.round((lightness(r, g, b) / 100) * STEPS)];
    }
    level[index] = shown;
    bytes[at] = bytes[at + 1] = bytes[at + 2] = shown;
    bytes[at + 3] = 255;
  }
  return level;
}

const pixel = (part, length) => Math.min(length - 1, Math.max(0, Math.floor(part * length)));

/** L of a picture at a place in 0..1; 60 where there is none. */
export function lightnessAt(picture, x, y) {
  if (!picture) return 60;
  const { width, height } = picture.gray;
  return GRAY_L[picture.level[pixel(y, height) * width + pixel(x, width)]];
}

/** "#rrggbb" of a picture at a place in 0..1. */
export function colorAt(picture, x, y) {
  const { width, height } = picture.color;
  const [r, g, b] = picture.pixels.getImageData(pixel(x, width), pixel(y, height), 1, 1).data;
  return bytesToHex([r, g, b]);
}
