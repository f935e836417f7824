/**
 * The interface between the point-hint canvas and the host: upstream images, the controls beside
 * the canvas, and requests to the routes of the pack. It uses the host's objects, not its modules.
 */

const SUBGRAPH_INPUT = -10; // origin_id of a link that comes from outside its subgraph
const BYPASSED = 4; // node.mode
const MAX_HOPS = 64;
const RETRY_MS = 1500; // delay of the one retry after a busy queue
const CONTROLS = ["strength", "saturation", "chroma_ceiling", "keep_color", "upsample"];
const WATCHED = [...CONTROLS, "resolution"];

export const RUN_ONCE_MESSAGE = "Run once to see live colors";
const QUEUE_MESSAGE = "Waiting for the queue";

// --- Upstream images -----------------------------------------------------------------------------

function linkOf(graph, id) {
  if (id === null || id === undefined) return null;
  return graph?.links?.get?.(id) ?? graph?.links?.[id] ?? graph?.getLink?.(id) ?? null;
}

/** Returns the node that stands for a subgraph, searched in all graphs of a workflow. */
function subgraphNode(root, subgraph) {
  const graphs = [root, ...(root?.subgraphs?.values?.() ?? [])];
  for (const graph of graphs) {
    const nodes = graph?.nodes ?? graph?._nodes ?? [];
    const match = nodes.find((node) => node.subgraph === subgraph);
    if (match) return match;
  }
  return null;
}

/** Returns the input that a node passes on unchanged, or null if the node computes its output. */
function passthroughInput(node, type) {
  const inputs = node.inputs ?? [];
  if (node.type === "Reroute") return inputs[0] ?? null;
  if (node.mode !== BYPASSED) return null;
  return inputs.find((input) => input.type === type && input.link != null) ?? null;
}

/**
 * Returns the node and slot that produce the value of an input; follows reroutes, bypassed nodes
 * and subgraphs.
 * @param {any} node
 * @param {string} name of the input
 * @param {any} root graph of the workflow
 * @returns {{node: any, slot: number} | null} null if nothing is linked
 */
export function originOf(node, name, root) {
  let graph = node.graph;
  let input = node.inputs?.find((slot) => slot.name === name);
  for (let hop = 0; hop < MAX_HOPS && input; hop++) {
    let link = linkOf(graph, input.link);
    if (!link) return null;
    if (Number(link.origin_id) === SUBGRAPH_INPUT) {
      const outer = subgraphNode(root, graph);
      const inputName = graph.inputs?.[link.origin_slot]?.name;
      const slots = outer?.inputs;
      input = slots?.find((slot) => slot.name === inputName) ?? slots?.[link.origin_slot];
      graph = outer?.graph;
      continue;
    }
    let from = graph.getNodeById(link.origin_id);
    while (from?.subgraph && from.mode !== BYPASSED) {
      graph = from.subgraph;
      link = linkOf(graph, graph.outputs?.[link.origin_slot]?.linkIds?.[0]);
      from = link && graph.getNodeById(link.origin_id);
    }
    if (!from) return null;
    const next = passthroughInput(from, link.type);
    if (!next) return { node: from, slot: link.origin_slot };
    input = next;
  }
  return null;
}

/** Returns the node of `originOf`, or null. */
export function upstreamNode(node, name, root) {
  return originOf(node, name, root)?.node ?? null;
}

/** Returns the widget on the face of a subgraph that an input gets its value from, or null. */
export function promotedWidget(node, name, root) {
  const link = linkOf(node.graph, node.inputs?.find((slot) => slot.name === name)?.link);
  if (Number(link?.origin_id) !== SUBGRAPH_INPUT) return null;
  const promoted = node.graph.inputs?.[link.origin_slot]?.name;
  const widgets = subgraphNode(root, node.graph)?.widgets ?? [];
  return widgets.find((widget) => widget.name === promoted) ?? null;
}

