/**
 * What canvas.mjs sees and does on the page: the workflow that it is about, pointer and keys in
 * parts of the image, pixels of the canvas, and waits for what must come.
 */

import assert from "node:assert/strict";
import { createRequire } from "node:module";
import { join } from "node:path";

const MODELS = {
  ColoristLoadPointHint: "mini-pointhint.safetensors", ColoristLoadAutomatic: "mini.safetensors",
};
const EMPTY = [[1150, 880], [950, 880]]; // places of the page with no node
const PADDING = 8; // of the image in the viewport, see geometry.js
const SOON = 60000; // ms that anything may take on a busy machine
const STYLE_DELAY = 3000; // ms by which the style sheet of the canvas is late
const START = 300000; // ms until the page is there
const NODES2 = [1, 41]; // front end from which Nodes 2.0 is finished: 1.27 has one without widgets

/** @type {import("playwright-core").Page} */
export let page;
export let requests = []; // bodies of the canvas's own requests, since the check began

// --- What is seen and done -----------------------------------------------------------------------

export const ui = () => page.locator(".colorist-hints:visible");
export const part = (selector) => ui().locator(selector);
export const viewport = () => part(".viewport");
export const button = (action) => part(`[data-action="${action}"]`);
export const text = (selector) => part(selector).textContent();
export const message = () => text(".message");
export const value = () => page.evaluate(() => window.hints());
export const previews = () => requests.filter((body) => body.hints);
export const reddish = ([r, , b]) => r - b > 40;
export const bluish = ([r, , b]) => b - r > 40;
export const grayish = ([r, g, b]) => Math.max(r, g, b) - Math.min(r, g, b) < 3;

/** Waits until something holds; fails with what was waited for. */
export async function until(holds, what) {
  const end = Date.now() + SOON;
  while (!(await holds())) {
    assert.ok(Date.now() < end, `not within ${SOON / 1000} s: ${what}`);
    await page.waitForTimeout(50);
  }
}

/** The workflow with these points (or this text), as a new one. */
export async function open(hints = []) {
  const whole = typeof hints === "string" ? hints : JSON.stringify({ version: 1, points: hints });
  await page.evaluate((text) => window.reopen(text), whole);
  await viewport().waitFor();
  await seen("photo.png");
  requests = [];
}

/** The points of the node as they are now. */
export async function readPoints() {
  return JSON.parse(await value()).points;
}

/** The points of the node, once there are so many. */
export async function points(count) {
  await until(async () => (await readPoints()).length === count, `${count} points`);
  return readPoints();
}

export async function colored(color) {
  await until(async () => (await points(1))[0].color === color, `the point is ${color}`);
}

export function near(point, { x, y }) {
  const away = Math.max(Math.abs(point.x - x), Math.abs(point.y - y));
  assert.ok(away < 0.02, `${JSON.stringify(point)} is not at ${x}, ${y}`);
}

/** Position on the page of a position in the image, while all of it is shown. */
export async function at(x, y) {
  const box = await viewport().boundingBox();
  const [width, height] = [box.width - 2 * PADDING, box.height - 2 * PADDING];
  const scale = Math.min(width / 320, height / 240); // images are 320 x 240
  const left = box.x + (box.width - 320 * scale) / 2, top = box.y + (box.height - 240 * scale) / 2;
  return [left + x * 320 * scale, top + y * 240 * scale];
}

export async function click(x, y, options) {
  await page.mouse.click(...(await at(x, y)), options);
}

export async function drag(from, to, options) {
  await page.mouse.move(...(await at(...from)));
  await page.mouse.down(options);
  await page.mouse.move(...(await at(...to)), { steps: 8 });
  await page.mouse.up(options);
}

export async function wheel(amount) {
  await page.mouse.move(...(await at(0.5, 0.5)));
  await page.mouse.wheel(0, amount);
}

/** Keys on the image. */
export async function keys(...names) {
  await viewport().focus();
  for (const name of names) await page.keyboard.press(name);
}

/** Takes the focus from the canvas; never twice at one position, which would be a double click. */
export async function leave() {
  await page.mouse.click(...EMPTY[0]);
  EMPTY.reverse();
}

export const away = () => page.mouse.move(...EMPTY[0]);

/** A button of the toolbar, or a key on the image. */
export async function step(name) {
  if (name.includes("+")) await keys(name);
  else await button(name).click();
}

