import assert from "node:assert/strict";
import test from "node:test";

import {
  CLOSEST, FIT, PADDING, REACH, WORKING, clampView, footprint, frame, hitTest, onPicture, pan,
  reveal, toBoard, toPicture, zoomAbout,
} from "../../../web/js/point_hints/geometry.js";

const SIZES = [
  [{ width: 386, height: 256 }, { width: 400, height: 250 }],
  [{ width: 256, height: 384 }, { width: 400, height: 250 }],
  [{ width: 1, height: 1 }, { width: 200, height: 160 }],
  [{ width: 12000, height: 30 }, { width: 316, height: 201 }],
  [{ width: 3, height: 9000 }, { width: 40, height: 20 }],
];
const near = (found, wanted, within = 1e-9) =>
  assert.ok(Math.abs(found - wanted) <= within, `${found}, expected ${wanted}`);

test("all of the picture is seen at first, in the middle, in its shape", () => {
  for (const [picture, board] of SIZES) {
    const rect = frame(FIT, picture, board);
    near(rect.width / rect.height, picture.width / picture.height, 1e-6);
    near(rect.left + rect.width / 2, board.width / 2);
    near(rect.top + rect.height / 2, board.height / 2);
    assert.ok(rect.left >= PADDING - 1e-9 && rect.top >= PADDING - 1e-9);
    assert.ok(Math.min(rect.left, rect.top) <= PADDING + 1e-9, "as large as it can be");
  }
});

test("board -> picture -> board", () => {
  for (const [picture, board] of SIZES) {
    const rect = frame({ zoom: 3.7, x: 0.4, y: 0.6 }, picture, board);
    for (const [px, py] of [[0, 0], [17.5, 99], [400, 250], [-30, 1000]]) {
      const [x, y] = toBoard(rect, ...toPicture(rect, px, py));
      near(x, px, 1e-6);
      near(y, py, 1e-6);
    }
  }
});

test("zooming keeps what lies under the pointer", () => {
  const [picture, board] = SIZES[0];
  let view = FIT;
  const pointer = [210, 120];
  for (const factor of [1.5, 2, 1.1, 0.9, 3]) {
    const before = toPicture(frame(view, picture, board), ...pointer);
    view = zoomAbout(view, factor, ...pointer, picture, board);
    toPicture(frame(view, picture, board), ...pointer).forEach((part, index) =>
      near(part, before[index], 1e-9));
  }
});

test("zoom stays in range and comes back to all of the picture", () => {
  for (const [picture, board] of SIZES) {
    let view = FIT;
    for (let i = 0; i < 60; i++) view = zoomAbout(view, 1.5, 3, 5, picture, board);
    assert.equal(view.zoom, CLOSEST);
    for (let i = 0; i < 60; i++) view = zoomAbout(view, 0.5, 30, 5, picture, board);
    assert.deepEqual(view, { zoom: 1, x: 0.5, y: 0.5 });
  }
});

test("panning stops at the picture's edges", () => {
  for (const [picture, board] of SIZES) {
    for (const [dx, dy] of [[1e5, 1e5], [-1e5, -1e5], [1e5, -3]]) {
      const view = pan({ zoom: 5, x: 0.5, y: 0.5 }, dx, dy, picture, board);
      const rect = frame(view, picture, board);
      if (rect.width > board.width) {
        assert.ok(rect.left <= PADDING + 1e-6);
        assert.ok(rect.left + rect.width >= board.width - PADDING - 1e-6);
      } else near(rect.left + rect.width / 2, board.width / 2, 1e-6);
      if (rect.height > board.height) {
        assert.ok(rect.top <= PADDING + 1e-6);
        assert.ok(rect.top + rect.height >= board.height - PADDING - 1e-6);
      }
    }
  }
  const [picture, board] = SIZES[0];
  const from = { zoom: 4, x: 0.5, y: 0.5 };
  const moved = frame(pan(from, 12, -7, picture, board), picture, board);
  const before = frame(from, picture, board);
  near(moved.left - before.left, 12, 1e-9);
  near(moved.top - before.top, -7, 1e-9);
});

