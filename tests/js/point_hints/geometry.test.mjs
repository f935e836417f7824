import assert from "node:assert/strict";
import test from "node:test";

import {
  DEFAULT_RESOLUTION, FIT, HIT_RADIUS, MAX_ZOOM, PADDING, clampView, footprint, frame, hitTest,
  isOnImage, pan, reveal, toImage, toViewport, zoomAbout,
} from "../../../web/js/point_hints/geometry.js";

const SIZES = [
  [{ width: 386, height: 256 }, { width: 400, height: 250 }],
  [{ width: 256, height: 384 }, { width: 400, height: 250 }],
  [{ width: 1, height: 1 }, { width: 200, height: 160 }],
  [{ width: 12000, height: 30 }, { width: 316, height: 201 }],
  [{ width: 3, height: 9000 }, { width: 40, height: 20 }],
];
const near = (actual, expected, tolerance = 1e-9) =>
  assert.ok(Math.abs(actual - expected) <= tolerance, `${actual}, expected ${expected}`);

test("the initial view fits the whole image, centered, at its aspect ratio", () => {
  for (const [image, viewport] of SIZES) {
    const rect = frame(FIT, image, viewport);
    near(rect.width / rect.height, image.width / image.height, 1e-6);
    near(rect.left + rect.width / 2, viewport.width / 2);
    near(rect.top + rect.height / 2, viewport.height / 2);
    assert.ok(rect.left >= PADDING - 1e-9 && rect.top >= PADDING - 1e-9);
    assert.ok(Math.min(rect.left, rect.top) <= PADDING + 1e-9, "as large as possible");
  }
});

test("viewport -> image -> viewport is the identity", () => {
  for (const [image, viewport] of SIZES) {
    const rect = frame({ zoom: 3.7, x: 0.4, y: 0.6 }, image, viewport);
    for (const [px, py] of [[0, 0], [17.5, 99], [400, 250], [-30, 1000]]) {
      const [x, y] = toViewport(rect, ...toImage(rect, px, py));
      near(x, px, 1e-6);
      near(y, py, 1e-6);
    }
  }
});

test("zooming keeps the position under the pointer", () => {
  const [image, viewport] = SIZES[0];
  let view = FIT;
  const pointer = [210, 120];
  for (const factor of [1.5, 2, 1.1, 0.9, 3]) {
    const before = toImage(frame(view, image, viewport), ...pointer);
    view = zoomAbout(view, factor, ...pointer, image, viewport);
    toImage(frame(view, image, viewport), ...pointer).forEach((part, index) =>
      near(part, before[index], 1e-9));
  }
});

test("zoom stays in range and returns to the whole image", () => {
  for (const [image, viewport] of SIZES) {
    let view = FIT;
    for (let i = 0; i < 60; i++) view = zoomAbout(view, 1.5, 3, 5, image, viewport);
    assert.equal(view.zoom, MAX_ZOOM);
    for (let i = 0; i < 60; i++) view = zoomAbout(view, 0.5, 30, 5, image, viewport);
    assert.deepEqual(view, { zoom: 1, x: 0.5, y: 0.5 });
  }
});

test("panning stops at the edges of the image", () => {
  for (const [image, viewport] of SIZES) {
    for (const [dx, dy] of [[1e5, 1e5], [-1e5, -1e5], [1e5, -3]]) {
      const view = pan({ zoom: 5, x: 0.5, y: 0.5 }, dx, dy, image, viewport);
      const rect = frame(view, image, viewport);
      if (rect.width > viewport.width) {
        assert.ok(rect.left <= PADDING + 1e-6);
        assert.ok(rect.left + rect.width >= viewport.width - PADDING - 1e-6);
      } else near(rect.left + rect.width / 2, viewport.width / 2, 1e-6);
      if (rect.height > viewport.height) {
        assert.ok(rect.top <= PADDING + 1e-6);
        assert.ok(rect.top + rect.height >= viewport.height - PADDING - 1e-6);
      }
    }
  }
  const [image, viewport] = SIZES[0];
  const from = { zoom: 4, x: 0.5, y: 0.5 };
  const moved = frame(pan(from, 12, -7, image, viewport), image, viewport);
  const before = frame(from, image, viewport);
  near(moved.left - before.left, 12, 1e-9);
  near(moved.top - before.top, -7, 1e-9);
});

