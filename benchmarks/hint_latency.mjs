/**
 * From moving a hint on the canvas to its colours on the screen: 100 moves in a real browser.
 *
 *   COMFYUI_PATH=... COMFYUI_PYTHON=... python tests/host/serve.py    # or any host with this pack
 *   PLAYWRIGHT_NODE_MODULES=.../node_modules node benchmarks/hint_latency.mjs \
 *     --url http://127.0.0.1:8188 --photo photo.jpg [--base ddcolor-nano] [--hints 10] [--nodes2]
 *
 * Needs playwright-core with Chromium (CHROMIUM=/path). A move counts from the mouse's event to the
 * end of the frame in which the result of that move was drawn, one after the other. Of it, request
 * is the time until the picture has come; decode, grey and draw are the rest.
 */

import { readFileSync } from "node:fs";
import { createRequire } from "node:module";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";

const WARM = 3; // moves that do not count
const REST = 100; // ms between moves
const ROWS = {
  total: "**move to colours on the screen**",
  before: "until it is asked",
  request: "request, with all that the server does",
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

/** Watches the page: what follows a move, each with its time in ms. */
function watch() {
  const { fetch } = window;
  const { drawImage } = CanvasRenderingContext2D.prototype;
  let marks = null, shown = null;

  window.fetch = async (...given) => {
    const mine = String(given[0]).includes("/colorist/hints/preview") && marks;
    if (mine) {
      mine.asked ??= performance.now();
      mine.requests++;
    }
    const answer = await fetch(...given);
    if (mine && answer.status === 200) mine.answered = performance.now();
    return answer;
  };

  // The canvas draws another picture than before: the result has come.
  CanvasRenderingContext2D.prototype.drawImage = function (image, ...rest) {
    if (this.canvas.className === "board" && image !== shown) {
      shown = image;
      if (marks?.answered) {
        const { port1, port2 } = new MessageChannel(); // heard once the frame is done
        const mine = marks;
        port1.onmessage = () => mine.done({ ...mine, drawn: performance.now(), done: null });
        port2.postMessage(0);
      }
    }
    return drawImage.call(this, image, ...rest);
  };

  /** Starts to watch the next move; `window.move` holds the promise of its times. */
  window.watchMove = () => {
    window.move = new Promise((done) => {
      marks = { requests: 0, done };
      const heard = (event) => { marks.moved ??= event.timeStamp; };
      document.addEventListener("pointermove", heard, { capture: true, once: true });
    });
  };
}

/** Builds the workflow with `hints` other points, and runs it once. */
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
  const part = (at) => 0.1 + 0.8 * (at % 1);
  const points = Array.from({ length: hints }, (_, i) => (
    { x: part(0.618 * i), y: part(0.755 * (i + 1)), color: "#a05030" }
  ));
  const text = JSON.stringify({ version: 1, points });
  const canvas = add("ColoristPointHints", 420, 60, { hints: text });
  const wire = (from, name) => {
    from.connect(0, canvas, canvas.inputs.findIndex((input) => input.name === name));
  };
  wire(add("LoadImage", 40, 60, { image: photo }), "image");
  wire(add("ColoristLoadPointHint", 40, 480, { model }), "pointhint");
  if (base) wire(add("ColoristLoadAutomatic", 40, 640, { model: base }), "colorizer");
  app.canvas.ds.scale = 1;
  app.canvas.ds.offset = [20, 40];
  await new Promise((done) => setTimeout(done, 1000)); // the loader shows the photo
  await app.queuePrompt(0, 1);
}

async function upload(url, photo) {
  const form = new FormData();
  form.set("image", new Blob([readFileSync(photo)]), basename(photo));
  form.set("overwrite", "true");
  const answer = await fetch(`${url}/upload/image`, { method: "POST", body: form });
  if (!answer.ok) throw new Error(`the host does not take the photo: ${answer.status}`);
}

async function open(page, { url, nodes2 }) {
  const settings = { "Comfy.TutorialCompleted": true, "Comfy.VueNodes.Enabled": nodes2 };
  for (const [name, to] of Object.entries(settings)) {
    await fetch(`${url}/settings/${name}`, { method: "POST", body: JSON.stringify(to) });
  }
  await page.addInitScript(watch);
  await page.goto(url, { waitUntil: "domcontentloaded" });
  await page.waitForFunction(() => {
    const types = window.LiteGraph?.registered_node_types ?? {};
    return window.app?.canvas?.ctx && types.ColoristPointHints && types.LoadImage;
  }, null, { timeout: 120000 });
  await page.waitForTimeout(1500);
  await page.keyboard.press("Escape"); // a dialogue of a first start
}

/** Drags one more point about; the times of each move. */
async function measure(page, count) {
  const box = await page.locator(".colorist-hints:visible .board").boundingBox();
  const go = (x, y) => page.mouse.move(box.x + box.width * x, box.y + box.height * y);
  await go(0.5, 0.5);
  await page.mouse.down(); // places it
  await page.waitForTimeout(3000);
  const rows = [];
  for (let i = 0; i < count + WARM; i++) {
    await page.waitForTimeout(REST);
    await page.evaluate(() => window.watchMove());
    await go(0.5 + 0.2 * Math.cos(i / 9), 0.5 + 0.15 * Math.sin(i / 7));
    const { moved, asked, answered, drawn, requests } = await page.evaluate(() => window.move);
    if (requests !== 1) throw new Error(`${requests} requests for one move`);
    if (i < WARM) continue;
    const [before, request, draw] = [asked - moved, answered - asked, drawn - answered];
    rows.push({ total: drawn - moved, before, request, draw });
  }
  await page.mouse.up();
  return rows;
}

function report(rows) {
  const at = (key, part) => {
    const sorted = rows.map((row) => row[key]).sort((a, b) => a - b);
    return sorted[Math.min(sorted.length - 1, Math.floor(part * sorted.length))].toFixed(0);
  };
  const base = options.base ? ` on ${options.base}` : "";
  console.log(`${rows.length} moves, ${options.hints} other hints, ${options.model}${base}\n`);
  console.log("| ms | median | 95th percentile |\n| --- | --- | --- |");
  for (const [key, name] of Object.entries(ROWS)) {
    console.log(`| ${name} | ${at(key, 0.5)} | ${at(key, 0.95)} |`);
  }
}

async function main() {
  const modules = process.env.PLAYWRIGHT_NODE_MODULES;
  if (!options.url || !options.photo || !modules) {
    console.error("give --url and --photo, and PLAYWRIGHT_NODE_MODULES: see the head of this file");
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
    const live = page.locator('.colorist-hints:visible .said:text-is("Live")');
    await live.waitFor({ timeout: 60000 });
    report(await measure(page, Number(options.moves)));
  } finally {
    await browser.close();
  }
}

await main();
