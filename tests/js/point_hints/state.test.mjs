import assert from "node:assert/strict";
import { readFileSync } from "node:fs";
import test from "node:test";

import {
  DEFAULT_COLOR, DEFAULT_SIZE, MAX_POINTS, MAX_RECENT, MAX_SIZE, add, begin, cancel, create,
  finish, isHints, load, makePoint, move, neighbor, parse, parseRecent, pushRecent, recolor,
  remove, replaceAll, resize, resume, select, serialize, textOf,
} from "../../../web/js/point_hints/state.js";

const RED = { x: 0.25, y: 0.5, color: "#aa3322", size: 2 };
const BLUE = { x: 0.75, y: 0.5, color: "#2255aa", size: 20 };
const TWO = serialize([RED, BLUE]);
/** Texts that pipeline/hints/schema.py accepts and rejects; its tests read the same file. */
const TEXTS = JSON.parse(readFileSync(new URL("../hint_texts.json", import.meta.url), "utf8"));
const json = (points) => JSON.stringify({ version: 1, points });

// --- Text ----------------------------------------------------------------------------------------

test("parse reads what serialize writes", () => {
  const points = [RED, BLUE, makePoint(1 / 3, 1, "#000000", 1), makePoint(0, 0, "#ffffff", 64)];
  const text = serialize(points);
  assert.deepEqual(parse(text).points, points);
  assert.equal(parse(text).problem, "");
  assert.equal(serialize(parse(text).points), text);
});

test("the text is compact and deterministic", () => {
  assert.equal(serialize([]), '{"version":1,"points":[]}');
  assert.equal(
    serialize([makePoint(1 / 3, 0.1 + 0.2, "#8a5a3c", 2)]),
    '{"version":1,"points":[{"x":0.33333,"y":0.3,"color":"#8a5a3c","size":2}]}',
  );
});

test("empty hints", () => {
  for (const text of ["", "  \n", null, undefined, '{"version": 1, "points": []}']) {
    const doc = parse(text);
    assert.deepEqual([doc.points, doc.problem, doc.readable], [[], "", true], `${text}`);
  }
});

test("texts that Python accepts have no problem here", () => {
  for (const text of TEXTS.fine) {
    assert.equal(parse(text).problem, "", JSON.stringify(text));
  }
});

test("texts that Python rejects have a problem here; repaired texts have none", () => {
  for (const text of TEXTS.refused) {
    const doc = parse(text);
    assert.notEqual(doc.problem, "", text);
    assert.equal(textOf(doc), text);
    const repaired = textOf(replaceAll(create(text), doc.points));
    assert.equal(parse(repaired).problem, "", text);
  }
});

test("a bare list and unknown keys are reported; their points are kept", () => {
  const table = [
    [JSON.stringify([RED]), "the hints are a list without a version"],
    [JSON.stringify({ version: 1, points: [RED], note: "x" }), "note is not a known key"],
    [
      JSON.stringify({ version: 1, points: [RED, 7], note: "x" }),
      "note is not a known key (and 1 more)",
    ],
  ];
  for (const [text, problem] of table) {
    const doc = parse(text);
    assert.deepEqual([doc.points, doc.problem, doc.readable], [[RED], problem, true]);
  }
});

test("unreadable texts", () => {
  const table = [
    ["{", /not JSON/], ["hello", /not JSON/], ["7", /not a JSON object/],
    ["null", /not a JSON object/],
    ['"text"', /not a JSON object/], ["{}", /version missing/],
    ['{"version": 2, "points": []}', /version 2/],
    ['{"version": "1", "points": []}', /version "1"/], ['{"version": true, "points": []}', /true/],
    ['{"version": 1}', /no list/], ['{"version": 1, "points": {}}', /no list/],
  ];
  for (const [text, problem] of table) {
    const doc = parse(text);
    assert.match(doc.problem, problem, text);
    assert.deepEqual([doc.points, doc.readable, textOf(doc)], [[], false, text], text);
  }
});

test("invalid points are dropped and reported by number", () => {
  const table = [
    [7, /not an object/], [null, /not an object/], [[0.5, 0.5], /not an object/],
    [{}, /x is not a number/], [{ x: "0.5", y: 0.5, color: "#123456" }, /x is not a number/],
    [{ x: 0.5, color: "#123456" }, /y is not a number/], [{ x: 0.5, y: 0.5 }, /color/],
    [{ x: 0.5, y: 0.5, color: "#1234567" }, /color/],
    [{ x: 0.5, y: 0.5, color: "123456" }, /color/],
    [{ x: 0.5, y: 0.5, color: ["#123456"] }, /color/],
    [{ x: 0.5, y: 0.5, color: "#abcd" }, /color/], [{ x: 0.5, y: 0.5, color: "reddish" }, /color/],
    [{ x: 0.5, y: 0.5, color: "#123   " }, /color/], [{ x: 0.5, y: 0.5, color: 7 }, /color/],
    [{ x: true, y: 0.5, color: "#123456" }, /x is not a number/],
  ];
  for (const [point, problem] of table) {
    const doc = parse(json([RED, point]));
    assert.match(doc.problem, problem, JSON.stringify(point));
    assert.match(doc.problem, /^point 2: /);
    assert.deepEqual(doc.points, [RED]);
  }
});

