/**
 * What a canvas learns from the host: the picture upstream, the last run, the live preview and
 * suggested colours. Nothing here runs by itself: all follows an event of the page or the host.
 */

import {
  RUN_ONCE, controls, createPreview, isLinked, sessionOf, shownPicture, suggestions, upstreamNode,
  viewPath,
} from "./host_bridge.js";
import { createRuns, fitOf } from "./staleness.js";
import { loadImage, makePicture } from "./image_data.js";
import { serialise } from "./state.js";

const LATER = [0, 300, 1500]; // ms after a change upstream: hosts load pictures on their own time
const SUGGEST = 350; // ms without a move
const ASPECT = 0.02; // of a side, by which two pictures of the same photo may differ
const CHANGES = ["graphChanged", "execution_cached", "reconnected"];

/** Execution id of the node that made a session: "5:12" inside a subgraph. */
const makers = new Map();
const MAKERS = 200;

/**
 * @param {any} node
 * @param {string} name of the hints' widget
 * @param {{app: any, api: any}} host
 * @param {ReturnType<import("./editor.js").createEditor>} editor
 */
export function createLive(node, name, { app, api }, editor) {
  let session = null; // of the last run, with `chosen` and `made`: what it was made of
  let keys = { photo: null, reference: null }; // what pictures were made of
  let asked = ""; // last preview request
  let working = false; // the host's queue
  let ordered = 0; // results asked for
  let newest = 0; // the one that is shown
  let place = ""; // where suggestions were asked for
  let suggesting = null;
  let suggestTimer = null;
  let timers = [];
  let connected = false;

  const fetchApi = (route, init) => api.fetchApi(route, init);
  const preview = createPreview({
    fetchApi,
    isHidden: () => document.hidden,
    onPicture: showResult,
    onState(kind, message) {
      if (kind === "gone" && session) session.gone = true;
      if (kind === "offline") asked = ""; // asked again at the next event
      editor.change({ live: { kind, message } });
    },
  });

  const root = () => app.rootGraph ?? node.graph?.rootGraph ?? app.graph;
  const upstream = (input) => {
    const from = node.graph && upstreamNode(node, input, root());
    if (!from) return null;
    return shownPicture(from, root(), app.nodeOutputs) ?? { key: `${from.id}`, loaded: false };
  };
  const fit = () => fitOf(node, root(), app.nodeOutputs);
  const isCurrent = () => {
    if (!session) return false;
    const { chosen, made } = fit();
    return session.chosen === chosen && session.made === made;
  };
  const isLive = () => isCurrent() && !session.gone;

  // --- Pictures ---

  /** Loads what a slot shows when it is not what it shows already. */
  async function show(slot, source) {
    const key = source?.key ?? null;
    if (keys[slot] === key) return;
    keys[slot] = key;
    let picture = null;
    try {
      const image = source && (source.image ?? await loadImage(api.apiURL(viewPath(source.file))));
      if (image && !image.complete) await image.decode();
      picture = image ? makePicture(image) : null;
      if (keys[slot] !== key) return; // a newer one is under way
    } catch {
      if (keys[slot] !== key) return;
      keys[slot] = null; // tried again at the next event
    }
    editor.pictures = { ...editor.pictures, [slot]: picture };
    if (slot === "photo") editor.setView(editor.view);
    if (!editor.pictures[editor.picking]) editor.picking = null;
    editor.change({});
  }

  const hasPicture = (source) => (source?.file || source?.image ? source : null);

  /** The photo: upstream's own where it is just what is sent, else what the last run sent back. */
  function photoSource() {
    const above = upstream("image");
    if (!isCurrent()) return hasPicture(above);
    const { picture } = session;
    if (above?.loaded && !session.odd) return above;
    return picture ? { key: `run ${picture.filename}`, file: picture } : hasPicture(above);
  }

  /** The run's own where the reference shows nothing itself. */
  function referenceSource() {
    const above = upstream("reference");
    const file = above && isCurrent() && session.reference;
    return hasPicture(above) ?? (file ? { key: `run ${file.filename}`, file } : null);
  }

  async function showResult(source) {
    const current = session;
    const mine = ++ordered;
    let bitmap = null;
    try {
      bitmap = source instanceof Blob ? await createImageBitmap(source) : await loadImage(source);
    } catch {
      return;
    }
    const wanted = connected && current === session && mine > newest && isCurrent();
    const picture = wanted && makePicture(bitmap);
    bitmap.close?.();
    if (!picture) return;
    newest = mine;
    editor.change({ pictures: { ...editor.pictures, result: picture } });
  }

  // --- Runs ---

  /** A run of this node is done. */
  function executed(output) {
    const info = sessionOf(output);
    if (!info) return;
    const now = fit();
    const { chosen, told } = runs.current() ?? { chosen: now.chosen, told: "" };
    session = { ...info, chosen, made: now.made, gone: false, odd: false };
    asked = told === content() ? question() : ""; // else the run knew other points
    preview.stop();
    const live = { kind: "ok", message: "" };
    editor.change({ live, resolution: info.resolution || editor.resolution, mode: "result" });
    lookSoon(); // not at once: the node's execution id comes with the event after this call
    if (info.result) showResult(api.apiURL(viewPath(info.result)));
  }

  /** Looks what lies upstream now. */
  function look() {
    if (!connected) return;
    editor.locked = isLinked(node, name);
    show("photo", photoSource()).then(checkAspect);
    show("reference", referenceSource());
    if (!isCurrent()) {
      preview.stop();
      asked = ""; // what is shown goes; asked again should the session fit again
      const pictures = { ...editor.pictures, result: null };
      editor.change({ pictures, live: { kind: "none", message: "" }, suggested: [] });
    }
    ask();
    suggest();
  }

  /** A loader may sit before something that crops: then the run's own picture counts. */
  function checkAspect() {
    const { photo } = editor.pictures;
    if (!photo || !isCurrent() || session.odd) return;
    const off = (photo.width * session.height) / (photo.height * session.width) - 1;
    if (Math.abs(off) <= ASPECT) return;
    session.odd = true;
    show("photo", photoSource());
  }

  function lookSoon() {
    timers.forEach(clearTimeout);
    timers = LATER.map((ms) => setTimeout(look, ms));
  }

  // --- Requests ---

  const nodeId = () => makers.get(session.session) ?? String(node.id);
  const content = () => JSON.stringify([serialise(editor.state.points), controls(node)]);
  const question = () => `${session?.session} ${content()}`;
  const take = () => ({ chosen: fit().chosen, told: content() });
  let runs = createRuns(take);

  /** Asks for a preview when what it would show has changed and somebody looks at it. */
  function ask() {
    if (!isLive() || editor.locked || !editor.state.readable || editor.mode !== "result") return;
    const key = question();
    if (key === asked) return;
    asked = key;
    const hints = serialise(editor.state.points);
    preview.request({ node: nodeId(), session: session.session, hints, controls: controls(node) });
  }

  /** Asks for colours at the selected point, once it rests. */
  function suggest() {
    const point = editor.state.points[editor.state.selected];
    const key = point && isLive() ? `${session.session} ${point.x} ${point.y}` : "";
    if (key === place) return;
    place = key;
    clearTimeout(suggestTimer);
    suggesting?.abort();
    if (editor.suggested.length) editor.change({ suggested: [] });
    if (key) suggestTimer = setTimeout(() => fetchSuggestions(point, key), SUGGEST);
  }

  async function fetchSuggestions({ x, y }, key) {
    if (document.hidden || working || !isLive()) {
      place = ""; // asked again at the next look
      return;
    }
    suggesting = new AbortController();
    const request = { node: nodeId(), session: session.session, x, y };
    const colors = await suggestions(fetchApi, request, suggesting.signal);
    if (key !== place) return;
    if (colors) editor.change({ suggested: colors });
    else place = "";
  }

  // --- Events ---

  function onExecuted(event) {
    const info = sessionOf(event.detail?.output);
    if (info) makers.set(info.session, String(event.detail.node));
    if (makers.size > MAKERS) makers.delete(makers.keys().next().value);
    lookSoon();
  }

  function onQueued(event) {
    const { number, batchCount } = event.detail ?? {};
    runs.queued(number < 0, batchCount ?? 1);
    lookSoon();
  }

  function onStart() {
    runs.started();
  }

  function onStatus(event) {
    const remaining = event.detail?.exec_info?.queue_remaining;
    if (!Number.isFinite(remaining)) return;
    const done = working && !remaining;
    working = remaining > 0;
    runs.length(remaining);
    preview.queue(remaining);
    if (done) lookSoon();
  }

  function onVisible() {
    if (document.hidden) return;
    preview.wake();
    look();
  }

  return {
    executed,
    look,
    lookSoon,
    ask,
    /** The host puts a prompt together. */
    note: () => runs.note(),
    /** Points or selection changed. */
    edited() {
      ask();
      suggest();
    },
    /** What the status line says, or "". */
    message() {
      if (editor.live.message) return editor.live.message;
      if (!editor.pictures.photo) return "Link a photo, or run once to see it";
      return isLive() ? "Live" : RUN_ONCE;
    },
    isLive: () => Boolean(isLive()),
    /** What a canvas that takes this one's place should know. */
    get memory() {
      return { session, kept: runs.kept };
    },
    set memory(value) {
      session = value.session;
      runs = createRuns(take, ...value.kept);
      asked = ""; // the points may be others now
      if (session) editor.resolution = session.resolution || editor.resolution;
    },
    connect() {
      if (connected) return;
      connected = true;
      api.addEventListener("executed", onExecuted);
      api.addEventListener("promptQueued", onQueued);
      api.addEventListener("execution_start", onStart);
      api.addEventListener("status", onStatus);
      CHANGES.forEach((event) => api.addEventListener(event, lookSoon));
      document.addEventListener("visibilitychange", onVisible);
      lookSoon();
    },
    dispose() {
      connected = false;
      api.removeEventListener("executed", onExecuted);
      api.removeEventListener("promptQueued", onQueued);
      api.removeEventListener("execution_start", onStart);
      api.removeEventListener("status", onStatus);
      CHANGES.forEach((event) => api.removeEventListener(event, lookSoon));
      document.removeEventListener("visibilitychange", onVisible);
      timers.forEach(clearTimeout);
      clearTimeout(suggestTimer);
      suggesting?.abort();
      preview.stop();
    },
  };
}
