/** Registers the point-hint canvas: the widget of string inputs with widgetType COLORIST_HINTS. */

import { api } from "../../../../scripts/api.js";
import { app } from "../../../../scripts/app.js";

import { createHints } from "./widget.js";

const TYPE = "COLORIST_HINTS";
const FIRST_SIZE = [420, 700];

/** Canvases of nodes that are in a graph. */
const canvases = new Set();

/** Nodes that have one. */
const drawn = new WeakSet();

function hintsWidget(node, name, data) {
  const canvas = createHints(node, name, { app, api });
  canvas.editor.load(data?.[1]?.default ?? "");
  const widget = node.addDOMWidget(name, "colorist_hints", canvas.root, {
    getValue: () => canvas.editor.text,
    setValue: (value) => canvas.editor.load(value),
    getMinHeight: canvas.minHeight,
    hideOnZoom: false,
  });
  canvas.widget.current = widget;
  widget.serializeValue = () => {
    canvas.live.note(); // what the run that is being queued will be made of
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
  chain(node, "onExecuted", (output) => canvas.live.executed(output));
  chain(node, "onConnectionsChange", () => canvas.live.lookSoon());
  drawn.add(node);
  return { widget };
}

/** Calls `after` whenever the host calls a method of the node. */
function chain(node, method, after) {
  const before = node[method];
  node[method] = function (...args) {
    const answer = before?.apply(this, args);
    after(...args);
    return answer;
  };
}

/**
 * After an undo Nodes 2.0 keeps the page element of the node that was there before. It is replaced
 * two frames later, when the page has settled.
 */
function replaceStale() {
  for (const { node, widget, canvas } of canvases) {
    const root = canvas.root;
    const name = CSS.escape(widget.name);
    const place = document.querySelector(`[data-node-id="${CSS.escape(String(node.id))}"]`);
    const stale = place?.querySelector(`.colorist-hints[data-widget="${name}"]`);
    if (stale && stale !== root && !root.isConnected) stale.replaceWith(root);
  }
}

app.registerExtension({
  name: "Colorist.PointHints",
  getCustomWidgets: () => ({ [TYPE]: hintsWidget }),
  nodeCreated(node) {
    if (!drawn.has(node)) return;
    const [width, height] = node.size; // a saved node gets its saved size after this
    node.setSize([Math.max(width, FIRST_SIZE[0]), Math.max(height, FIRST_SIZE[1])]);
  },
  afterConfigureGraph() {
    for (const { canvas } of canvases) {
      canvas.recall();
      canvas.live.lookSoon();
    }
    requestAnimationFrame(() => requestAnimationFrame(replaceStale));
  },
});
