/**
 * Color for the point-hint canvas: sRGB hex <-> CIE Lab, gamut, and the ab plane. Pure.
 *
 * Uses the white point D65 and the matrix of ops/color.py, so that the canvas agrees with Python.
 * L is 0..100, a and b are in Lab units, r, g and b in 0..1 unless a name says hex or byte.
 */

import { CSS_COLORS } from "./css_colors.js";

const RGB_TO_XYZ = [
  [0.412453, 0.35758, 0.180423],
  [0.212671, 0.71516, 0.072169],
  [0.019334, 0.119193, 0.950227],
];
const TO_WHITE = RGB_TO_XYZ.map((row) => {
  const white = row[0] + row[1] + row[2];
  return row.map((value) => value / white);
});
const FROM_WHITE = inverse(TO_WHITE);
const EPSILON = 216 / 24389; // CIE 15:2004: f is linear below it
const KAPPA = 24389 / 27;
const GAMUT_TOLERANCE = 1e-6; // in linear light
const PLANE_MARGIN = 1.06;
const HEX = /^#?([0-9a-f]{6})$/i;
const SHORT_HEX = /^#?([0-9a-f]{3})$/i;
const STRICT_HEX = /^#(?:[0-9a-f]{3}){1,2}$/i;

/** sRGB byte -> linear light. */
const LINEAR = Float64Array.from({ length: 256 }, (_, byte) => decode(byte / 255));

/** L of the 256 neutral levels. */
export const GRAY_L = Float64Array.from(LINEAR, (y) => 116 * f(y) - 16);

function inverse([[a, b, c], [d, e, g], [h, i, j]]) {
  const A = e * j - g * i, B = g * h - d * j, C = d * i - e * h;
  const det = a * A + b * B + c * C;
  return [
    [A / det, (c * i - b * j) / det, (b * g - c * e) / det],
    [B / det, (a * j - c * h) / det, (c * d - a * g) / det],
    [C / det, (b * h - a * i) / det, (a * e - b * d) / det],
  ];
}

function decode(value) {
  return value > 0.04045 ? ((value + 0.055) / 1.055) ** 2.4 : value / 12.92;
}

function encode(value) {
  return value > 0.0031308 ? 1.055 * value ** (1 / 2.4) - 0.055 : 12.92 * value;
}

function f(t) {
  return t > EPSILON ? Math.cbrt(t) : (KAPPA * t + 16) / 116;
}

function fInverse(t) {
  return t > 6 / 29 ? t * t * t : (116 * t - 16) / KAPPA;
}

/**
 * Parses typed text to "#rrggbb" in lower case, or null. Accepts #rgb and a missing "#".
 * @param {unknown} text
 * @returns {string | null}
 */
export function parseHex(text) {
  if (typeof text !== "string") return null;
  const long = HEX.exec(text.trim());
  if (long) return `#${long[1].toLowerCase()}`;
  const short = SHORT_HEX.exec(text.trim());
  return short ? `#${[...short[1].toLowerCase()].map((c) => c + c).join("")}` : null;
}

/**
 * Parses the color of a hint to "#rrggbb", or null. Accepts #rrggbb, #rgb and CSS names, as Python.
 * @param {unknown} text
 * @returns {string | null}
 */
export function parseColor(text) {
  if (typeof text !== "string") return null;
  return CSS_COLORS.get(text.toLowerCase()) ?? (STRICT_HEX.test(text) ? parseHex(text) : null);
}

/**
 * @param {string} hex "#rrggbb"
 * @returns {[number, number, number]} bytes
 */
export function hexToBytes(hex) {
  const value = Number.parseInt(hex.slice(1), 16);
  return [value >> 16, (value >> 8) & 255, value & 255];
}

/**
 * @param {[number, number, number]} rgb bytes
 * @returns {string} "#rrggbb"
 */
export function bytesToHex([r, g, b]) {
  return `#${((1 << 24) | (r << 16) | (g << 8) | b).toString(16).slice(1)}`;
}

/**
 * @param {string} hex "#rrggbb"
 * @returns {[number, number, number]} L, a, b
 */
export function hexToLab(hex) {
  const [r, g, b] = hexToBytes(hex).map((byte) => LINEAR[byte]);
  const [fx, fy, fz] = TO_WHITE.map((m) => f(m[0] * r + m[1] * g + m[2] * b));
  return [116 * fy - 16, 500 * (fx - fy), 200 * (fy - fz)];
}

/**
 * Returns L of an sRGB pixel.
 * @param {number} r byte
 * @param {number} g byte
 * @param {number} b byte
 */