/** Returns the outputs of a node, which the host stores by execution id. */
function outputsOf(node, root, outputs) {
  const inSubgraph = node.graph && node.graph !== root && node.graph.id;
  return outputs?.[inSubgraph ? `${node.graph.id}:${node.id}` : String(node.id)];
}

/**
 * Returns the image that a node displays, before or after a run.
 * @param {any} node
 * @param {any} root graph of the workflow
 * @param {Record<string, any>} outputs app.nodeOutputs
 * @returns {{key: string, file?: any, image?: HTMLImageElement, isInput: boolean} | null}
 *   key: changes with the image; isInput: a file of the input folder, which is exactly what the
 *   node outputs
 */
export function displayedImage(node, root, outputs) {
  if (!node) return null;
  const file = outputsOf(node, root, outputs)?.images?.[0];
  if (file?.filename) {
    const { filename, subfolder = "", type = "output" } = file;
    const key = `${node.id} ${type} ${subfolder} ${filename}`;
    return { key, file: { filename, subfolder, type }, isInput: type === "input" };
  }
  const image = node.imgs?.[0];
  if (!image?.src) return null;
  return { key: `${node.id} ${image.src.replace(/[?&]rand=[^&]*/, "")}`, image, isInput: false };
}

/**
 * Returns the path and query of the host's /view route for a file.
 * @param {{filename: string, subfolder?: string, type?: string}} file
 */
export function viewPath({ filename, subfolder = "", type = "output" }) {
  return `/view?${new URLSearchParams({ filename, subfolder, type })}`;
}

// --- Controls beside the canvas ------------------------------------------------------------------

/** Returns true if the value of a widget comes over a link. */
export function isLinked(node, name) {
  return (node.inputs ?? []).some((input) => input.widget?.name === name && input.link != null);
}

/**
 * Returns the values of the postprocessing widgets that are not linked.
 * @param {any} node
 * @returns {Record<string, number | string>}
 */
export function controls(node) {
  const values = {};
  for (const name of CONTROLS) {
    const widget = node.widgets?.find((other) => other.name === name);
    if (widget && !isLinked(node, name)) values[name] = widget.value;
  }
  return values;
}

/**
 * Calls `onChange` after one of these widgets has changed.
 * @param {any[]} widgets
 * @param {() => void} onChange
 * @returns {() => void} stops watching
 */
export function watchWidgets(widgets, onChange) {
  let active = true;
  const restores = widgets.map((widget) => {
    const original = widget.callback;
    const chained = function (...args) {
      const result = original?.apply(this, args);
      if (active) onChange();
      return result;
    };
    widget.callback = chained;
    return () => {
      if (widget.callback === chained) widget.callback = original;
    };
  });
  return () => {
    active = false;
    restores.forEach((restore) => restore());
  };
}

/** Calls `onChange` when a widget beside the canvas changes that the result depends on. */
export function watchControls(node, onChange) {
  const widgets = (node.widgets ?? []).filter(({ name }) => WATCHED.includes(name));
  return watchWidgets(widgets, onChange);
}

// --- Routes --------------------------------------------------------------------------------------

let lastNumber = 0;

/** Returns a rising number, also across page loads, because sessions may outlive a page. */
function nextNumber() {
  lastNumber = Math.max(lastNumber + 1, Date.now());
  return lastNumber;
}

/** Returns the message of an error response. */
async function errorMessage(response) {
  try {
    return String((await response.json()).error ?? "").slice(0, 300);
  } catch {
    return "";
  }
}

/**
 * Client of the preview route: sends one request at a time; a newer request replaces the waiting
 * one.
 *
 * @param {object} options
 * @param {(route: string, init: RequestInit) => Promise<Response>} options.fetchApi
 * @param {(blob: Blob, request: any) => void} options.onImage
 * @param {(kind: "ok" | "busy" | "gone" | "refused" | "offline", message: string) => void}
 *   options.onStatus busy: waits for the queue; gone: the session is unknown
 * @param {() => boolean} options.isHidden true while the page is hidden: nothing is sent
 * @param {(run: () => void, ms: number) => any} [options.setTimer]
 * @param {(id: any) => void} [options.clearTimer]
 */