test("invalid views are corrected", () => {
  const [image, viewport] = SIZES[0];
  const table = [
    [{ zoom: 0, x: 0.5, y: 0.5 }, FIT], [{ zoom: NaN, x: NaN, y: NaN }, FIT],
    [{ zoom: 1, x: 9, y: -9 }, FIT], [{ zoom: Infinity, x: 0.5, y: 0.5 }, FIT],
  ];
  for (const [view, wanted] of table) {
    assert.deepEqual(clampView(view, image, viewport), { ...wanted });
  }
  assert.equal(clampView({ zoom: 1e9, x: 0.5, y: 0.5 }, image, viewport).zoom, MAX_ZOOM);
});

test("reveal scrolls to a hidden point only", () => {
  const [image, viewport] = SIZES[0];
  const view = { zoom: 6, x: 0.5, y: 0.5 };
  for (const [x, y] of [[0, 0], [1, 1], [0.1, 0.9], [0.02, 0.5]]) {
    const rect = frame(reveal(view, x, y, image, viewport), image, viewport);
    const [px, py] = toViewport(rect, x, y);
    assert.ok(px >= PADDING - 1e-6 && px <= viewport.width - PADDING + 1e-6, `${px}`);
    assert.ok(py >= PADDING - 1e-6 && py <= viewport.height - PADDING + 1e-6, `${py}`);
  }
  assert.deepEqual(reveal(view, 0.5, 0.5, image, viewport), clampView(view, image, viewport));
});

test("hitTest returns the nearest point", () => {
  const rect = { left: 10, top: 20, width: 200, height: 100 };
  const points = [{ x: 0.5, y: 0.5 }, { x: 0.55, y: 0.5 }, { x: 0.5, y: 0.5 }, { x: 0, y: 0 }];
  const table = [
    [110, 70, 2, "last of equals"], [118, 70, 1, "nearer"], [110 - HIT_RADIUS, 70, 2, "edge"],
    [110 - HIT_RADIUS - 0.01, 70, -1, "beyond"], [10, 20, 3, "corner"], [3, 15, 3, "outside"],
    [200, 100, -1, "nothing"],
  ];
  for (const [x, y, wanted, what] of table) assert.equal(hitTest(points, rect, x, y), wanted, what);
  assert.equal(hitTest([], rect, 10, 20), -1);
});

test("the hit radius does not depend on zoom", () => {
  const [image, viewport] = SIZES[0];
  for (const zoom of [1, 4, MAX_ZOOM]) {
    const rect = frame({ zoom, x: 0.5, y: 0.5 }, image, viewport);
    const [x, y] = toViewport(rect, 0.5, 0.5);
    assert.equal(hitTest([{ x: 0.5, y: 0.5 }], rect, x + HIT_RADIUS - 0.1, y), 0);
    assert.equal(hitTest([{ x: 0.5, y: 0.5 }], rect, x + HIT_RADIUS + 0.1, y), -1);
  }
});

test("isOnImage", () => {
  const rect = { left: 10, top: 20, width: 200, height: 100 };
  assert.ok(isOnImage(rect, 10 - PADDING, 20 - PADDING));
  assert.ok(!isOnImage(rect, 10 - PADDING - 1, 50));
  assert.ok(!isOnImage(rect, 9.9, 50, 0));
  assert.ok(isOnImage(rect, 210, 120, 0));
});

test("footprint of a hint", () => {
  const square = { left: 0, top: 0, width: 448, height: 448 };
  const table = [[1, 4], [2, 4], [2.5, 8], [3, 8], [4, 8], [64, 128]];
  for (const [size, wanted] of table) near(footprint(size, square, 224), wanted);
  near(footprint(2, { ...square, width: 896, height: 224 }, 224), 4, 1e-9);
  near(footprint(2, square, 0), footprint(2, square, DEFAULT_RESOLUTION));
});