test("views that make no sense are mended", () => {
  const [picture, board] = SIZES[0];
  const table = [
    [{ zoom: 0, x: 0.5, y: 0.5 }, FIT], [{ zoom: NaN, x: NaN, y: NaN }, FIT],
    [{ zoom: 1, x: 9, y: -9 }, FIT], [{ zoom: Infinity, x: 0.5, y: 0.5 }, FIT],
  ];
  for (const [view, wanted] of table) {
    assert.deepEqual(clampView(view, picture, board), { ...wanted });
  }
  assert.equal(clampView({ zoom: 1e9, x: 0.5, y: 0.5 }, picture, board).zoom, CLOSEST);
});

test("a point is brought onto the board, and left where it is seen", () => {
  const [picture, board] = SIZES[0];
  const view = { zoom: 6, x: 0.5, y: 0.5 };
  for (const [x, y] of [[0, 0], [1, 1], [0.1, 0.9], [0.02, 0.5]]) {
    const [px, py] = toBoard(frame(reveal(view, x, y, picture, board), picture, board), x, y);
    assert.ok(px >= PADDING - 1e-6 && px <= board.width - PADDING + 1e-6, `${px}`);
    assert.ok(py >= PADDING - 1e-6 && py <= board.height - PADDING + 1e-6, `${py}`);
  }
  assert.deepEqual(reveal(view, 0.5, 0.5, picture, board), clampView(view, picture, board));
});

test("which point is hit", () => {
  const rect = { left: 10, top: 20, width: 200, height: 100 };
  const points = [{ x: 0.5, y: 0.5 }, { x: 0.55, y: 0.5 }, { x: 0.5, y: 0.5 }, { x: 0, y: 0 }];
  const table = [
    [110, 70, 2, "of equals the last"], [118, 70, 1, "the nearer"], [110 - REACH, 70, 2, "edge"],
    [110 - REACH - 0.01, 70, -1, "beyond"], [10, 20, 3, "corner"], [3, 15, 3, "outside"],
    [200, 100, -1, "nothing"],
  ];
  for (const [x, y, wanted, what] of table) assert.equal(hitTest(points, rect, x, y), wanted, what);
  assert.equal(hitTest([], rect, 10, 20), -1);
});

test("a hit reaches equally far at every zoom", () => {
  const [picture, board] = SIZES[0];
  for (const zoom of [1, 4, CLOSEST]) {
    const rect = frame({ zoom, x: 0.5, y: 0.5 }, picture, board);
    const [x, y] = toBoard(rect, 0.5, 0.5);
    assert.equal(hitTest([{ x: 0.5, y: 0.5 }], rect, x + REACH - 0.1, y), 0);
    assert.equal(hitTest([{ x: 0.5, y: 0.5 }], rect, x + REACH + 0.1, y), -1);
  }
});

test("on the picture or beside it", () => {
  const rect = { left: 10, top: 20, width: 200, height: 100 };
  assert.ok(onPicture(rect, 10 - PADDING, 20 - PADDING));
  assert.ok(!onPicture(rect, 10 - PADDING - 1, 50));
  assert.ok(!onPicture(rect, 9.9, 50, 0));
  assert.ok(onPicture(rect, 210, 120, 0));
});

test("what a hint covers", () => {
  const square = { left: 0, top: 0, width: 448, height: 448 };
  const table = [[1, 4], [2, 4], [2.5, 8], [3, 8], [4, 8], [64, 128]];
  for (const [size, wanted] of table) near(footprint(size, square, 224), wanted);
  near(footprint(2, { ...square, width: 896, height: 224 }, 224), 4, 1e-9);
  near(footprint(2, square, 0), footprint(2, square, WORKING));
});
