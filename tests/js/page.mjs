/**
 * A minimal page and host for the preview controller: elements without pixels, a clock that tests
 * advance, a graph with two loaders and the node, and an api with events.
 */

const settle = async () => {
  for (let i = 0; i < 5; i++) await new Promise((resolve) => setImmediate(resolve));
};

// --- Page ----------------------------------------------------------------------------------------

const pixels = (width, height) => ({ data: new Uint8ClampedArray(width * height * 4) });
const context = {
  drawImage() {}, putImageData() {}, getImageData: (x, y, width, height) => pixels(width, height),
};

let clock = 0;
let timers = [];

/** Installs the browser globals that the canvas uses. */
export function install() {
  const nothing = () => {};
  globalThis.document = {
    hidden: false, addEventListener: nothing, removeEventListener: nothing,
    createElement: () => ({ getContext: () => context }),
  };
  globalThis.Image = class {
    naturalWidth = 64;
    naturalHeight = 48;
    complete = true;
    async decode() {}
  };
  globalThis.createImageBitmap = async () => ({ width: 64, height: 48, close() {} });
  globalThis.setTimeout = (run, ms = 0) => {
    const timer = { run, at: clock + ms };
    timers.push(timer);
    return timer;
  };
  globalThis.clearTimeout = (timer) => {
    timers = timers.filter((other) => other !== timer);
  };
}

/** Advances the clock. */
export async function pass(ms = 2000) {
  const end = clock + ms;
  await settle();
  for (;;) {
    const [next] = timers.filter(({ at }) => at <= end).sort((a, b) => a.at - b.at);
    if (!next) break;
    clock = next.at;
    clearTimeout(next);
    next.run();
    await settle();
  }
  clock = end;
}

// --- Graph ---------------------------------------------------------------------------------------

/** Creates a graph; links are [id, from, slot, type]. */
export function makeGraph(id, nodes, links) {
  const graph = { id, nodes, links: new Map() };
  for (const [link, from, slot = 0, type = "IMAGE"] of links) {
    graph.links.set(link, { id: link, origin_id: from, origin_slot: slot, type });
  }
  graph.getNodeById = (id) => nodes.find((node) => node.id === id) ?? null;
  for (const node of nodes) node.graph = graph;
  return graph;
}

export const input = (name, link = null, type = "IMAGE") => ({ name, link, type });

/** LoadImage 1, the node 2, ImageScale 3 (not linked), two model loaders 4 and 5. */
export function makeWorkflow() {
  const photo = { id: 1, type: "LoadImage", inputs: [], widgets: [{ name: "image", value: "a" }] };
  const scale = {
    id: 3, type: "ImageScale", inputs: [input("image", 13)], widgets: [{ name: "width", value: 9 }],
  };
  const network = { id: 4, inputs: [], widgets: [{ name: "model", value: "small" }] };
  const base = { id: 5, inputs: [], widgets: [{ name: "model", value: "auto" }] };
  const node = {
    id: 2,
    type: "ColoristPointHints",
    inputs: [
      input("image", 10), input("pointhint", 11, "POINT_HINT_COLORIZER"),
      input("colorizer", null, "COLORIZER"), input("reference"), input("mask", null, "MASK"),
    ],
    widgets: [{ name: "strength", value: 1 }, { name: "resolution", value: 0 }],
  };
  const links = [
    [10, 1], [11, 4, 0, "POINT_HINT_COLORIZER"], [12, 5, 0, "COLORIZER"], [13, 1], [14, 3],
    [15, 1, 1, "MASK"],
  ];
  const graph = makeGraph("g", [photo, node, scale, network, base], links);
  const nodeOutputs = { 1: { images: [{ filename: "a.png", subfolder: "", type: "input" }] } };
  const link = (name, id) => {
    node.inputs.find((slot) => slot.name === name).link = id;
  };
  const see = (filename) => {
    nodeOutputs[1] = { images: [{ filename, subfolder: "", type: "input" }] };
  };
  return { graph, nodeOutputs, node, photo, scale, network, base, link, see };
}

// --- Host ----------------------------------------------------------------------------------------

/** Creates a host that answers with `reply(route)`; tests fire its events. */
export function makeHost(app) {
  const listeners = {};
  const host = {
    sent: [],
    reply: () => ({ status: 200, body: {} }),
    fire(type, detail) {
      for (const listener of listeners[type] ?? []) listener({ detail });
    },
    queue(queue_remaining) {
      host.fire("status", { exec_info: { queue_remaining } });
    },
    asked: (route) => host.sent.filter((request) => request.route.endsWith(route)),
    app,
    api: {
      addEventListener: (type, listener) => (listeners[type] ??= []).push(listener),
      removeEventListener(type, listener) {
        listeners[type] = listeners[type].filter((other) => other !== listener);
      },
      apiURL: (path) => path,
      async fetchApi(route, init) {
        host.sent.push({ route, ...JSON.parse(init.body) });
        const { status, body } = host.reply(route.split("/").at(-1));
        return { status, json: async () => body, blob: async () => new Blob(["x"]) };
      },
    },
  };
  return host;
}