/** An undo or redo: a key on the image, the same key on the graph, or a button. */
export async function stepFrom(how, key) {
  if (how !== "graph") return step(how);
  await leave();
  return page.keyboard.press(key);
}

/** Changes a control beside the canvas, as one step of the host. */
export async function changeStrength(to) {
  await page.evaluate((value) => {
    const node = window.hintsNode();
    const widget = node.widgets.find((other) => other.name === "strength");
    widget.value = value;
    widget.callback?.(value, window.app.canvas, node);
    window.app.extensionManager.workflow.activeWorkflow.changeTracker.captureCanvasState();
  }, to);
}

export const strength = () => page.evaluate(() =>
  window.hintsNode().widgets.find((other) => other.name === "strength").value);

export const nodeSize = () => page.evaluate(() => [...window.hintsNode().size]);

/**
 * Touches: each argument is the list of fingers [x, y] in the image from then on, or ms to wait.
 */
export async function touch(...steps) {
  const session = await page.context().newCDPSession(page);
  const events = [];
  let down = 0;
  for (const fingers of steps) {
    const touchPoints = [];
    for (const [id, finger] of Object.entries(typeof fingers === "number" ? [] : fingers)) {
      const [x, y] = await at(...finger);
      touchPoints.push({ id: Number(id), x, y });
    }
    const [more, less] = [fingers.length > down, fingers.length < down];
    const type = more ? "touchStart" : less ? "touchEnd" : "touchMove";
    events.push(typeof fingers === "number" ? fingers : { type, touchPoints });
    down = fingers.length ?? down;
  }
  let sent = []; // not one by one, which on a busy machine takes as long as a long press
  for (const event of events) {
    if (typeof event !== "number") {
      sent.push(session.send("Input.dispatchTouchEvent", event));
      continue;
    }
    await Promise.all(sent);
    sent = [];
    await page.waitForTimeout(event);
  }
  await Promise.all(sent);
  await session.detach();
}

/** Position on the page of the socket of the hints. */
export const socketPosition = () => page.evaluate(() => {
  const { app, LiteGraph } = window;
  const node = window.hintsNode();
  const slot = node.inputs.findIndex((input) => input.name === "hints");
  if (LiteGraph.vueNodesMode) {
    const widget = document.querySelector(".lg-node-widget:has(.colorist-hints)");
    const { x, y, width, height } = widget.firstElementChild.getBoundingClientRect();
    return { x: x + width / 2, y: y + height / 2 };
  }
  const [x, y] = node.getInputPos(slot);
  const { left, top } = app.canvas.canvas.getBoundingClientRect();
  const { scale, offset } = app.canvas.ds;
  return { x: left + scale * (x + offset[0]), y: top + scale * (y + offset[1]) };
});

/** Opens an example workflow; returns the loaders of this pack that are not as high as saved. */
export const grownLoaders = (name) => page.evaluate(async (file) => {
  const { app } = window;
  const url = `/api/workflow_templates/comfyui-colorist/${file}.json`;
  const workflow = await (await fetch(url)).json();
  await app.loadGraphData(workflow, true, true, null);
  await new Promise((resolve) => setTimeout(resolve, 3000)); // Nodes 2.0 measures nodes late
  const loaders = workflow.nodes.filter(({ type }) => type.startsWith("ColoristLoad"));
  const grown = loaders.filter(({ id, size }) => app.graph.getNodeById(id).size[1] > size[1] + 1);
  return grown.map(({ type }) => type);
}, name);

/** Opens the workflow as an app whose only input is the canvas. */
export async function openApp() {
  await page.evaluate(async () => {
    await window.reopen(JSON.stringify({ version: 1, points: [] }));
    const { app } = window;
    const workflow = { ...app.graph.serialize(), id: crypto.randomUUID() };
    const { id } = window.hintsNode();
    const linearData = { inputs: [[id, "hints"]], outputs: [id] };
    workflow.extra = { ...workflow.extra, linearMode: true, linearData };
    await app.loadGraphData(workflow, true, true, null);
  });
  await page.waitForTimeout(1500); // the tour of the host
  await page.keyboard.press("Escape");
  await viewport().waitFor();
}

/** Links the hints to a text node. */
export async function linkHints(text) {
  await page.evaluate((hints) => {
    const { app, LiteGraph } = window;
    const source = LiteGraph.createNode("PrimitiveStringMultiline");
    source.pos = [40, 880];
    app.graph.add(source);
    source.widgets[0].value = hints;
    const node = window.hintsNode();
    source.connect(0, node, node.inputs.findIndex((slot) => slot.name === "hints"));
  }, text);
}

