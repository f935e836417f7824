/**
 * Between the point-hint canvas and the host: which picture lies upstream, the numbers beside the
 * canvas, and the requests to the node's own routes. Knows the host's objects, not its modules.
 */

const SUBGRAPH_INPUT = -10; // origin_id of a link that comes from outside its subgraph
const BYPASSED = 4; // node.mode
const HOPS = 64;
const RETRY = 1500; // ms until a request that met a busy queue is tried once more without an event
const CONTROLS = ["strength", "saturation", "chroma_ceiling", "keep_color", "upsample"];
const WATCHED = [...CONTROLS, "resolution"];

export const RUN_ONCE = "Run once to see colours live";
const QUEUE = "Waiting for the queue";

// --- Upstream picture ----------------------------------------------------------------------------

function linkOf(graph, id) {
  if (id === null || id === undefined) return null;
  return graph?.links?.get?.(id) ?? graph?.links?.[id] ?? graph?.getLink?.(id) ?? null;
}

/** The node in whose place a subgraph stands, looked for in all graphs of a workflow. */
function hostOf(root, subgraph) {
  const graphs = [root, ...(root?.subgraphs?.values?.() ?? [])];
  for (const graph of graphs) {
    const found = (graph?.nodes ?? graph?._nodes ?? []).find((node) => node.subgraph === subgraph);
    if (found) return found;
  }
  return null;
}

/** The input whose link a node hands on unchanged, or null when it makes something of its own. */
function handedOn(node, type) {
  const inputs = node.inputs ?? [];
  if (node.type === "Reroute") return inputs[0] ?? null;
  if (node.mode !== BYPASSED) return null;
  return inputs.find((input) => input.type === type && input.link != null) ?? null;
}

/**
 * The node that makes what an input gets, through reroutes, bypassed nodes and subgraphs.
 * @param {any} node
 * @param {string} name of the input
 * @param {any} root graph of the workflow
 * @returns {{node: any, slot: number} | null} null when nothing is linked
 */
export function originOf(node, name, root) {
  let graph = node.graph;
  let input = node.inputs?.find((slot) => slot.name === name);
  for (let hop = 0; hop < HOPS && input; hop++) {
    let link = linkOf(graph, input.link);
    if (!link) return null;
    if (Number(link.origin_id) === SUBGRAPH_INPUT) {
      const host = hostOf(root, graph);
      const called = graph.inputs?.[link.origin_slot]?.name;
      const slots = host?.inputs;
      input = slots?.find((slot) => slot.name === called) ?? slots?.[link.origin_slot];
      graph = host?.graph;
      continue;
    }
    let from = graph.getNodeById(link.origin_id);
    while (from?.subgraph && from.mode !== BYPASSED) {
      graph = from.subgraph;
      link = linkOf(graph, graph.outputs?.[link.origin_slot]?.linkIds?.[0]);
      from = link && graph.getNodeById(link.origin_id);
    }
    if (!from) return null;
    const on = handedOn(from, link.type);
    if (!on) return { node: from, slot: link.origin_slot };
    input = on;
  }
  return null;
}

/** The node alone. */
export function upstreamNode(node, name, root) {
  return originOf(node, name, root)?.node ?? null;
}

/** The host's key for a node's outputs. */
function outputsOf(node, root, outputs) {
  const inside = node.graph && node.graph !== root && node.graph.id;
  return outputs?.[inside ? `${node.graph.id}:${node.id}` : String(node.id)];
}

/**
 * The picture that a node shows, before or after a run.
 * @param {any} node
 * @param {any} root graph of the workflow
 * @param {Record<string, any>} outputs app.nodeOutputs
 * @returns {{key: string, file?: any, image?: HTMLImageElement, loaded: boolean} | null}
 *   key: changes with the picture; loaded: it is a file of the input folder, just as it is sent on
 */
export function shownPicture(node, root, outputs) {
  if (!node) return null;
  const file = outputsOf(node, root, outputs)?.images?.[0];
  if (file?.filename) {
    const { filename, subfolder = "", type = "output" } = file;
    const key = `${node.id} ${type} ${subfolder} ${filename}`;
    return { key, file: { filename, subfolder, type }, loaded: type === "input" };
  }
  const image = node.imgs?.[0];
  if (!image?.src) return null;
  return { key: `${node.id} ${image.src.replace(/[?&]rand=[^&]*/, "")}`, image, loaded: false };
}

/**
 * Query of the host's /view for a file.
 * @param {{filename: string, subfolder?: string, type?: string}} file
 */
export function viewPath({ filename, subfolder = "", type = "output" }) {
  return `/view?${new URLSearchParams({ filename, subfolder, type })}`;
}

// --- Numbers beside the canvas -------------------------------------------------------------------

/** Whether a widget's value comes over a link. */
export function isLinked(node, name) {
  return (node.inputs ?? []).some((input) => input.widget?.name === name && input.link != null);
}

/**
 * Values of the finishing widgets that are no links.
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
 * Calls `heard` when one of the widgets beside the canvas changes that the result depends on.
 * @param {any} node
 * @param {() => void} heard
 * @returns {() => void} undoes it
 */