export function lightness(r, g, b) {
  const m = RGB_TO_XYZ[1];
  return 116 * f(m[0] * LINEAR[r] + m[1] * LINEAR[g] + m[2] * LINEAR[b]) - 16;
}

function labToLinear(L, a, b) {
  const fy = (L + 16) / 116;
  const x = fInverse(fy + a / 500), y = fInverse(fy), z = fInverse(fy - b / 200);
  return FROM_WHITE.map((m) => m[0] * x + m[1] * y + m[2] * z);
}

const isDisplayable = (value) => value >= -GAMUT_TOLERANCE && value <= 1 + GAMUT_TOLERANCE;

/** Returns true if Lab (L, a, b) is inside the sRGB gamut. */
export function inGamut(L, a, b) {
  return labToLinear(L, a, b).every(isDisplayable);
}

/**
 * Returns the largest t in 0..1 with (L, t a, t b) inside sRGB: reduces chroma, keeps L and hue.
 */
export function gamutScale(L, a, b) {
  if (inGamut(L, a, b)) return 1;
  let low = 0, high = 1;
  for (let step = 0; step < 20; step++) {
    const middle = (low + high) / 2;
    if (inGamut(L, middle * a, middle * b)) low = middle;
    else high = middle;
  }
  return low;
}

/**
 * Converts Lab to sRGB in 0..1; reduces chroma only outside the gamut.
 * @returns {[number, number, number]}
 */
export function labToRgb(L, a, b) {
  const t = gamutScale(L, a, b);
  return labToLinear(L, t * a, t * b).map((value) => Math.min(1, Math.max(0, encode(value))));
}

/** Converts Lab to "#rrggbb", as labToRgb. */
export function labToHex(L, a, b) {
  return bytesToHex(labToRgb(L, a, b).map((value) => Math.round(value * 255)));
}

/**
 * Returns the color of a hint in the result: its chroma at the lightness of the photo.
 * @param {string} hex "#rrggbb" of the hint
 * @param {number} L of the photo at the hint
 */
export function shownColor(hex, L) {
  const [, a, b] = hexToLab(hex);
  return labToHex(L, a, b);
}

/**
 * Returns the gray with the lightness of `hex`.
 * @param {string} hex "#rrggbb"
 */
export function neutral(hex) {
  return labToHex(hexToLab(hex)[0], 0, 0);
}

/**
 * Returns half the side of the smallest square about ab = 0 that holds every color of lightness L;
 * at least 12, so that the plane of black and white is not empty.
 * @param {number} L
 */
export function planeExtent(L) {
  let extent = 12;
  for (let degree = 0; degree < 360; degree++) {
    const a = Math.cos((degree * Math.PI) / 180), b = Math.sin((degree * Math.PI) / 180);
    const chroma = gamutScale(L, 200 * a, 200 * b) * 200;
    extent = Math.max(extent, Math.abs(a) * chroma, Math.abs(b) * chroma);
  }
  return extent * PLANE_MARGIN;
}

/**
 * Returns the ab plane at lightness L, a to the right and b upwards, as RGBA bytes of side x side
 * pixels. Colors outside sRGB are transparent.
 * @param {number} L
 * @param {number} side in pixels
 * @param {number} extent a and b at the edges (planeExtent)
 * @returns {Uint8ClampedArray<ArrayBuffer>}
 */
export function planeRaster(L, side, extent) {
  const pixels = new Uint8ClampedArray(side * side * 4);
  for (let row = 0; row < side; row++) {
    for (let column = 0; column < side; column++) {
      const [a, b] = planeToAb((column + 0.5) / side, (row + 0.5) / side, extent);
      const linear = labToLinear(L, a, b);
      if (!linear.every(isDisplayable)) continue;
      const offset = (row * side + column) * 4;
      for (let channel = 0; channel < 3; channel++) {
        pixels[offset + channel] = Math.round(encode(Math.max(0, linear[channel])) * 255);
      }
      pixels[offset + 3] = 255;
    }
  }
  return pixels;
}

/**
 * Converts a position on the plane (0..1 from its top left) to [a, b].
 * @returns {[number, number]}
 */
export function planeToAb(u, v, extent) {
  return [(2 * u - 1) * extent, (1 - 2 * v) * extent];
}

/**
 * Converts [a, b] to a position on the plane, clamped to it.
 * @returns {[number, number]}
 */
export function abToPlane(a, b, extent) {
  const clamp = (value) => Math.min(1, Math.max(0, value));
  return [clamp((a / extent + 1) / 2), clamp((1 - b / extent) / 2)];
}