/** [r, g, b, a] of the viewport at a position of the image. */
export async function pixel(x, y) {
  const box = await viewport().boundingBox();
  const [px, py] = await at(x, y);
  return viewport().evaluate((canvas, [u, v]) => {
    const position = [Math.floor(canvas.width * u), Math.floor(canvas.height * v), 1, 1];
    return [...canvas.getContext("2d").getImageData(...position).data];
  }, [(px - box.x) / box.width, (py - box.y) / box.height]);
}

/** The halves of a photo are on the viewport: photo.png has the dark one left, other.png right. */
export async function seen(name) {
  const [dark, light] = name === "photo.png" ? [0.1, 0.9] : [0.9, 0.1];
  await until(async () => {
    const halves = [await pixel(dark, 0.9), await pixel(light, 0.9)];
    return halves.every(grayish) && halves[0][0] === 96 && halves[1][0] === 176;
  }, `${name} is shown, in gray`);
}

/** The element on the page is the one of the node that is in the graph. */
export async function onPage() {
  await until(() => page.evaluate(() => window.hintsWidget().element.isConnected),
    "the node's own element is on the page");
}

/** Another file in the loader. */
export async function setPhoto(name) {
  await page.evaluate((file) => {
    const widget = window.loader().widgets.find((other) => other.name === "image");
    widget.value = file;
    widget.callback?.(file);
  }, name);
}

/** Another file in the loader; the pointer is elsewhere then, and comes to the canvas after. */
export async function choosePhoto(name) {
  await away();
  await setPhoto(name);
  await viewport().hover({ position: { x: 5, y: 5 } });
}

/** Drops a file with these colors in its halves on the loader. */
export async function dropPhoto(name, halves) {
  await page.evaluate(async ([file, colors]) => {
    const canvas = new OffscreenCanvas(320, 240);
    const context = canvas.getContext("2d");
    colors.forEach((color, index) => {
      context.fillStyle = `rgb(${color})`;
      context.fillRect(160 * index, 0, 160, 240);
    });
    const transfer = new DataTransfer();
    transfer.items.add(new File([await canvas.convertToBlob()], file, { type: "image/png" }));
    await window.loader().onDragDrop(new DragEvent("drop", { dataTransfer: transfer }));
  }, [name, halves]);
}

/** Runs the workflow and waits until the canvas is live. */
export async function run() {
  await page.evaluate(() => window.app.queuePrompt(0, 1));
  await until(async () => (await message()) === "Live" && (await idle()), "the run is done");
  await until(() => button("view-result").isEnabled(), "there is a result");
  await settled();
  requests = [];
}

export const idle = () => page.evaluate(async () => {
  const { queue_running: running, queue_pending: pending } = await (await fetch("/queue")).json();
  return running.length + pending.length === 0;
});

/** No request for as long as suggestions wait for a point to rest, and some. */
export async function settled() {
  let count = -1;
  while (count !== requests.length) {
    count = requests.length;
    await page.waitForTimeout(700);
  }
}

/** Controls of the canvas that stick out of it. */
export const cutOff = () => ui().evaluate((root) => {
  const { right, bottom } = root.getBoundingClientRect();
  const out = [...root.querySelectorAll("button, input, canvas")].filter((one) => {
    const rect = one.getBoundingClientRect();
    return one.offsetParent && (rect.right > right + 1 || rect.bottom > bottom + 1);
  });
  return out.map((one) => one.dataset.action ?? one.className);
});

// --- The page ------------------------------------------------------------------------------------

