/**
 * The point-hint canvas in a real front end. Prints one JSON line for each check.
 *
 *   PLAYWRIGHT_NODE_MODULES=.../node_modules node tests/host/canvas.mjs \
 *     --url http://127.0.0.1:8188 --renderer classic|nodes2 --shots folder [--only "zooms"]
 *   node tests/host/canvas.mjs --list
 *
 * The host's input folder has to hold the three images that test_canvas.py draws, and its models
 * the networks that canvas_page.mjs names. Needs playwright-core and Chromium (CHROMIUM=/path).
 * A failed check leaves a screenshot of the page in the folder.
 */

import assert from "node:assert/strict";
import { join } from "node:path";
import { parseArgs } from "node:util";

import {
  at, away, bluish, button, changeStrength, choosePhoto, click, colored, cutOff, drag, dropPhoto,
  grayish, grownLoaders, keys, launched, leave, linkHints, message, near, nodeSize, onPage, open,
  openApp, openPage, page, part, pixel, points, previews, readPoints, reddish, requests, run, seen,
  setPhoto, settled, socketPosition, step, stepFrom, strength, text, touch, until, value, viewport,
  wheel,
} from "./canvas_page.mjs";

const VERSION_7 = '{"version": 7, "points": [{"place": [0.5, 0.5]}]}';
const RED = { x: 0.3, y: 0.4, color: "#cc2222", size: 2 };
const BLUE = { x: 0.7, y: 0.6, color: "#2244cc", size: 2 };

// --- Checks --------------------------------------------------------------------------------------