test("values out of range are clamped and reported", () => {
  const table = [
    [{ x: -1 }, { x: 0 }, /x is out of range/], [{ y: 1.0001 }, { y: 1 }, /y is out of range/],
    [{ x: 1e300 }, { x: 1 }, /x/], [{ size: 0 }, { size: 1 }, /size/],
    [{ size: 65 }, { size: MAX_SIZE }, /size/], [{ size: "9" }, { size: DEFAULT_SIZE }, /size/],
    [{ size: null }, { size: DEFAULT_SIZE }, /size/],
    [{ label: "sky" }, {}, /label is not a known key/],
  ];
  for (const [change, wanted, problem] of table) {
    const doc = parse(json([{ ...RED, ...change }]));
    assert.deepEqual(doc.points, [{ ...RED, ...wanted }], JSON.stringify(change));
    assert.match(doc.problem, problem);
  }
});

test("values at the limits are valid", () => {
  const points = [
    { x: 0, y: 0, color: "#000000", size: 1 }, { x: 1, y: 1, color: "#ffffff", size: 64 },
  ];
  assert.equal(parse(json(points)).problem, "");
  assert.deepEqual(parse(json(points)).points, points);
  assert.equal(parse(json([{ x: 0.5, y: 0.5, color: "#ABCDEF" }])).points[0].color, "#abcdef");
  assert.equal(parse(json([{ x: 0.5, y: 0.5, color: "#abcdef" }])).points[0].size, DEFAULT_SIZE);
});

test("several problems are counted", () => {
  assert.match(parse(json([1, RED, 2, 3])).problem, /^point 1: .* \(and 2 more\)$/);
});

test("too many points", () => {
  const doc = parse(json(Array(MAX_POINTS + 2).fill(RED)));
  assert.equal(doc.points.length, MAX_POINTS);
  const problem = `point ${MAX_POINTS + 1}: more than ${MAX_POINTS} \\(and 1 more\\)`;
  assert.match(doc.problem, new RegExp(problem));
});

test("unusual values do not crash", () => {
  const odd = [0, true, [], {}, [RED], { version: 1, points: [RED] }, NaN, Symbol(), () => 1];
  for (const value of odd) assert.doesNotThrow(() => parse(value));
  assert.deepEqual(parse([RED]).points, [RED]);
  assert.deepEqual(parse({ version: 1, points: [RED] }).points, [RED]);
});

test("a loaded text is kept unchanged until the first edit", () => {
  for (const text of ["", '{"version": 1, "points": []}', '{"version": 2}', json([RED, 7])]) {
    const state = create(text);
    assert.equal(textOf(state), text);
    assert.equal(textOf(select(state, 0)), text);
    assert.notEqual(textOf(add(state, 0.5, 0.5)), text);
  }
  const edited = add(create('{"version": 2}'), 0.5, 0.5);
  assert.deepEqual([edited.problem, edited.readable, edited.points.length], ["", true, 1]);
});

// --- Edits ---------------------------------------------------------------------------------------

test("add selects the point and uses the brush's color and size", () => {
  let state = add(create(""), 0.2, 0.3);
  assert.deepEqual(state.points, [{ x: 0.2, y: 0.3, color: DEFAULT_COLOR, size: DEFAULT_SIZE }]);
  assert.equal(state.selected, 0);
  state = add(resize(recolor(select(state, -1), "#123456"), 7), 2, -2);
  assert.deepEqual(state.points[1], { x: 1, y: 0, color: "#123456", size: 7 });
  assert.equal(state.points[0].color, DEFAULT_COLOR);
});

test("at most MAX_POINTS can be added", () => {
  const full = create(json(Array(MAX_POINTS).fill(RED)));
  assert.equal(add(full, 0.5, 0.5), full);
});

test("move clamps a point to the image", () => {
  const state = move(create(TWO), 0, -0.1, 1.7);
  assert.deepEqual(state.points[0], { ...RED, x: 0, y: 1 });
  assert.deepEqual(state.points[1], BLUE);
});

test("edits that change nothing return the same state or text", () => {
  const state = select(create(TWO), 0);
  assert.equal(move(state, 0, RED.x, RED.y), state);
  assert.equal(move(state, 9, 0, 0), state);
  assert.equal(remove(state, -1), state);
  assert.equal(remove(state, 2), state);
  assert.equal(textOf(recolor(state, RED.color)), TWO);
});

test("color and size apply to the selected point and the brush", () => {
  const state = resize(recolor(select(create(TWO), 1), "#010203"), 100);
  assert.deepEqual(state.points, [RED, { ...BLUE, color: "#010203", size: MAX_SIZE }]);
  assert.deepEqual([state.color, state.size], ["#010203", MAX_SIZE]);
  const brush = recolor(select(state, -1), "#ffffff");
  assert.equal(brush.points, state.points);
  assert.equal(select(brush, 0).color, RED.color, "the brush gets the selected point's color");
});