export function createPreviewClient({
  fetchApi, onImage, onStatus, isHidden, setTimer = setTimeout, clearTimer = clearTimeout,
}) {
  let waiting = null;
  let running = null; // AbortController of the request in progress
  let busy = false;
  let retried = false;
  let timer = null;
  let epoch = 0;

  async function pump() {
    if (running || busy || !waiting || isHidden()) return;
    const request = waiting;
    const startEpoch = epoch;
    waiting = null;
    running = new AbortController();
    const { signal } = running;
    let kind = "offline", message = "The host does not respond", blob = null;
    try {
      const body = JSON.stringify({ ...request, number: nextNumber() });
      const headers = { "Content-Type": "application/json" };
      const init = { method: "POST", body, headers, signal };
      const response = await fetchApi("/colorist/hints/preview", init);
      if (response.status === 200) [kind, message, blob] = ["ok", "", await response.blob()];
      else if (response.status === 204) [kind, message] = ["ok", ""];
      else if (response.status === 404) [kind, message] = ["gone", RUN_ONCE_MESSAGE];
      else if (response.status === 409) [kind, message] = ["busy", QUEUE_MESSAGE];
      else {
        [kind, message] = ["refused", await errorMessage(response)];
        message ||= `The host responds with status ${response.status}`;
      }
    } catch {
      // network error or abort: reported below unless the request is no longer wanted
    }
    if (startEpoch !== epoch) return;
    running = null;
    if (kind === "busy") {
      waiting ??= request;
      busy = true;
      if (!retried) timer = setTimer(onIdle, RETRY_MS);
      retried = true;
    } else retried = false;
    if (blob) onImage(blob, request);
    onStatus(kind, message);
    if (kind === "gone") waiting = null;
    pump();
  }

  function onIdle() {
    clearTimer(timer);
    timer = null;
    busy = false;
    pump();
  }

  return {
    /** Requests a preview for {node, session, hints, controls}. */
    request(request) {
      waiting = request;
      if (busy) onStatus("busy", QUEUE_MESSAGE);
      else pump();
    },
    /** The host reports the length of its queue; nothing is sent while it is busy. */
    setQueueLength(remaining) {
      if (remaining > 0) busy = true;
      else {
        retried = false;
        onIdle();
      }
    },
    /** The page is visible again. */
    wake: pump,
    /** Drops all requests. */
    stop() {
      epoch++;
      running?.abort();
      clearTimer(timer);
      [waiting, running, timer] = [null, null, null];
    },
  };
}

/**
 * Requests likely colors at a position of the photo.
 * @param {(route: string, init: RequestInit) => Promise<Response>} fetchApi
 * @param {{node: string, session: string, x: number, y: number}} request
 * @param {AbortSignal} signal
 * @returns {Promise<string[] | null>} null if they are not available now
 */
export async function fetchSuggestions(fetchApi, request, signal) {
  try {
    const headers = { "Content-Type": "application/json" };
    const init = { method: "POST", body: JSON.stringify(request), headers, signal };
    const response = await fetchApi("/colorist/hints/suggest", init);
    if (response.status !== 200) return null;
    const { colors } = await response.json();
    return Array.isArray(colors) ? colors.filter((c) => /^#[0-9a-f]{6}$/i.test(c)).slice(0, 8) : [];
  } catch {
    return null;
  }
}

/**
 * Returns the message of a run {session, width, height, resolution, photo, result, reference}, or
 * null.
 * @param {any} output of the node
 */
export function sessionOf(output) {
  const info = output?.colorist_hints?.[0];
  const valid = typeof info?.session === "string" && info.width > 0 && info.height > 0;
  return valid ? info : null;
}