/** Helpers inside the page: the workflow, and the node that it is about. */
async function preparePage(models) {
  const { app, LiteGraph } = window;
  app.graph.clear();
  const add = (type, position, values = {}) => {
    const node = LiteGraph.createNode(type);
    node.pos = position;
    app.graph.add(node);
    for (const [name, to] of Object.entries(values)) {
      const widget = node.widgets.find((other) => other.name === name);
      widget.value = to;
    }
    if (type === "LoadImage") node.setSize([315, 330]); // with room for its image
    return node;
  };
  const hints = add("ColoristPointHints", [420, 60]);
  const wire = (from, name) => {
    from.connect(0, hints, hints.inputs.findIndex((slot) => slot.name === name));
  };
  const { ColoristLoadPointHint, ColoristLoadAutomatic } = models;
  wire(add("LoadImage", [40, 60], { image: "photo.png" }), "image");
  wire(add("ColoristLoadPointHint", [40, 440], { model: ColoristLoadPointHint }), "pointhint");
  wire(add("ColoristLoadAutomatic", [40, 560], { model: ColoristLoadAutomatic }), "colorizer");
  wire(add("LoadImage", [40, 680], { image: "reference.png" }), "reference");
  const fresh = JSON.stringify(app.graph.serialize());

  window.hintsNode = () => app.graph._nodes.find((node) => node.type === "ColoristPointHints");
  window.loader = () => {
    const [input] = window.hintsNode().inputs.filter((slot) => slot.name === "image");
    return app.graph.getNodeById(app.graph.links[input.link].origin_id);
  };
  window.hintsWidget = () => window.hintsNode().widgets.find((widget) => widget.name === "hints");
  window.hints = () => window.hintsWidget().value;
  /** Opens the workflow with this text as its hints; without one, the workflow as it is now. */
  window.reopen = async (text) => {
    const now = text === undefined ? JSON.stringify(app.graph.serialize()) : fresh;
    const workflow = { ...JSON.parse(now), id: crypto.randomUUID() };
    if (text !== undefined) {
      const node = workflow.nodes.find(({ type }) => type === "ColoristPointHints");
      const position = node.widgets_values.findIndex((value) => /"version"/.test(value));
      node.widgets_values.splice(position, 1, text);
    }
    await app.loadGraphData(workflow, true, true, null);
    app.canvas.ds.scale = 1;
    app.canvas.ds.offset = [20, 40];
    app.graph.setDirtyCanvas(true, true);
  };
}

/** Chromium, and a window of this size in it. */
export async function launched(viewport) {
  const modules = join(process.env.PLAYWRIGHT_NODE_MODULES, "playwright-core", "package.json");
  const { chromium } = createRequire(modules)("playwright-core");
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium",
    args: ["--no-sandbox", "--disable-gpu"],
  });
  return { browser, context: await browser.newContext({ viewport }) };
}

/** Opens the front end in one of its renderers; a sentence where it has no such one. */
export async function openPage(context, url, nodes2) {
  const settings = {
    "Comfy.TutorialCompleted": true,
    "Comfy.Workflow.Persist": false,
    "Comfy.Minimap.Visible": false,
    "Comfy.VueNodes.Enabled": nodes2,
  };
  for (const [name, to] of Object.entries(settings)) {
    const init = { method: "POST", body: JSON.stringify(to) };
    await fetch(`${url}/settings/${name}`, init);
  }
  await context.route((to) => !to.href.startsWith(url) && to.protocol.startsWith("http"),
    (route) => route.abort()); // nothing from elsewhere
  await context.route("**/point_hints.css", async (route) => {
    await new Promise((resolve) => setTimeout(resolve, STYLE_DELAY));
    await route.continue();
  });
  page = await context.newPage();
  await page.addInitScript(() => {
    new MutationObserver((_, observer) => {
      const canvas = document.querySelector(".colorist-hints");
      if (!canvas) return;
      window.firstDisplay = getComputedStyle(canvas).display;
      observer.disconnect();
    }).observe(document, { childList: true, subtree: true });
  });
  page.on("request", (request) => {
    if (request.url().includes("/colorist/")) requests.push(request.postDataJSON());
  });
  await page.goto(url, { waitUntil: "domcontentloaded", timeout: START });
  await page.waitForFunction(() => {
    const types = window.LiteGraph?.registered_node_types ?? {};
    return Boolean(window.app?.canvas?.ctx && types.ColoristPointHints && types.LoadImage);
  }, null, { timeout: START });
  page.setDefaultTimeout(SOON);
  await page.waitForTimeout(1500); // dialogues of a first start
  for (let i = 0; i < 3; i++) await page.keyboard.press("Escape");
  const version = await page.evaluate(() => window.__COMFYUI_FRONTEND_VERSION__ ?? "0.0");
  const [major, minor] = version.split(".").map(Number);
  if (nodes2 && (major < NODES2[0] || (major === NODES2[0] && minor < NODES2[1]))) {
    return `Nodes 2.0 needs front end ${NODES2.join(".")}, this host's is older`;
  }
  assert.equal(await page.evaluate(() => Boolean(window.LiteGraph.vueNodesMode)), nodes2);
  await page.evaluate(preparePage, MODELS);
  return "";
}
