/**
 * Latency from moving a hint point on the canvas to its colors on the screen, in a real browser.
 *
 *   COMFYUI_PATH=... COMFYUI_PYTHON=... python tests/host/serve.py    # or any ComfyUI with this pack
 *   PLAYWRIGHT_NODE_MODULES=.../node_modules node benchmarks/hint_latency.mjs \
 *     --url http://127.0.0.1:8188 --photo photo.jpg [--base ddcolor-nano] [--hints 10] [--nodes2]
 *
 * Needs playwright-core with Chromium (CHROMIUM=/path). The latency of a move is the time from the
 * mouse event to the end of the frame that shows its result; moves do not overlap. `request` is the
 * time until the image has arrived, `draw` the rest.
 */

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";

const WARM_UP = 3; // moves that are not counted
const PAUSE = 100; // ms between moves
const ROWS = {
  total: "**move to colors on the screen**",
  before: "move to request",
  request: "request, including the server",
  draw: "decode and draw",
};

const { values: options } = parseArgs({
  options: {
    url: { type: "string" },
    photo: { type: "string" },
    model: { type: "string", default: "pointhint-nano" },
    base: { type: "string" },
    hints: { type: "string", default: "10" },
    moves: { type: "string", default: "100" },
    nodes2: { type: "boolean", default: false },
  },
});

/** Instrument the page: record the times of a move, its request, response and drawing in ms. */
function instrument() {
  const { fetch } = window;
  const { drawImage } = CanvasRenderingContext2D.prototype;
  let current = null, lastImage = null;

  window.fetch = async (...args) => {
    const move = String(args[0]).includes("/colorist/hints/preview") && current;
    if (move) {
      move.requested ??= performance.now();
      move.requests++;
    }
    const response = await fetch(...args);
    if (move && response.status === 200) move.responded = performance.now();
    return response;
  };

  // When the canvas draws a new image, the result has arrived.
  CanvasRenderingContext2D.prototype.drawImage = function (image, ...rest) {
    if (this.canvas.className === "board" && image !== lastImage) {
      lastImage = image;
      if (current?.responded) {
        const { port1, port2 } = new MessageChannel(); // delivered after the frame
        const move = current;
        port1.onmessage = () => move.resolve({ ...move, drawn: performance.now(), resolve: null });
        port2.postMessage(0);
      }
    }
    return drawImage.call(this, image, ...rest);
  };

  /** Record the next move; `window.move` is the promise of its times. */
  window.recordMove = () => {
    window.move = new Promise((resolve) => {
      current = { requests: 0, resolve };
      const onMove = (event) => { current.moved ??= event.timeStamp; };
      document.addEventListener("pointermove", onMove, { capture: true, once: true });
    });
  };
}

/** Build the workflow with `hints` other points and run it once. */
async function build({ photo, model, base, hints }) {
  const { app, LiteGraph } = window;
  app.graph.clear();
  const add = (type, x, y, values) => {
    const node = LiteGraph.createNode(type);
    node.pos = [x, y];
    app.graph.add(node);
    for (const [name, value] of Object.entries(values)) {
      const widget = node.widgets.find((other) => other.name === name);
      widget.value = value;
      widget.callback?.(value);
    }
    return node;
  };
  const spread = (n) => 0.1 + 0.8 * (n % 1);
  const points = Array.from({ length: hints }, (_, i) => (
    { x: spread(0.618 * i), y: spread(0.755 * (i + 1)), color: "#a05030" }
  ));
  const text = JSON.stringify({ version: 1, points });
  const canvas = add("ColoristPointHints", 420, 60, { hints: text });
  const connect = (from, name) => {
    from.connect(0, canvas, canvas.inputs.findIndex((input) => input.name === name));
  };
  connect(add("LoadImage", 40, 60, { image: photo }), "image");
  connect(add("ColoristLoadPointHint", 40, 480, { model }), "pointhint");
  if (base) connect(add("ColoristLoadAutomatic", 40, 640, { model: base }), "colorizer");
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [20, 40];
  await new Promise((done) => setTimeout(done, 1000)); // until the loader shows the photo
  await app.queuePrompt(0, 1);
}

