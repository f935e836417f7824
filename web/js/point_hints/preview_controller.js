/**
 * Keeps a canvas up to date with the host: upstream images, the last run, live previews and color
 * suggestions. It never polls; everything follows an event of the page or the host.
 */

import {
  RUN_ONCE_MESSAGE, controls, createPreviewClient, displayedImage, fetchSuggestions, isLinked,
  promotedWidget, sessionOf, upstreamNode, viewPath, watchWidgets,
} from "./host_bridge.js";
import { createRunTracker, dependencyKeys, upstreamNodes } from "./staleness.js";
import { createCanvasImage, loadImage } from "./image_data.js";
import { isHints, serialize } from "./state.js";

const REFRESH_DELAYS = [0, 300, 1500]; // ms; hosts load upstream images at unknown times
const SUGGESTION_DELAY = 350; // ms without a change
const ASPECT_TOLERANCE = 0.02; // relative difference of aspect ratios of the same photo
const REFRESH_EVENTS = ["graphChanged", "execution_cached", "reconnected"];

/** Session -> execution id of its node, such as "5:12" inside a subgraph. */
const executionIds = new Map();
const MAX_EXECUTION_IDS = 200;

/**
 * @param {any} node
 * @param {string} name of the hints widget
 * @param {{app: any, api: any}} host
 * @param {ReturnType<typeof import("./editor.js").createEditor>} editor
 */
