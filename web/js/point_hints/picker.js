/** Colour chooser of the point-hint canvas: ab plane, hex, swatches, size, eyedropper. */

import {
  abToPlane, gamutScale, hexToLab, labToHex, neutral, parseHex, planeExtent, planeRaster, planeToAb,
  shownColor,
} from "./color.js";
import { button, el, setText } from "./dom.js";
import * as state from "./state.js";

const SIDE = 120; // CSS pixels of the plane
const FINE = 2; // raster pixels per CSS pixel
const SOURCES = { photo: "Photo", result: "Result", reference: "Reference" };

/**
 * @param {ReturnType<import("./editor.js").createEditor>} editor
 * @param {() => void} focusBoard
 */
export function createPicker(editor, focusBoard) {
  let extent = 100;
  let drawn = ""; // what the plane's raster shows
  let raster = null;

  // --- Plane ---

  const plane = el("canvas", {
    class: "plane", width: SIDE * FINE, height: SIDE * FINE, tabIndex: 0, role: "slider",
    "aria-label": "Hue and chroma", title: "Hue and chroma that can be shown at this lightness",
    "aria-valuemin": "0", "aria-valuemax": "360",
  });
  const context = plane.getContext("2d");

  function drawPlane() {
    const L = Math.round(editor.planeL());
    const { color } = editor.state;
    const key = `${L} ${color}`;
    if (key === drawn) return;
    if (!drawn.startsWith(`${L} `)) {
      extent = planeExtent(L);
      raster = new ImageData(planeRaster(L, SIDE * FINE, extent), SIDE * FINE, SIDE * FINE);
    }
    drawn = key;
    context.putImageData(raster, 0, 0);
    const middle = (SIDE * FINE) / 2;
    context.strokeStyle = "#8888";
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(middle, 0);
    context.lineTo(middle, 2 * middle);
    context.moveTo(0, middle);
    context.lineTo(2 * middle, middle);
    context.stroke();
    const [, a, b] = hexToLab(color);
    const t = gamutScale(L, a, b);
    const [u, v] = abToPlane(t * a, t * b, extent).map((part) => part * SIDE * FINE);
    for (const [radius, style] of [[12, "#000"], [10, "#fff"], [7, shownColor(color, L)]]) {
      context.fillStyle = style;
      context.beginPath();
      context.arc(u, v, radius, 0, 2 * Math.PI);
      context.fill();
    }
    const hue = Math.round(((Math.atan2(b, a) * 180) / Math.PI + 360) % 360);
    const chroma = Math.round(Math.hypot(a, b));
    plane.setAttribute("aria-valuenow", String(hue));
    plane.setAttribute("aria-valuetext", `${color}, hue ${hue} degrees, chroma ${chroma}`);
  }

  function planeAt(event) {
    const rect = plane.getBoundingClientRect();
    const u = (event.clientX - rect.left) / rect.width;
    const v = (event.clientY - rect.top) / rect.height;
    setAb(...planeToAb(u, v, extent));
  }

  function setAb(a, b) {
    const L = editor.planeL();
    const t = gamutScale(L, a, b);
    editor.apply(state.recolor(editor.state, labToHex(L, t * a, t * b)));
  }

  let dragging = false;
  plane.addEventListener("pointerdown", (event) => {
    event.stopPropagation();
    if (event.button !== 0) return;
    dragging = true;
    plane.setPointerCapture(event.pointerId);
    editor.apply(state.begin(editor.state));
    planeAt(event);
  });
  plane.addEventListener("pointermove", (event) => {
    event.stopPropagation();
    if (dragging) planeAt(event);
  });
  const endDrag = (event) => {
    event.stopPropagation();
    if (!dragging) return;
    dragging = false;
    done();
  };
  for (const type of ["pointerup", "pointercancel", "lostpointercapture"]) {
    plane.addEventListener(type, endDrag);
  }
  plane.addEventListener("keydown", (event) => {
    const step = { ArrowLeft: [-1, 0], ArrowRight: [1, 0], ArrowUp: [0, 1], ArrowDown: [0, -1] }[
      event.key
    ];
    if (!step || event.ctrlKey || event.metaKey) return;
    event.preventDefault();
    event.stopPropagation();
    const [, a, b] = hexToLab(editor.state.color);
    const size = event.shiftKey ? 10 : 2;
    setAb(a + step[0] * size, b + step[1] * size);
  });
  plane.addEventListener("blur", () => editor.remember(editor.state.color));

  function done() {
    editor.apply(state.finish(editor.state));
    editor.remember(editor.state.color);
  }

  // --- Fields ---

  const swatch = el("span", { class: "swatch big", title: "How it looks there" });
  const hex = el("input", {
    class: "hex", type: "text", spellcheck: false, maxLength: 9, "aria-label": "Colour as hex",
    title: "Colour as hex; only hue and chroma count",
  });
  hex.addEventListener("change", () => {
    const color = parseHex(hex.value);
    if (color) editor.choose(color);
    else editor.say("A colour is #rrggbb");
    hex.value = editor.state.color;
  });
  const gray = button("neutral", "Neutral grey", () => editor.choose(neutral(editor.state.color)));
  const dropper = button("pick", "Pick a colour from a picture (I)", () => {
    if (editor.picking) editor.change({ picking: null });
    else editor.startPicking();
    focusBoard();
  });
  const remove = button("remove", "Remove the point (Delete)", () => {
    editor.apply(state.remove(editor.state, editor.state.selected));
  });

  const size = el("input", {
    type: "range", min: state.SMALLEST, max: 32, step: 1, class: "size",
    "aria-label": "Point size", title: "Size in pixels of the network's working image",
  });
  const sizeShown = el("span", { class: "value" });
  size.addEventListener("input", () => {
    editor.apply(state.resize(state.begin(editor.state), Number(size.value)));
  });
  size.addEventListener("change", () => editor.apply(state.finish(editor.state)));

  // --- Swatches ---

  const suggested = el("div", { class: "swatches", dataset: { list: "suggested" } });
  const recent = el("div", { class: "swatches", dataset: { list: "recent" } });

  function fill(list, colors, what) {
    const key = colors.join();
    if (list.dataset.colors === key) return;
    list.dataset.colors = key;
    list.replaceChildren(...colors.map((color) => {
      const one = button("swatch", `${what} ${color}`, () => editor.choose(color), "");
      one.className = "swatch";
      one.dataset.color = color;
      one.style.background = color;
      return one;
    }));
  }

  // --- Eyedropper ---

  const sources = Object.entries(SOURCES).map(([name, word]) => {
    const one = button(`pick-${name}`, `Pick from the ${name}`, () => {
      editor.change({ picking: name });
      focusBoard();
    }, word);
    return one;
  });
  const cancel = button("pick-cancel", "Leave the eyedropper (Escape)", () => {
    editor.change({ picking: null });
  }, "Cancel");
  const segments = el("div", { class: "segments" }, ...sources);
  const pickRow = el("div", { class: "row pick" }, segments, cancel);

  const label = (text, ...rest) =>
    el("div", { class: "row" }, el("span", { class: "label" }, text), ...rest);
  const suggestedRow = label("Likely", suggested);
  const element = el("div", { class: "panel picker" }, plane, el("div", { class: "fields" },
    el("div", { class: "row" }, swatch, hex, gray, dropper, remove),
    label("Size", size, sizeShown), suggestedRow, label("Recent", recent), pickRow,
  ));

  return {
    element,
    update() {
      element.hidden = editor.panel !== "color";
      if (element.hidden) return;
      const { state: now } = editor;
      const chosen = now.points[now.selected];
      drawPlane();
      swatch.style.background = shownColor(now.color, editor.planeL());
      if (document.activeElement !== hex) hex.value = now.color;
      size.max = String(Math.max(32, now.size));
      size.value = String(now.size);
      setText(sizeShown, String(now.size));
      remove.disabled = !chosen || editor.locked;
      dropper.setAttribute("aria-pressed", String(Boolean(editor.picking)));
      dropper.disabled = !editor.canPick();
      fill(suggested, editor.suggested, "Likely colour");
      fill(recent, editor.recent, "Recent colour");
      suggestedRow.hidden = Boolean(editor.picking) || !editor.suggested.length;
      pickRow.hidden = !editor.picking;
      sources.forEach((one, index) => {
        const name = Object.keys(SOURCES)[index];
        one.disabled = !editor.pictures[name];
        one.setAttribute("aria-pressed", String(editor.picking === name));
      });
    },
  };
}