test("remove keeps another point selected", () => {
  const three = select(create(json([RED, BLUE, RED])), 1);
  const table = [[0, 0], [1, -1], [2, 1]];
  for (const [index, selected] of table) {
    assert.equal(remove(three, index).selected, selected, `${index}`);
    assert.equal(remove(three, index).points.length, 2);
  }
});

test("neighbor selects the next point", () => {
  const three = create(json([RED, BLUE, RED]));
  const table = [
    [-1, 1, true, 0], [-1, -1, true, 2], [0, 1, true, 1], [2, 1, true, 0], [0, -1, true, 2],
    [-1, 1, false, 0], [-1, -1, false, 2], [1, 1, false, 2], [2, 1, false, -1], [0, -1, false, -1],
  ];
  for (const [selected, step, wrap, wanted] of table) {
    const found = neighbor({ ...three, selected }, step, wrap);
    assert.equal(found, wanted, `${[selected, step, wrap]}`);
  }
  assert.equal(neighbor(create(""), 1, true), -1);
});

// --- Document ------------------------------------------------------------------------------------

test("a gesture keeps the document before it", () => {
  let state = begin(select(create(TWO), 0));
  for (let i = 1; i <= 10; i++) state = move(state, 0, i / 10, 0.5);
  assert.equal(textOf(state.base), TWO);
  assert.equal(begin(state), state, "begin is idempotent");
  state = finish(state);
  assert.deepEqual([state.base, state.points[0].x], [null, 1]);
});

test("a gesture without effect keeps the text", () => {
  const text = json([RED]).replace("{", "{ ");
  let state = begin(create(text));
  state = move(state, 0, 0.9, 0.9);
  state = finish(move(state, 0, RED.x, RED.y));
  assert.deepEqual([state.base, textOf(state)], [null, text]);
  assert.equal(finish(state), state);
});

test("a gesture can be canceled", () => {
  const state = cancel(move(begin(create(TWO)), 0, 0.9, 0.9));
  assert.deepEqual([textOf(state), state.base], [TWO, null]);
  assert.equal(cancel(cancel(add(begin(state), 0.5, 0.5))).selected, -1);
});

test("the selection stays within the points", () => {
  assert.equal(load(select(create(TWO), 1), json([RED])).selected, -1);
  assert.equal(load(select(create(TWO), 0), json([RED])).selected, 0);
});

test("load of a value from the host", () => {
  const fresh = create("");
  assert.equal(load(fresh, ""), fresh, "the same value changes nothing");
  const loaded = load(fresh, TWO);
  assert.equal(loaded.points.length, 2);
  const held = load(move(begin(loaded), 0, 0.9, 0.9), TWO);
  assert.deepEqual([held.base, textOf(held)], [null, TWO], "load ends a gesture");
});

test("an undo selects the point that it changes", () => {
  const two = create(TWO);
  const after = (before, text) => resume(create(text), before).selected;
  assert.equal(after(select(create(json([RED])), 0), TWO), 1, "the restored point");
  assert.equal(after(select(move(two, 1, 0.9, 0.9), 0), TWO), 1, "the point that moved back");
  assert.equal(after(select(two, 1), json([BLUE])), 0, "the selected point, at its new index");
  assert.equal(after(select(two, 0), json([BLUE])), -1, "the selected point is gone");
  assert.equal(after(select(two, 1), TWO), 1, "a change elsewhere");
  const { color, size } = resume(create(""), resize(recolor(two, "#112233"), 9));
  assert.deepEqual([color, size], ["#112233", 9], "the brush stays");
});

test("isHints accepts JSON of hints only", () => {
  for (const text of [TWO, '{"version": 1, "points": []}']) assert.ok(isHints(text), text);
  for (const text of ["", " ", "a cat", "7", '{"a": 1}']) assert.ok(!isHints(text), text);
});

test("states are not mutated", () => {
  const freeze = (value) => {
    if (value && typeof value === "object") Object.values(Object.freeze(value)).forEach(freeze);
    return value;
  };
  let state = freeze(create(TWO));
  const edits = [
    (s) => add(s, 0.1, 0.1), begin, (s) => move(s, 0, 1, 1), finish, (s) => recolor(s, "#000000"),
    (s) => remove(s, 0), (s) => resume(s, create(TWO)), (s) => load(s, ""),
    (s) => replaceAll(s, [RED]),
  ];
  for (const edit of edits) state = freeze(edit(state));
  assert.equal(state.points.length, 1);
});

// --- Recent colors ------------------------------------------------------------------------------

test("recent colors", () => {
  let list = [];
  for (let i = 0; i < MAX_RECENT + 5; i++) list = pushRecent(list, `#0000${(16 + i).toString(16)}`);
  assert.equal(list.length, MAX_RECENT);
  const again = pushRecent(list, list[3]);
  const facts = [again[0], again.length, new Set(again).size];
  assert.deepEqual(facts, [list[3], MAX_RECENT, MAX_RECENT]);
  assert.deepEqual(parseRecent(JSON.stringify(list)), list);
  for (const text of [null, undefined, "", "{", "7", '{"a":1}', '["red",7,null]']) {
    assert.deepEqual(parseRecent(text), [], `${text}`);
  }
});