export function createPreviewController(node, name, { app, api }, editor) {
  let session = null; // of the last run, with its inputKey and outputKey
  const imageKeys = { photo: null, reference: null }; // of the images that are shown or loading
  let lastRequest = ""; // key of the last preview request
  let queueBusy = false;
  let loadCount = 0; // results requested
  let displayedLoad = 0; // number of the result that is shown
  let suggestionKey = ""; // of the last suggestion request
  let suggestionAbort = null;
  let suggestionTimer = null;
  let refreshTimers = [];
  let connected = false;
  const watched = new Map(); // node above -> function that stops watching it

  const fetchApi = (route, init) => api.fetchApi(route, init);
  const client = createPreviewClient({
    fetchApi,
    isHidden: () => document.hidden,
    onImage: showResult,
    onStatus(kind, message) {
      if (kind === "gone" && session) session.gone = true;
      if (kind === "offline") lastRequest = ""; // retry at the next event
      editor.change({ previewStatus: { kind, message } });
    },
  });

  const root = () => app.rootGraph ?? node.graph?.rootGraph ?? app.graph;
  const upstream = (input) => {
    const from = node.graph && upstreamNode(node, input, root());
    if (!from) return null;
    return displayedImage(from, root(), app.nodeOutputs) ?? { key: `${from.id}`, isInput: false };
  };
  const currentKeys = () => dependencyKeys(node, root(), app.nodeOutputs);
  const isCurrent = () => {
    if (!session) return false;
    const { inputKey, outputKey } = currentKeys();
    return session.inputKey === inputKey && session.outputKey === outputKey;
  };
  const isLive = () => isCurrent() && !session.gone;

  // --- Images ---

  /** Loads the image of a slot if it has changed. */
  async function show(slot, source) {
    const key = source?.key ?? null;
    if (imageKeys[slot] === key) return;
    imageKeys[slot] = key;
    let canvasImage = null;
    try {
      const image = source && (source.image ?? await loadImage(api.apiURL(viewPath(source.file))));
      if (image && !image.complete) await image.decode();
      canvasImage = image ? createCanvasImage(image) : null;
      if (imageKeys[slot] !== key) return; // a newer image is loading
    } catch {
      if (imageKeys[slot] !== key) return;
      imageKeys[slot] = null; // retry at the next event
    }
    if (canvasImage) canvasImage.key = key;
    editor.images = { ...editor.images, [slot]: canvasImage };
    if (slot === "photo") editor.setView(editor.view);
    if (!editor.images[editor.picking]) editor.picking = null;
    editor.change({});
  }

  const ifLoadable = (source) => (source?.file || source?.image ? source : null);

  /** Returns the upstream image if it is what the node receives, else the one of the last run. */
  function photoSource() {
    const above = upstream("image");
    if (!isCurrent()) return ifLoadable(above);
    const { photo } = session;
    if (above?.isInput && !session.differs) return above;
    return photo ? { key: `run ${photo.filename}`, file: photo } : ifLoadable(above);
  }

  /** Returns the upstream reference, else the one of the last run. */
  function referenceSource() {
    const above = upstream("reference");
    const file = above && isCurrent() && session.reference;
    return ifLoadable(above) ?? (file ? { key: `run ${file.filename}`, file } : null);
  }

  async function showResult(source) {
    const requestedBy = session;
    const number = ++loadCount;
    let bitmap = null;
    try {
      bitmap = source instanceof Blob ? await createImageBitmap(source) : await loadImage(source);
    } catch {
      return;
    }
    const wanted = connected && requestedBy === session && number > displayedLoad && isCurrent();
    const result = wanted && createCanvasImage(bitmap);
    bitmap.close?.();
    if (!result) return;
    displayedLoad = number;
    editor.change({ images: { ...editor.images, result } });
  }

  // --- Runs ---

  /** A run of this node has finished. */
  function executed(output) {
    const info = sessionOf(output);
    if (!info) return;
    const keys = currentKeys();
    const snapshot = runs.current() ?? { inputKey: keys.inputKey, content: "" };
    const { outputKey } = keys;
    session = { ...info, inputKey: snapshot.inputKey, outputKey, gone: false, differs: false };
    // otherwise the points have changed since the run was queued
    lastRequest = snapshot.content === requestContent() ? requestKey() : "";
    client.stop();
    const previewStatus = { kind: "ok", message: "" };
    editor.change({
      previewStatus, resolution: info.resolution || editor.resolution, mode: "result",
    });
    refreshSoon(); // not at once: the execution id of the node comes with a later event
    if (info.result) showResult(api.apiURL(viewPath(info.result)));
  }

  /** Compares the canvas with the current graph. */
  function refresh() {
    if (!connected) return;
    editor.link(isLinked(node, name) ? linkedHints() : null);
    watchUpstream();
    show("photo", photoSource()).then(checkAspect);
    show("reference", referenceSource());
    if (!isCurrent()) {
      client.stop();
      lastRequest = ""; // the result disappears; request it again if the session matches again
      const images = { ...editor.images, result: null };
      editor.change({ images, previewStatus: { kind: "none", message: "" }, suggested: [] });
    }
    request();
    requestSuggestions();
    editor.change({});
  }

  /** Returns the hints of the connected input, if a node shows them or a run reported them. */
  function linkedHints() {
    const source = upstreamNode(node, name, root());
    const widgets = source?.widgets ?? [promotedWidget(node, name, root())].filter(Boolean);
    const values = widgets.map(({ value }) => value);
    const shown = values.find((value) => typeof value === "string" && isHints(value));
    return shown ?? (isCurrent() && session.hints) ?? "";
  }

  /** Refreshes the canvas when a widget changes that a photo or a setting above comes from. */
  function watchUpstream() {
    const above = node.graph ? upstreamNodes(node, root(), app.nodeOutputs, name) : [];
    for (const [other, unwatch] of watched) {
      if (above.includes(other)) continue;
      unwatch();
      watched.delete(other);
    }
    for (const other of above) {
      if (watched.has(other)) continue;
      watched.set(other, watchWidgets(other.widgets ?? [], refreshSoon));
    }
  }

  /** Switches to the image of the run if the upstream image is cropped before it reaches us. */
  function checkAspect() {
    const { photo } = editor.images;
    if (!photo || !isCurrent() || session.differs) return;
    const deviation = (photo.width * session.height) / (photo.height * session.width) - 1;
    if (Math.abs(deviation) <= ASPECT_TOLERANCE) return;
    session.differs = true;
    show("photo", photoSource());
  }

  function refreshSoon() {
    refreshTimers.forEach(clearTimeout);
    refreshTimers = REFRESH_DELAYS.map((ms) => setTimeout(refresh, ms));
  }

  // --- Requests ---

  const executionId = () => executionIds.get(session.session) ?? String(node.id);
  const requestContent = () => JSON.stringify([serialize(editor.state.points), controls(node)]);
  const requestKey = () => `${session?.session} ${requestContent()}`;
  const snapshot = () => ({ inputKey: currentKeys().inputKey, content: requestContent() });
  let runs = createRunTracker(snapshot);

  /** Requests a preview if it would differ from the last one and is visible. */
  function request() {
    if (!isLive() || editor.readOnly || editor.mode !== "result") return;
    const key = requestKey();
    if (key === lastRequest) return;
    lastRequest = key;
    client.request({
      node: executionId(), session: session.session, hints: serialize(editor.state.points),
      controls: controls(node),
    });
  }

  /** Requests colors for the selected point once it has stopped moving. */
  function requestSuggestions() {
    const point = editor.state.points[editor.state.selected];
    const key = point && isLive() ? `${session.session} ${point.x} ${point.y}` : "";
    if (key === suggestionKey) return;
    suggestionKey = key;
    clearTimeout(suggestionTimer);
    suggestionAbort?.abort();
    if (editor.suggested.length) editor.change({ suggested: [] });
    if (key) suggestionTimer = setTimeout(() => loadSuggestions(point, key), SUGGESTION_DELAY);
  }

  async function loadSuggestions({ x, y }, key) {
    if (document.hidden || queueBusy || !isLive()) {
      suggestionKey = ""; // retry at the next refresh
      return;
    }
    suggestionAbort = new AbortController();
    const body = { node: executionId(), session: session.session, x, y };
    const colors = await fetchSuggestions(fetchApi, body, suggestionAbort.signal);
    if (key !== suggestionKey) return;
    if (colors) editor.change({ suggested: colors });
    else suggestionKey = "";
  }

  // --- Events ---

  function onExecuted(event) {
    const info = sessionOf(event.detail?.output);
    if (info) executionIds.set(info.session, String(event.detail.node));
    const [oldest] = executionIds.keys();
    if (executionIds.size > MAX_EXECUTION_IDS) executionIds.delete(oldest);
    refreshSoon();
  }

  function onQueued(event) {
    const { number, batchCount } = event.detail ?? {};
    runs.queued(number < 0, batchCount ?? 1);
    refreshSoon();
  }

  function onStart() {
    runs.started();
  }

  function onStatus(event) {
    const remaining = event.detail?.exec_info?.queue_remaining;
    if (!Number.isFinite(remaining)) return;
    const finished = queueBusy && !remaining;
    queueBusy = remaining > 0;
    runs.setQueueLength(remaining);
    client.setQueueLength(remaining);
    if (finished) refreshSoon();
  }

  function onVisible() {
    if (document.hidden) return;
    client.wake();
    refresh();
  }

  return {
    executed,
    refresh,
    refreshSoon,
    request,
    /** The host is putting a prompt together. */
    recordPrompt: () => runs.record(),
    /** The points or the selection have changed. */
    edited() {
      request();
      requestSuggestions();
    },
    /** Returns the text for the status line, or "". */
    message() {
      if (editor.previewStatus.message) return editor.previewStatus.message;
      if (!editor.images.photo) return "Connect a photo, or run once to see it";
      return isLive() ? "Live" : RUN_ONCE_MESSAGE;
    },
    isLive: () => Boolean(isLive()),
    /** State for the canvas that replaces this one. */
    get saved() {
      return { session, runs: runs.saved };
    },
    set saved(value) {
      session = value.session;
      for (const slot of Object.keys(imageKeys)) {
        imageKeys[slot] = editor.images[slot]?.key ?? null;
      }
      runs = createRunTracker(snapshot, ...value.runs);
      lastRequest = ""; // the points may have changed
      if (session) editor.resolution = session.resolution || editor.resolution;
    },
    connect() {
      if (connected) return;
      connected = true;
      api.addEventListener("executed", onExecuted);
      api.addEventListener("promptQueued", onQueued);
      api.addEventListener("execution_start", onStart);
      api.addEventListener("status", onStatus);
      REFRESH_EVENTS.forEach((event) => api.addEventListener(event, refreshSoon));
      document.addEventListener("visibilitychange", onVisible);
      refreshSoon();
    },
    dispose() {
      connected = false;
      api.removeEventListener("executed", onExecuted);
      api.removeEventListener("promptQueued", onQueued);
      api.removeEventListener("execution_start", onStart);
      api.removeEventListener("status", onStatus);
      REFRESH_EVENTS.forEach((event) => api.removeEventListener(event, refreshSoon));
      document.removeEventListener("visibilitychange", onVisible);
      refreshTimers.forEach(clearTimeout);
      clearTimeout(suggestionTimer);
      suggestionAbort?.abort();
      client.stop();
      watched.forEach((unwatch) => unwatch());
      watched.clear();
    },
  };
}
