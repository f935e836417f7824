/**
 * Which run's session fits the graph: what a result depends on besides the points and the controls
 * beside the canvas, as it was when that run was queued.
 */

import { isLinked, originOf, shownPicture } from "./host_bridge.js";

const PICTURES = ["image", "mask"];
const MADE_BY = ["pointhint", "colorizer", "mask"]; // their nodes' own settings count
const CARRIERS = ["IMAGE", "MASK"]; // types of link along which a picture is looked for
const NODES = 64; // looked at upstream
const NOTES = 200;

/**
 * @typedef {{chosen: string, made: string}} Fit
 *   chosen: links, settings and photos, which count as they were when a run was queued;
 *   made: pictures that nodes upstream make while they run, which count as a run left them
 */

/** A widget's value; not one that the host draws anew for every run. */
function settings(node) {
  return (node.widgets ?? []).filter((widget) => !widget.linkedWidgets?.length)
    .filter((widget) => !/^control_(after|before)_generate$/.test(widget.name))
    .map(({ value }) => (typeof value === "object" ? JSON.stringify(value) : value) ?? null);
}

/** Whether a shown picture was chosen by a person, not made in a run. */
function isChosen(node, { file, image }) {
  const type = file?.type ?? /[?&]type=(\w+)/.exec(image?.src ?? "")?.[1];
  const source = !(node.inputs ?? []).some((input) => input.link != null);
  return type === "input" || (type === "output" && source);
}

/** Nodes above an input, up to the nearest with a chosen picture, and the pictures they show. */
function trace(node, name, root, outputs) {
  const path = [], chosen = [], made = [];
  const waiting = [originOf(node, name, root)];
  const known = new Set();
  while (waiting.length && path.length < NODES) {
    const origin = waiting.shift();
    if (!origin) continue;
    const { node: above, slot } = origin;
    path.push([above.id, slot, above.mode ?? 0]);
    if (known.has(above)) continue;
    known.add(above);
    const shown = shownPicture(above, root, outputs);
    if (shown && isChosen(above, shown)) {
      chosen.push(shown.key);
      continue;
    }
    if (shown) made.push(shown.key);
    const slots = (above.inputs ?? []).filter(({ type }) => CARRIERS.includes(type));
    waiting.push(...slots.map((input) => originOf(above, input.name, root)));
  }
  return { path, chosen, made };
}

/**
 * What the graph asks for now.
 * @param {any} node
 * @param {any} root graph of the workflow
 * @param {Record<string, any>} outputs app.nodeOutputs
 * @returns {Fit}
 */
export function fitOf(node, root, outputs) {
  if (!node.graph) return { chosen: "", made: "" };
  const chosen = [], made = [];
  for (const name of PICTURES) {
    const found = trace(node, name, root, outputs);
    chosen.push([found.path, found.chosen]);
    made.push(found.made);
  }
  for (const name of MADE_BY) {
    const origin = originOf(node, name, root);
    chosen.push(origin && [origin.node.id, origin.slot, origin.node.mode ?? 0,
      settings(origin.node)]);
  }
  const resolution = node.widgets?.find((widget) => widget.name === "resolution");
  const from = isLinked(node, "resolution") ? originOf(node, "resolution", root) : null;
  chosen.push(from ? [from.node.id, from.slot, settings(from.node)] : resolution?.value ?? null);
  return { chosen: JSON.stringify(chosen), made: JSON.stringify(made) };
}

/**
 * What was noted when each run was queued, found again when that run starts. The host tells of the
 * start by an id that the page did not see before, so runs are matched by their order.
 * @template Note
 * @param {() => Note} take what is worth noting now
 * @param {Note[]} [notes] of a canvas that was in this one's place
 * @param {Note | null} [running]
 */
export function createRuns(take, notes = [], running = null) {
  let length = 0; // of the host's queue, with the run that is under way
  let noted = false; // since the last run was queued

  return {
    /** A prompt is put together. */
    note() {
      notes = [...notes, take()].slice(-NOTES);
      noted = true;
    },
    /** Prompts were queued: behind those that wait, or before them. */
    queued(front, count) {
      if (!noted) notes.push(take()); // a front end that did not ask the widget
      noted = false;
      if (front) notes.unshift(...notes.splice(-count));
    },
    /** What the host says about its queue. */
    length(remaining) {
      length = remaining;
      if (!remaining) running = null;
    },
    /** A run starts. Notes of prompts that never came into the queue are dropped. */
    started() {
      notes = notes.slice(-Math.max(1, length));
      running = notes.shift() ?? take();
    },
    /** The note of the run under way, or null when it started before this page looked. */
    current: () => running ?? notes.shift() ?? null,
    /** For a canvas that takes this one's place. */
    get kept() {
      return [notes, running];
    },
  };
}
