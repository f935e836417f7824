import assert from "node:assert/strict";
import test from "node:test";

import {
  GRAY_L, abToPlane, bytesToHex, gamutScale, hexToBytes, hexToLab, inGamut, labToHex, labToRgb,
  lightness, neutral, parseHex, planeExtent, planeRaster, planeToAb, shownColor,
} from "../../../web/js/point_hints/color.js";

// Made by rgb_to_lab of ops/color.py in float64.
const LAB = [
  ["#000000", 0.0, 0.0, 0.0],
  ["#ffffff", 100.0, 0.0, 0.0],
  ["#808080", 53.585, 0.0, 0.0],
  ["#ff0000", 53.2406, 80.0942, 67.2015],
  ["#00ff00", 87.7351, -86.1813, 83.1775],
  ["#0000ff", 32.2957, 79.187, -107.8617],
  ["#8a5a3c", 42.8281, 16.3556, 25.3028],
  ["#0a0b0a", 2.9428, -0.4108, 0.2936],
  ["#ffd700", 86.9307, -1.9225, 87.13],
  ["#123456", 21.0416, 1.0531, -24.1012],
  ["#fedcba", 89.7688, 6.8155, 21.0685],
  ["#7f007f", 29.5262, 58.5962, -36.2818],
  ["#00ffff", 91.1133, -48.0886, -14.131],
  ["#010203", 0.5098, -0.1225, -0.4706],
];

// Made by to_gamut of ops/color.py in float64 with 30 steps; last: inside without reduction.
const RGB = [
  [[50, 0, 0], [0.46633, 0.46633, 0.46633], true],
  [[60, 20, 30], [0.75633, 0.51055, 0.36363], true],
  [[30, 80, -90], [0.37015, 0.0, 0.75565], false],
  [[80, -90, 70], [0.0, 0.89873, 0.3055], false],
  [[95, 50, 50], [1.0, 0.92953, 0.90605], false],
  [[5, 30, 0], [0.16818, 0.0, 0.06888], false],
  [[100, 10, 10], [1.0, 1.0, 1.0], false],
  [[0, 20, 20], [0.0, 0.0, 0.0], false],
  [[60, 200, 0], [1.0, 0.28546, 0.5781], false],
  [[53.3, -40, -60], [0.0, 0.54249, 0.68186], false],
];

const near = (found, wanted, within, what) =>
  assert.ok(Math.abs(found - wanted) <= within, `${what}: ${found}, expected ${wanted}`);

test("Lab agrees with the Python implementation", () => {
  for (const [hex, ...lab] of LAB) {
    hexToLab(hex).forEach((value, at) => near(value, lab[at], 1e-3, `${hex} ${"Lab"[at]}`));
  }
});

test("gamut mapping agrees with the Python implementation", () => {
  for (const [lab, rgb, inside] of RGB) {
    // Both allow 1e-6 of linear light outside the gamut; near black that is 1e-5 of sRGB.
    labToRgb(...lab).forEach((value, index) => near(value, rgb[index], 2e-3, `${lab}`));
    assert.equal(inGamut(...lab), inside, `${lab}`);
    assert.equal(gamutScale(...lab) === 1, inside, `${lab}`);
  }
});

test("hex -> Lab -> hex is the identity", () => {
  for (let value = 0; value < 1 << 24; value += 30011) {
    const hex = bytesToHex([value >> 16, (value >> 8) & 255, value & 255]);
    assert.equal(labToHex(...hexToLab(hex)), hex);
  }
});

test("reducing chroma keeps lightness and hue", () => {
  for (const L of [10, 35, 60, 85]) {
    for (const [a, b] of [[120, 10], [-90, 100], [30, -140]]) {
      const t = gamutScale(L, a, b);
      assert.ok(t > 0 && t < 1);
      assert.ok(inGamut(L, t * a, t * b));
      assert.ok(!inGamut(L, 1.01 * t * a, 1.01 * t * b));
      near(hexToLab(labToHex(L, a, b))[0], L, 0.5, "L");
    }
  }
});

