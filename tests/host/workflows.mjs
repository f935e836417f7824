/**
 * Opens example workflows in a real front end. Prints one JSON line for each: node types that it
 * does not know, complaints of the page, the prompt, the files it misses, and its offers to download.
 *
 *   PLAYWRIGHT_NODE_MODULES=.../node_modules node tests/host/workflows.mjs \
 *     --url http://127.0.0.1:8188 --renderer classic|nodes2 --shots folder WORKFLOW.json ...
 *
 * Needs playwright-core and Chromium (CHROMIUM=/path). Nothing is downloaded: the page reaches its
 * host alone. A screenshot of each workflow goes to the folder.
 */

import { readFileSync } from "node:fs";
import { basename, join } from "node:path";
import { parseArgs } from "node:util";

import { launched, openPage, page } from "./canvas_page.mjs";

const OURS = /\/extensions\/.*colorist/; // addresses of the pack's scripts
const SETTLE = 1500; // ms for a workflow to be drawn, and for dialogues to come
const REFUSED = /Only allowed suffixes/; // of older front ends, which offer .safetensors alone
const MISSING = /\.(pth|pt|safetensors|bin)\b/; // in texts beside the graph

function print(line) {
  process.stdout.write(`${JSON.stringify(line)}\n`);
}

/** What is said on the page by scripts of the pack. */
function listen() {
  const noise = [];
  page.on("console", (message) => {
    const from = message.location().url;
    if (message.type() === "error" && OURS.test(from)) noise.push(message.text());
  });
  page.on("pageerror", (error) => {
    if (OURS.test(error.stack ?? "")) noise.push(error.message);
  });
  return noise;
}

async function look(path, noise) {
  const workflow = JSON.parse(readFileSync(path, "utf8"));
  const unknown = await page.evaluate((types) => types.filter((type) => (
    !window.LiteGraph.registered_node_types[type]
  )), [...new Set(workflow.nodes.map(({ type }) => type))].sort());
  await page.evaluate(async (graph) => {
    await window.app.loadGraphData(graph, true, true, null);
    window.app.canvas.ds.scale = 0.8;
    window.app.canvas.ds.offset = [70, 130];
    window.app.graph.setDirtyCanvas(true, true);
  }, { ...workflow, id: crypto.randomUUID() });
  await page.waitForTimeout(SETTLE);
  const details = page.getByRole("button", { name: "View details" }); // newer front ends
  if (await details.count()) await details.first().click();
  await page.waitForTimeout(SETTLE / 2);
  return {
    unknown,
    missing: (await page.getByText(MISSING).allInnerTexts()).join("\n"),
    downloads: await page.locator("button:visible:enabled, a:visible")
      .filter({ hasText: /download/i }).allInnerTexts(),
    refused: await page.getByText(REFUSED).count() > 0,
    prompt: await page.evaluate(async () => (await window.app.graphToPrompt()).output),
    noise: noise.splice(0),
  };
}

async function main() {
  const names = ["url", "renderer", "shots"].map((name) => [name, { type: "string" }]);
  const { values: flags, positionals } = parseArgs({
    options: Object.fromEntries(names), allowPositionals: true,
  });
  const { browser, context } = await launched({ width: 1500, height: 1000 });
  const skip = await openPage(context, flags.url, flags.renderer === "nodes2");
  if (skip) print({ skip });
  const noise = listen();
  for (const path of skip ? [] : positionals) {
    const file = basename(path);
    const line = await look(path, noise);
    const shot = `${file.replace(".json", "")}-${flags.renderer}.png`;
    await page.screenshot({ path: join(flags.shots, shot) });
    for (let i = 0; i < 2; i++) await page.keyboard.press("Escape");
    print({ file, ...line });
  }
  await browser.close();
}

await main();
