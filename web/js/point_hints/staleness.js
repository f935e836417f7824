/**
 * Detects whether the session of a run still matches the graph: compares everything the result
 * depends on, except hint points and controls, with the time when the run was queued.
 */

import { displayedImage, isLinked, originOf } from "./host_bridge.js";

const IMAGE_INPUTS = ["image", "mask"];
const PRODUCER_INPUTS = ["pointhint", "colorizer", "mask"]; // settings of their nodes matter
const IMAGE_TYPES = ["IMAGE", "MASK"]; // link types that are followed upstream to find an image
const MAX_NODES = 64; // visited upstream
const MAX_SNAPSHOTS = 200;

/**
 * @typedef {{inputKey: string, outputKey: string}} DependencyKeys
 *   inputKey: links, settings and user files; compared with the time when the run was queued;
 *   outputKey: images that upstream nodes produce while they run; compared with the end of the run
 */

/** Returns the widget values of a node, except those that change with every run. */
function settings(node) {
  return (node.widgets ?? []).filter((widget) => !widget.linkedWidgets?.length)
    .filter((widget) => !/^control_(after|before)_generate$/.test(widget.name))
    .map(({ value }) => (typeof value === "object" ? JSON.stringify(value) : value) ?? null);
}

/** Returns true if the user chose the displayed image, false if a run produced it. */
function isUserFile(node, { file, image }) {
  const type = file?.type ?? /[?&]type=(\w+)/.exec(image?.src ?? "")?.[1];
  const source = !(node.inputs ?? []).some((input) => input.link != null);
  return type === "input" || (type === "output" && source);
}

/** Collects the nodes above an input, up to the nearest user files, and their images. */
function trace(node, name, root, outputs) {
  const path = [], nodes = [], userFiles = [], produced = [];
  const queue = [originOf(node, name, root)];
  const visited = new Set();
  while (queue.length && path.length < MAX_NODES) {
    const origin = queue.shift();
    if (!origin) continue;
    const { node: above, slot } = origin;
    path.push([above.id, slot, above.mode ?? 0]);
    if (visited.has(above)) continue;
    visited.add(above);
    nodes.push(above);
    const displayed = displayedImage(above, root, outputs);
    if (displayed && isUserFile(above, displayed)) {
      userFiles.push(displayed.key);
      continue;
    }
    if (displayed) produced.push(displayed.key);
    const slots = (above.inputs ?? []).filter(({ type }) => IMAGE_TYPES.includes(type));
    queue.push(...slots.map((input) => originOf(above, input.name, root)));
  }
  return { path, nodes, userFiles, produced };
}

/**
 * Returns the nodes whose widgets the canvas shows or its result depends on.
 * @param {any} node
 * @param {any} root graph of the workflow
 * @param {Record<string, any>} outputs app.nodeOutputs
 * @param {string} hints name of the input of the hints
 */
export function upstreamNodes(node, root, outputs, hints) {
  const images = [...IMAGE_INPUTS, "reference"];
  const traced = images.flatMap((name) => trace(node, name, root, outputs).nodes);
  const others = [...PRODUCER_INPUTS, "resolution", hints].map((name) =>
    originOf(node, name, root)?.node);
  return [...new Set([...traced, ...others])].filter(Boolean);
}

/**
 * Returns the keys of everything the node's result depends on in the current graph.
 * @param {any} node
 * @param {any} root graph of the workflow
 * @param {Record<string, any>} outputs app.nodeOutputs
 * @returns {DependencyKeys}
 */
export function dependencyKeys(node, root, outputs) {
  if (!node.graph) return { inputKey: "", outputKey: "" };
  const inputs = [], produced = [];
  for (const name of IMAGE_INPUTS) {
    const upstream = trace(node, name, root, outputs);
    inputs.push([upstream.path, upstream.userFiles]);
    produced.push(upstream.produced);
  }
  for (const name of PRODUCER_INPUTS) {
    const origin = originOf(node, name, root);
    inputs.push(origin && [origin.node.id, origin.slot, origin.node.mode ?? 0,
      settings(origin.node)]);
  }
  const resolution = node.widgets?.find((widget) => widget.name === "resolution");
  const from = isLinked(node, "resolution") ? originOf(node, "resolution", root) : null;
  inputs.push(from ? [from.node.id, from.slot, settings(from.node)] : resolution?.value ?? null);
  return { inputKey: JSON.stringify(inputs), outputKey: JSON.stringify(produced) };
}

/**
 * Keeps a snapshot for each queued run until the run starts. The host reports starts by an id that
 * the page has not seen before, so runs are matched by their order.
 * @template Snapshot
 * @param {() => Snapshot} takeSnapshot
 * @param {Snapshot[]} [snapshots] of a canvas that this one replaces
 * @param {Snapshot | null} [running]
 */
export function createRunTracker(takeSnapshot, snapshots = [], running = null) {
  let queueLength = 0; // of the host, including the running prompt
  let recorded = false; // since the last run was queued

  return {
    /** A prompt is being put together. */
    record() {
      snapshots = [...snapshots, takeSnapshot()].slice(-MAX_SNAPSHOTS);
      recorded = true;
    },
    /** `count` prompts were queued, at the end or at the front. */
    queued(front, count) {
      if (!recorded) snapshots.push(takeSnapshot()); // this front end did not ask the widget
      recorded = false;
      if (front) snapshots.unshift(...snapshots.splice(-count));
    },
    setQueueLength(remaining) {
      queueLength = remaining;
      if (!remaining) running = null;
    },
    /** A run has started. Drops snapshots of prompts that never entered the queue. */
    started() {
      snapshots = snapshots.slice(-Math.max(1, queueLength));
      running = snapshots.shift() ?? takeSnapshot();
    },
    /** Returns the snapshot of the current run; null if it started before this page was open. */
    current: () => running ?? snapshots.shift() ?? null,
    /** Arguments for the tracker of a canvas that replaces this one. */
    get saved() {
      return [snapshots, running];
    },
  };
}