test("parseHex accepts typed colors", () => {
  const table = [
    ["#8A5a3C", "#8a5a3c"], ["8a5a3c", "#8a5a3c"], [" #abc ", "#aabbcc"], ["ABC", "#aabbcc"],
    ["#8a5a3", null], ["#8a5a3cff", null], ["#gggggg", null], ["red", null], ["", null],
    [null, null], [undefined, null], [0x8a5a3c, null], [["#8a5a3c"], null],
  ];
  for (const [typed, wanted] of table) assert.equal(parseHex(typed), wanted, `${typed}`);
});

test("bytes and hex", () => {
  for (const hex of ["#000000", "#ffffff", "#010203", "#00ff10"]) {
    assert.equal(bytesToHex(hexToBytes(hex)), hex);
  }
});

test("lightness of gray levels and colors", () => {
  assert.equal(GRAY_L.length, 256);
  near(GRAY_L[0], 0, 1e-9, "black");
  near(GRAY_L[255], 100, 1e-9, "white");
  for (let byte = 1; byte < 256; byte++) assert.ok(GRAY_L[byte] > GRAY_L[byte - 1]);
  for (const [hex, L] of LAB) near(lightness(...hexToBytes(hex)), L, 1e-3, hex);
});

test("a hint keeps its chroma at the lightness of the photo", () => {
  const [, a, b] = hexToLab("#8a5a3c");
  const [L, shownA, shownB] = hexToLab(shownColor("#8a5a3c", 60));
  near(L, 60, 0.4, "L");
  near(shownA, a, 0.7, "a");
  near(shownB, b, 0.7, "b");
  assert.equal(shownColor("#8a5a3c", 0), "#000000");
  assert.equal(shownColor("#8a5a3c", 100), "#ffffff");
});

test("neutral has no chroma and the same lightness", () => {
  for (const hex of ["#8a5a3c", "#ff0000", "#0000ff", "#ffffff", "#000000"]) {
    const [r, g, b] = hexToBytes(neutral(hex));
    assert.ok(r === g && g === b);
    near(hexToLab(neutral(hex))[0], hexToLab(hex)[0], 0.4, hex);
  }
});

test("the plane covers all colors of a lightness tightly", () => {
  for (const L of [5, 30, 60, 95]) {
    const extent = planeExtent(L);
    let widest = 0;
    for (let degree = 0; degree < 360; degree++) {
      const [a, b] = [Math.cos(degree * Math.PI / 180), Math.sin(degree * Math.PI / 180)];
      const chroma = 200 * gamutScale(L, 200 * a, 200 * b);
      widest = Math.max(widest, Math.abs(a) * chroma, Math.abs(b) * chroma);
    }
    assert.ok(widest <= extent, `${L}: ${widest} > ${extent}`);
    assert.ok(extent <= Math.max(12, widest) * 1.07);
  }
  assert.ok(planeExtent(0) >= 12 && planeExtent(100) >= 12);
});

test("the plane's raster shows exactly the sRGB gamut", () => {
  const side = 33, L = 60, extent = planeExtent(L);
  const pixels = planeRaster(L, side, extent);
  let opaque = 0;
  for (let row = 0; row < side; row++) {
    for (let column = 0; column < side; column++) {
      const [a, b] = planeToAb((column + 0.5) / side, (row + 0.5) / side, extent);
      const at = 4 * (row * side + column);
      assert.equal(pixels[at + 3], inGamut(L, a, b) ? 255 : 0);
      if (!pixels[at + 3]) continue;
      opaque++;
      assert.equal(bytesToHex([...pixels.slice(at, at + 3)]), labToHex(L, a, b));
    }
  }
  assert.ok(opaque > side * side * 0.2);
});

test("positions on the plane", () => {
  assert.deepEqual(planeToAb(0.5, 0.5, 100), [0, 0]);
  assert.deepEqual(planeToAb(1, 0, 100), [100, 100]);
  assert.deepEqual(planeToAb(0, 1, 100), [-100, -100]);
  assert.deepEqual(abToPlane(0, 0, 80), [0.5, 0.5]);
  assert.deepEqual(abToPlane(500, -500, 80), [1, 1]);
  for (const [u, v] of [[0.1, 0.9], [0.333, 0.5], [1, 0]]) {
    abToPlane(...planeToAb(u, v, 73), 73).forEach((part, index) =>
      near(part, [u, v][index], 1e-12, "place"));
  }
});