async function upload(url, photo) {
  const form = new FormData();
  form.set("image", new Blob([readFileSync(photo)]), basename(photo));
  form.set("overwrite", "true");
  const response = await fetch(`${url}/upload/image`, { method: "POST", body: form });
  if (!response.ok) throw new Error(`the host rejected the photo: ${response.status}`);
}

async function open(page, { url, nodes2 }) {
  const settings = { "Comfy.TutorialCompleted": true, "Comfy.VueNodes.Enabled": nodes2 };
  for (const [name, value] of Object.entries(settings)) {
    await fetch(`${url}/settings/${name}`, { method: "POST", body: JSON.stringify(value) });
  }
  await page.addInitScript(instrument);
  await page.goto(url, { waitUntil: "domcontentloaded" });
  await page.waitForFunction(() => {
    const types = window.LiteGraph?.registered_node_types ?? {};
    return window.app?.canvas?.ctx && types.ColoristPointHints && types.LoadImage;
  }, null, { timeout: 120000 });
  await page.waitForTimeout(1500);
  await page.keyboard.press("Escape"); // a dialog of the first start
}

/** Add one more point and drag it; return the times of each move. */
async function measure(page, count) {
  const box = await page.locator(".colorist-hints:visible .viewport").boundingBox();
  const go = (x, y) => page.mouse.move(box.x + box.width * x, box.y + box.height * y);
  await go(0.5, 0.5);
  await page.mouse.down(); // adds the point
  await page.waitForTimeout(3000);
  const rows = [];
  for (let i = 0; i < count + WARM_UP; i++) {
    await page.waitForTimeout(PAUSE);
    await page.evaluate(() => window.recordMove());
    await go(0.5 + 0.2 * Math.cos(i / 9), 0.5 + 0.15 * Math.sin(i / 7));
    const { moved, requested, responded, drawn, requests } = await page.evaluate(() => window.move);
    if (requests !== 1) throw new Error(`${requests} requests for one move`);
    if (i < WARM_UP) continue;
    const before = requested - moved;
    const [request, draw] = [responded - requested, drawn - responded];
    rows.push({ total: drawn - moved, before, request, draw });
  }
  await page.mouse.up();
  return rows;
}

function report(rows) {
  const quantile = (key, fraction) => {
    const sorted = rows.map((row) => row[key]).sort((a, b) => a - b);
    return sorted[Math.min(sorted.length - 1, Math.floor(fraction * sorted.length))].toFixed(0);
  };
  const base = options.base ? ` on ${options.base}` : "";
  console.log(`${rows.length} moves, ${options.hints} other hints, ${options.model}${base}\n`);
  console.log("| ms | median | 95th percentile |\n| --- | --- | --- |");
  for (const [key, name] of Object.entries(ROWS)) {
    console.log(`| ${name} | ${quantile(key, 0.5)} | ${quantile(key, 0.95)} |`);
  }
}

async function main() {
  const modules = process.env.PLAYWRIGHT_NODE_MODULES;
  if (!options.url || !options.photo || !modules) {
    console.error("--url, --photo and PLAYWRIGHT_NODE_MODULES are required");
    process.exit(2);
  }
  const { chromium } = createRequire(join(modules, "playwright-core", "package.json"))(
    "playwright-core",
  );
  const browser = await chromium.launch({
    executablePath: process.env.CHROMIUM ?? "/usr/bin/chromium", args: ["--no-sandbox"],
  });
  try {
    await upload(options.url, options.photo);
    const page = await browser.newPage({ viewport: { width: 1300, height: 1000 } });
    await open(page, options);
    const { model, base, hints } = options;
    await page.evaluate(build,
      { photo: basename(options.photo), model, base, hints: Number(hints) });
    const live = page.locator('.colorist-hints:visible .message:text-is("Live")');
    await live.waitFor({ timeout: 60000 });
    report(await measure(page, Number(options.moves)));
  } finally {
    await browser.close();
  }
}

await main();