const checks = {
  async "the photo is there before any run, in gray"() {
    await open();
    await seen("photo.png");
    assert.equal(await message(), "Click the image to place a hint point");
  },

  async "the first canvas of the page appears with its style"() {
    assert.equal(await page.evaluate(() => window.firstDisplay), "flex");
  },

  async "a click places a point, where it was"() {
    await open();
    await click(0.25, 0.75);
    const [point] = await points(1);
    near(point, { x: 0.25, y: 0.75 });
    assert.match(point.color, /^#[0-9a-f]{6}$/);
  },

  async "dragging moves a point"() {
    await open([RED, BLUE]);
    await drag([RED.x, RED.y], [0.5, 0.2]);
    const [red, blue] = await points(2);
    near(red, { x: 0.5, y: 0.2 });
    assert.deepEqual(blue, BLUE);
  },

  async "the right button removes a point, without the host's menu"() {
    await open([RED, BLUE]);
    await click(RED.x, RED.y, { button: "right" });
    assert.deepEqual(await points(1), [BLUE]);
    assert.equal(await page.locator(".litecontextmenu:visible, .p-contextmenu:visible").count(), 0);
  },

  async "undo and redo by button and key"() {
    await open([RED]);
    await click(BLUE.x, BLUE.y);
    const both = await points(2);
    for (const [undo, redo] of [["undo", "redo"], ["Control+z", "Control+Shift+z"],
      ["Control+z", "Control+y"]]) {
      await step(undo);
      assert.deepEqual(await points(1), [RED]);
      await step(redo);
      assert.deepEqual(await points(2), both);
    }
  },

  async "the host's undo and redo take the points along"() {
    await open([RED]);
    await click(BLUE.x, BLUE.y);
    const both = await points(2);
    await leave();
    await page.keyboard.press("Control+z");
    assert.deepEqual(await points(1), [RED]);
    await seen("photo.png");
    await onPage();
    await leave();
    await page.keyboard.press("Control+y");
    assert.deepEqual(await points(2), both);
    await onPage();
  },

  async "canvas and graph share one history"() {
    await open([RED]);
    const shared = async () => [(await readPoints()).length, await strength()];
    await click(BLUE.x, BLUE.y);
    await points(2);
    await changeStrength(0.5);
    await click(0.5, 0.2);
    await points(3);
    const steps = [[3, 0.5], [2, 0.5], [2, 1], [1, 1]];
    const back = ["Control+z", "graph", "undo"], forth = ["graph", "redo", "Control+y"];
    for (const [index, how] of back.entries()) {
      await stepFrom(how, "Control+z");
      await until(async () => `${await shared()}` === `${steps[index + 1]}`, `undo by ${how}`);
    }
    await page.waitForTimeout(1500); // layout after an undo must not clear the redo
    for (const [index, how] of forth.entries()) {
      await stepFrom(how, "Control+y");
      await until(async () => `${await shared()}` === `${steps[2 - index]}`, `redo by ${how}`);
    }
    assert.ok(await button("redo").isDisabled());
  },

  async "undo and redo keep the focus and select the point that they change"() {
    await open([RED, BLUE]);
    await keys("]", "]", "ArrowRight");
    for (const key of ["Control+z", "Control+y", "Control+z"]) {
      const before = await value();
      await page.keyboard.press(key); // on the element that has the focus
      await until(async () => (await value()) !== before, key);
      await until(() => viewport().evaluate((canvas) => document.activeElement === canvas),
        "the image has the focus");
      await until(async () => /point 2 of 2/.test(await text(".counts")), "point 2 is selected");
    }
    await button("redo").focus();
    await page.keyboard.press("Enter");
    await until(async () => (await points(2))[1].x > BLUE.x, "redo by the focused button");
    await page.keyboard.press("Control+z");
    await until(async () => (await points(2))[1].x === BLUE.x, "undo while a button has the focus");
  },

  async "a held arrow key and a drag are one step each"() {
    await open([RED]);
    await keys("]");
    for (let i = 0; i < 5; i++) await page.keyboard.down("ArrowRight");
    await page.keyboard.up("ArrowRight");
    await until(async () => (await points(1))[0].x > RED.x, "the point has moved");
    const [moved] = await points(1);
    await drag([moved.x, moved.y], [0.6, 0.6]);
    await until(async () => (await points(1))[0].y > 0.5, "the point was dragged");
    await keys("Control+z");
    await until(async () => (await points(1))[0].x === moved.x, "the drag is taken back");
    await keys("Control+z");
    await until(async () => (await points(1))[0].x === RED.x, "all five steps are taken back");
  },

  async "the keyboard chooses, moves, adds and removes"() {
    await open([RED, BLUE]);
    await keys("]", "ArrowRight", "Shift+ArrowDown");
    let [red] = await points(2);
    assert.ok(red.x > RED.x && red.y > RED.y, JSON.stringify(red));
    await keys("]", "Delete");
    [red] = await points(1);
    assert.equal(red.color, RED.color);
    await keys("Escape", "ArrowRight", "ArrowRight", "Enter");
    const added = (await points(2))[1];
    near(added, { x: 0.52, y: 0.5 });
    assert.ok(await page.evaluate(() => Boolean(window.hintsNode().graph)), "Delete took the node");
  },

  async "the wheel zooms the image that has the focus, else the graph"() {
    await open();
    const graph = () => page.evaluate(() => window.app.canvas.ds.scale);
    await viewport().focus();
    await wheel(-500);
    await until(async () => /%/.test(await text(".counts")), "the image is zoomed");
    assert.equal(await graph(), 1);
    await keys("0");
    await until(async () => !/%/.test(await text(".counts")), "0 shows all again");
    await leave();
    await wheel(120);
    await until(async () => (await graph()) !== 1, "the graph is zoomed");
  },

  async "Space and the middle button pan, and add nothing"() {
    await open([RED]);
    await viewport().focus();
    await wheel(-900);
    await until(async () => /%/.test(await text(".counts")), "the image is zoomed");
    const dark = await pixel(0.25, 0.5);
    await drag([0.3, 0.5], [0.8, 0.5], { button: "middle" });
    await page.keyboard.down(" ");
    await drag([0.3, 0.3], [0.8, 0.3]);
    await page.keyboard.up(" ");
    assert.deepEqual(await points(1), [RED]);
    await away();
    assert.deepEqual(await pixel(0.9, 0.5), dark, "the dark half was pulled to the right");
  },

  async "a color from hex and from the plane"() {
    await open([RED]);
    await keys("]");
    await part(".hex").fill("3366CC");
    await part(".hex").press("Enter");
    await colored("#3366cc");
    const plane = await part(".plane").boundingBox();
    await page.mouse.click(plane.x + plane.width * 0.62, plane.y + plane.height * 0.4);
    const [inside] = await points(1);
    assert.notEqual(inside.color, "#3366cc");
    await page.mouse.click(plane.x + 3, plane.y + 3); // a hue and chroma that no screen shows
    const [{ color }] = await points(1);
    assert.match(color, /^#[0-9a-f]{6}$/);
    assert.notEqual(color, inside.color);
    await button("neutral").click();
    const [gray] = await points(1);
    assert.equal(gray.color.slice(1, 3), gray.color.slice(3, 5));
    await part('[data-list="recent"] [data-color="#3366cc"]').click();
    await colored("#3366cc");
  },

  async "the size of a point"() {
    await open([RED]);
    await keys("]");
    await part("input.size").fill("9");
    await until(async () => (await points(1))[0].size === 9, "the size is 9");
  },

  async "the eyedropper takes a color from the reference"() {
    await open([RED]);
    await keys("]");
    await button("pick").click();
    await button("pick-reference").click();
    await until(async () => (await pixel(0.25, 0.5))[0] === 200, "the reference is shown");
    await click(0.25, 0.5);
    await colored("#c86432"); // left half of reference.png
    await keys("i");
    await button("pick-photo").waitFor();
    await keys("Escape");
    await button("pick-photo").waitFor({ state: "hidden" });
  },

  async "import takes hints, and refuses what it does not know"() {
    await open([RED]);
    await button("more").click();
    const take = async (hints) => {
      await part("textarea").fill(hints);
      await button("import").click();
    };
    await take(JSON.stringify({ version: 1, points: [BLUE, RED] }));
    assert.deepEqual(await points(2), [BLUE, RED]);
    await take(VERSION_7);
    const isRefused = async () => /Not imported: .*version 7/.test(await message());
    await until(isRefused, "version 7 is refused");
    assert.deepEqual(await points(2), [BLUE, RED]);
    await button("clear").click();
    await points(0);
    await step("undo");
    assert.deepEqual(await points(2), [BLUE, RED]);
  },

  async "save gives the hints as a file"() {
    await open([RED]);
    await button("more").click();
    const [download] = await Promise.all([page.waitForEvent("download"), button("save").click()]);
    assert.equal(download.suggestedFilename(), "hints.json");
  },

  async "points are saved and loaded with the workflow"() {
    await open();
    await click(0.3, 0.3);
    const text = await value();
    await page.evaluate(() => window.reopen());
    assert.equal(await value(), text);
    await seen("photo.png");
  },

  async "copy and paste take the points along"() {
    await open([RED]);
    const copies = await page.evaluate(() => {
      const { app } = window;
      const node = window.hintsNode();
      app.canvas.selectNode(node);
      app.canvas.copyToClipboard([node]);
      app.canvas.pasteFromClipboard();
      const all = app.graph._nodes.filter((other) => other.type === node.type);
      return all.map((other) => other.widgets.find((widget) => widget.name === "hints").value);
    });
    assert.equal(copies.length, 2);
    assert.equal(copies[0], copies[1]);
    assert.deepEqual(JSON.parse(copies[0]).points, [RED]);
  },

  async "the prompt has the points as a string"() {
    await open([RED, BLUE]);
    const sent = await page.evaluate(async () => {
      const { output } = await window.app.graphToPrompt();
      return output[window.hintsNode().id].inputs.hints;
    });
    assert.equal(typeof sent, "string");
    assert.equal(sent, await value());
  },

  async "a version that is not known is kept and reported"() {
    await open(VERSION_7);
    await until(async () => /Kept unchanged: .*version 7/.test(await message()), "it says so");
    assert.equal(await value(), VERSION_7);
    assert.equal(await page.evaluate(() => window.reopen().then(window.hints)), VERSION_7);
  },

  async "unreadable hints are kept until the user starts over"() {
    const broken = '{"version": 1, "points": [';
    await open(broken);
    await click(0.5, 0.5);
    await keys("Enter");
    assert.equal(await value(), broken, "a click must not replace them");
    await button("repair").click();
    assert.deepEqual(await points(0), []);
    await click(0.5, 0.5);
    await points(1);
  },

  async "what can be read of damaged hints is offered"() {
    await open(JSON.stringify({ version: 1, points: [RED, { x: "left" }] }));
    await button("repair").click();
    assert.deepEqual(await points(1), [RED]);
  },

  async "a run shows colors, and each edit changes them without another"() {
    await open([RED]);
    await run();
    assert.equal(await button("view-result").getAttribute("aria-pressed"), "true");
    const position = [RED.x + 0.06, RED.y]; // beside the point's own disc
    await until(async () => reddish(await pixel(...position)), "red around a red point");
    await keys("]");
    await part(".hex").fill("#2244cc");
    await part(".hex").press("Enter");
    await until(async () => bluish(await pixel(...position)), "blue around it when it is blue");
    const [asked] = previews();
    assert.equal(JSON.parse(asked.hints).points[0].color, "#2244cc");
    const blue = await pixel(...position);
    await keys("Delete");
    await until(async () => `${await pixel(...position)}` !== `${blue}`, "its color goes with it");
  },

  async "dragging a point asks for previews on the way"() {
    await open([RED]);
    await run();
    await page.mouse.move(...(await at(RED.x, RED.y)));
    await page.mouse.down();
    await page.mouse.move(...(await at(0.6, 0.6)), { steps: 4 });
    await until(() => previews().length, "a preview is asked for before the button is up");
    await page.mouse.up();
    const last = async () => JSON.stringify(JSON.parse(previews().at(-1).hints).points)
      === JSON.stringify(await points(1));
    await until(last, "the last preview is of the last position");
  },

  async "nothing is asked when nothing changes"() {
    await open([RED]);
    await run();
    await click(0.6, 0.3);
    await settled();
    const count = requests.length;
    await page.mouse.move(...(await at(0.2, 0.8)), { steps: 5 });
    await page.waitForTimeout(2000);
    assert.equal(requests.length, count);
  },

  async "a control refreshes the preview"() {
    await open([RED]);
    await run();
    await page.evaluate(() => {
      const node = window.hintsNode();
      const strength = node.widgets.find((widget) => widget.name === "strength");
      strength.value = 0;
      strength.callback?.(0, window.app.canvas, node);
    });
    await until(() => previews().some((asked) => asked.controls.strength === 0), "it is asked for");
    await until(async () => grayish(await pixel(RED.x + 0.06, RED.y)), "strength 0 is gray");
  },

  async "colors that are likely at the point can be taken"() {
    await open([RED]);
    await run();
    await keys("]");
    const first = part('[data-list="suggested"] .swatch').first();
    await first.waitFor();
    const color = await first.getAttribute("data-color");
    await first.click();
    await colored(color);
  },

  async "C compares with the gray photo"() {
    await open([RED]);
    await run();
    const position = [RED.x + 0.06, RED.y];
    await until(async () => reddish(await pixel(...position)), "the result is shown");
    await viewport().focus();
    await page.keyboard.down("c");
    await until(async () => grayish(await pixel(...position)), "the photo while C is held");
    await page.keyboard.up("c");
    await until(async () => reddish(await pixel(...position)), "the result again");
  },

  async "the host's undo keeps what the run left"() {
    await open([RED]);
    await run();
    await click(BLUE.x, BLUE.y);
    await points(2);
    await leave();
    await page.keyboard.press("Control+z");
    assert.deepEqual(await points(1), [RED]);
    await until(async () => (await message()) === "Live", "the canvas is live as before");
    await until(() => button("view-result").isEnabled(), "the result is there");
  },

  async "another photo asks for a run, the first one is live again"() {
    await open([RED]);
    await run();
    await choosePhoto("other.png");
    await seen("other.png");
    await until(async () => /Run once/.test(await message()), "the line asks for a run");
    assert.ok(await button("view-result").isDisabled());
    assert.deepEqual(await points(1), [RED]);
    await choosePhoto("photo.png");
    await until(async () => (await message()) === "Live", "the first photo is live again");
  },

  async "another photo shows at once, while the pointer rests on the canvas"() {
    await open([RED]);
    await page.mouse.move(...(await at(0.5, 0.5)));
    await setPhoto("other.png");
    await seen("other.png");
    await setPhoto("photo.png");
    await seen("photo.png");
    await dropPhoto("dropped.png", [[176, 176, 176], [96, 96, 96]]);
    await seen("other.png"); // the same halves
  },

  async "linked hints show, read-only, and the own points come back"() {
    await open([RED]);
    const size = await nodeSize();
    await linkHints(JSON.stringify({ version: 1, points: [BLUE, { ...RED, y: 0.8 }] }));
    await until(async () => /Read-only: .*connected/.test(await message()), "the line says it");
    await until(async () => (await text(".counts")) === "2 points", "the linked points are there");
    assert.ok(await viewport().isVisible());
    await until(async () => !grayish(await pixel(BLUE.x, BLUE.y)), "they are drawn");
    await click(0.5, 0.5);
    await keys("]", "Delete", "Escape", "Enter");
    assert.equal(await text(".counts"), "2 points");
    assert.deepEqual(JSON.parse(await value()).points, [RED]);
    await page.evaluate(() => {
      const node = window.hintsNode();
      node.disconnectInput(node.inputs.findIndex((slot) => slot.name === "hints"));
    });
    await until(async () => (await text(".counts")) === "1 point", "the own point is back");
    assert.deepEqual(await nodeSize(), size);
    await click(0.5, 0.5);
    await points(2);
  },

  async "a finger taps, drags and removes by a long press"() {
    await open([RED]);
    await touch([[0.5, 0.2]], []);
    near((await points(2))[1], { x: 0.5, y: 0.2 });
    await touch([[0.5, 0.2]], [[0.6, 0.5]], []);
    await until(async () => Math.abs((await points(2))[1].y - 0.5) < 0.03, "the point is dragged");
    await touch([[RED.x, RED.y]], 900, []);
    await points(1);
    await touch([[0.2, 0.8]], 900, []);
    await page.waitForTimeout(300);
    assert.equal((await points(1)).length, 1, "a long press adds nothing");
  },

  async "a pinch zooms the image, not the graph, and adds nothing"() {
    await open([RED]);
    const graph = () => page.evaluate(() => [window.app.canvas.ds.scale,
      ...window.app.canvas.ds.offset]);
    const before = await graph();
    await touch([[0.4, 0.5]], [[0.4, 0.5], [0.6, 0.5]], [[0.3, 0.5], [0.7, 0.5]],
      [[0.2, 0.5], [0.8, 0.5]], [[0.2, 0.5]], []);
    await until(async () => /[23]\d\d %/.test(await text(".counts")), "the image is zoomed");
    assert.deepEqual(await graph(), before);
    assert.deepEqual(await points(1), [RED]);
  },

  async "points work after the node was resized"() {
    await open();
    for (const size of [[340, 640], [620, 860]]) {
      await page.evaluate((to) => window.hintsNode().setSize(to), size);
      await page.waitForTimeout(500);
      await click(0.4, 0.4);
      near((await points(1))[0], { x: 0.4, y: 0.4 });
      assert.deepEqual(await cutOff(), []);
      await step("undo");
    }
  },

  async "the socket of the hints has its label beside it"() {
    await open();
    const label = await part(".socket").boundingBox();
    assert.equal(await text(".socket"), "hints");
    const dot = await socketPosition();
    assert.ok(Math.abs(dot.y - (label.y + label.height / 2)) < 12, JSON.stringify([dot, label]));
    assert.ok(dot.x < label.x + 8, JSON.stringify([dot, label]));
  },

  async "example workflows keep the size of the loaders"() {
    for (const name of ["by-hints", "by-reference", "first-photo"]) {
      const grown = await grownLoaders(name);
      assert.deepEqual(grown, [], name);
    }
  },

  async "App mode has the canvas"() {
    await openApp();
    await seen("photo.png");
    await click(0.3, 0.4);
    const [point] = await points(1);
    near(point, { x: 0.3, y: 0.4 });
    assert.deepEqual(await cutOff(), []);
  },

  async "the canvas goes with its node"() {
    await open([RED]);
    await page.evaluate(() => window.app.graph.remove(window.hintsNode()));
    await until(async () => (await page.locator(".colorist-hints").count()) === 0, "it is gone");
  },
};

/** Complaints of the page that are about this pack. */
function listen() {
  const noise = [];
  const ours = /colorist|point_hints/;
  page.on("console", (message) => {
    if (message.type() === "debug" || message.type() === "log") return;
    const whole = `${message.text()} ${message.location().url}`;
    // 404: no session yet; 409: the queue is busy
    if (ours.test(whole) && !/status of (404|409)/.test(whole)) noise.push(whole);
  });
  page.on("pageerror", (error) => {
    if (ours.test(error.stack ?? "")) noise.push(error.stack);
  });
  return noise;
}

function print(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

async function main() {
  const options = Object.fromEntries(["url", "renderer", "shots", "only"].map((name) => [name,
    { type: "string" }]));
  const { values: flags } = parseArgs({ options: { ...options, list: { type: "boolean" } } });
  const names = Object.keys(checks).filter((name) => name.includes(flags.only ?? ""));
  if (flags.list) {
    names.forEach((name) => process.stdout.write(`${name}\n`));
    return;
  }
  const { browser, context } = await launched({ width: 1300, height: 1000 });
  const skip = await openPage(context, flags.url, flags.renderer === "nodes2");
  if (skip) print({ skip });
  const noise = listen();
  for (const name of skip ? [] : names) {
    const began = Date.now();
    let error = "";
    try {
      await checks[name]();
      assert.deepEqual(noise, [], "the page complained");
    } catch (problem) {
      error = problem.message;
      const file = `${flags.renderer} ${name}.png`.replace(/[^\w.]+/g, "-");
      if (flags.shots) await page.screenshot({ path: join(flags.shots, file) }).catch(() => {});
    }
    noise.length = 0;
    print({ check: name, ok: !error, error, seconds: (Date.now() - began) / 1000 });
  }
  await browser.close();
}

await main();
