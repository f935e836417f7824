/** Registers the point-hint canvas: the widget for string inputs with widgetType COLORIST_HINTS. */

import { api } from "../../../../scripts/api.js";
import { app } from "../../../../scripts/app.js";

import { addStyle } from "./dom.js";
import { keepTouchesFromGraph } from "./pointer_input.js";
import { createHintsWidget } from "./widget.js";

const WIDGET_TYPE = "COLORIST_HINTS";
const MIN_NODE_SIZE = [420, 700];

/** Canvases of nodes that are in a graph. */
const canvases = new Set();

/** Nodes with a canvas. */
const canvasNodes = new WeakSet();

function hintsWidget(node, name, data) {
  const canvas = createHintsWidget(node, name, { app, api });
  canvas.editor.load(data?.[1]?.default ?? "");
  const widget = node.addDOMWidget(name, "colorist_hints", canvas.root, {
    getValue: () => canvas.editor.text,
    setValue: (value) => canvas.editor.load(value),
    getMinHeight: canvas.minHeight,
    hideOnZoom: false,
  });
  canvas.widget.current = widget;
  keepEnabled(widget);
  widget.serializeValue = () => {
    canvas.preview.recordPrompt(); // the inputs of the run that is being queued
    return canvas.editor.text;
  };

  chain(node, "onAdded", () => {
    canvases.add({ node, widget, canvas });
    canvas.connect();
  });
  chain(node, "onRemoved", () => {
    for (const entry of canvases) if (entry.canvas === canvas) canvases.delete(entry);
    canvas.dispose();
  });
  chain(node, "onExecuted", (output) => canvas.preview.executed(output));
  chain(node, "onConnectionsChange", () => canvas.preview.refreshSoon());
  canvasNodes.add(node);
  return { widget };
}

/**
 * Keeps the widget on the page while its input is linked: the host hides disabled widgets. The
 * canvas is read-only then.
 */
function keepEnabled(widget) {
  Object.defineProperty(widget, "computedDisabled", { get: () => false, set() {} });
}

/** Calls `after` whenever the host calls a method of the node. */
function chain(node, method, after) {
  const original = node[method];
  node[method] = function (...args) {
    const result = original?.apply(this, args);
    after(...args);
    return result;
  };
}

/**
 * After an undo, Nodes 2.0 keeps showing the DOM element of the removed node. Replaces it by the
 * element of the new node.
 */
function replaceStaleElements() {
  for (const { node, widget, canvas } of canvases) {
    const root = canvas.root;
    const name = CSS.escape(widget.name);
    const container = document.querySelector(`[data-node-id="${CSS.escape(String(node.id))}"]`);
    const stale = container?.querySelector(`.colorist-hints[data-widget="${name}"]`);
    if (stale && stale !== root && !root.isConnected) stale.replaceWith(root);
  }
}

app.registerExtension({
  name: "Colorist.PointHints",
  init() {
    keepTouchesFromGraph();
    return addStyle(); // the host waits, so that no canvas appears without its style
  },
  getCustomWidgets: () => ({ [WIDGET_TYPE]: hintsWidget }),
  nodeCreated(node) {
    if (!canvasNodes.has(node)) return;
    const [width, height] = node.size; // nodes of a saved workflow get their saved size later
    node.setSize([Math.max(width, MIN_NODE_SIZE[0]), Math.max(height, MIN_NODE_SIZE[1])]);
  },
  afterConfigureGraph() {
    for (const { canvas } of canvases) {
      canvas.restore();
      canvas.preview.refreshSoon();
    }
    // two frames later the page has settled
    requestAnimationFrame(() => requestAnimationFrame(() => {
      replaceStaleElements();
      for (const { canvas } of canvases) canvas.restoreFocus();
    }));
  },
});