export function watchControls(node, heard) {
  const undone = [];
  for (const widget of node.widgets ?? []) {
    if (!WATCHED.includes(widget.name)) continue;
    const before = widget.callback;
    const chained = function (...args) {
      const answer = before?.apply(this, args);
      heard();
      return answer;
    };
    widget.callback = chained;
    undone.push(() => {
      if (widget.callback === chained) widget.callback = before;
    });
  }
  return () => undone.forEach((undo) => undo());
}

// --- Routes --------------------------------------------------------------------------------------

let counter = 0;

/** Rises over the life of the page and of those after it, as a session may outlive one. */
function nextNumber() {
  counter = Math.max(counter + 1, Date.now());
  return counter;
}

/** The sentence of an error reply. */
async function sentence(response) {
  try {
    return String((await response.json()).error ?? "").slice(0, 300);
  } catch {
    return "";
  }
}

/**
 * Live preview: one request under way at most, the newest waiting one replaces the one before.
 *
 * @param {object} options
 * @param {(route: string, init: RequestInit) => Promise<Response>} options.fetchApi
 * @param {(blob: Blob, request: any) => void} options.onPicture
 * @param {(kind: "ok" | "busy" | "gone" | "refused" | "offline", sentence: string) => void}
 *   options.onState busy: waits until the queue is idle; gone: the session is not known
 * @param {() => boolean} options.isHidden true while nobody looks: nothing is asked
 * @param {(run: () => void, ms: number) => any} [options.later]
 * @param {(id: any) => void} [options.forget]
 */
export function createPreview({
  fetchApi, onPicture, onState, isHidden, later = setTimeout, forget = clearTimeout,
}) {
  let waiting = null;
  let running = null; // AbortController of the request under way
  let busy = false;
  let retried = false;
  let timer = null;
  let epoch = 0;

  async function pump() {
    if (running || busy || !waiting || isHidden()) return;
    const request = waiting;
    const mine = epoch;
    waiting = null;
    running = new AbortController();
    const { signal } = running;
    let kind = "offline", text = "The host does not answer", blob = null;
    try {
      const body = JSON.stringify({ ...request, number: nextNumber() });
      const headers = { "Content-Type": "application/json" };
      const init = { method: "POST", body, headers, signal };
      const reply = await fetchApi("/colorist/hints/preview", init);
      if (reply.status === 200) [kind, text, blob] = ["ok", "", await reply.blob()];
      else if (reply.status === 204) [kind, text] = ["ok", ""];
      else if (reply.status === 404) [kind, text] = ["gone", RUN_ONCE];
      else if (reply.status === 409) [kind, text] = ["busy", QUEUE];
      else {
        [kind, text] = ["refused", await sentence(reply)];
        text ||= `The host answers ${reply.status}`;
      }
    } catch {
      // network or abort: told below unless the request is no longer wanted
    }
    if (mine !== epoch) return;
    running = null;
    if (kind === "busy") {
      waiting ??= request;
      busy = true;
      if (!retried) timer = later(idle, RETRY);
      retried = true;
    } else retried = false;
    if (blob) onPicture(blob, request);
    onState(kind, text);
    if (kind === "gone") waiting = null;
    pump();
  }

  function idle() {
    forget(timer);
    timer = null;
    busy = false;
    pump();
  }

  return {
    /** Asks for the result of {node, session, hints, controls}. */
    request(request) {
      waiting = request;
      if (busy) onState("busy", QUEUE);
      else pump();
    },
    /** What the host says about its queue: nothing is asked while it works. */
    queue(remaining) {
      if (remaining > 0) busy = true;
      else {
        retried = false;
        idle();
      }
    },
    /** The tab is looked at again. */
    wake: pump,
    /** Drops everything asked for. */
    stop() {
      epoch++;
      running?.abort();
      forget(timer);
      [waiting, running, timer] = [null, null, null];
    },
  };
}

/**
 * Colours that an automatic engine sees at a place; null when it cannot be asked now.
 * @param {(route: string, init: RequestInit) => Promise<Response>} fetchApi
 * @param {{node: string, session: string, x: number, y: number}} request
 * @param {AbortSignal} signal
 * @returns {Promise<string[] | null>}
 */
export async function suggestions(fetchApi, request, signal) {
  try {
    const headers = { "Content-Type": "application/json" };
    const init = { method: "POST", body: JSON.stringify(request), headers, signal };
    const reply = await fetchApi("/colorist/hints/suggest", init);
    if (reply.status !== 200) return null;
    const { colors } = await reply.json();
    return Array.isArray(colors) ? colors.filter((c) => /^#[0-9a-f]{6}$/i.test(c)).slice(0, 8) : [];
  } catch {
    return null;
  }
}

/**
 * What a run says: {session, width, height, resolution, picture, result, reference}, or null.
 * @param {any} output of the node
 */
export function sessionOf(output) {
  const info = output?.colorist_hints?.[0];
  const known = typeof info?.session === "string" && info.width > 0 && info.height > 0;
  return known ? info : null;
}
