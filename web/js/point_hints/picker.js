/** Color picker of the point-hint canvas: ab plane, hex, swatches, size, eyedropper. */

import {
  abToPlane, gamutScale, hexToLab, labToHex, neutral, parseColor, parseHex, planeExtent,
  planeRaster, planeToAb, shownColor,
} from "./color.js";
import { button, el, setText } from "./dom.js";
import * as state from "./state.js";

const RASTER_SIDE = 240; // pixels of the ab plane, at 2 per CSS pixel
const SOURCES = { photo: "Photo", result: "Result", reference: "Reference" };

/**
 * @param {ReturnType<typeof import("./editor.js").createEditor>} editor
 * @param {() => void} focusViewport
 */
export function createPicker(editor, focusViewport) {
  let extent = 100;
  let drawnKey = ""; // lightness and color that the plane shows
  let raster = null;

  // --- Plane ---

  const plane = el("canvas", {
    class: "plane", width: RASTER_SIDE, height: RASTER_SIDE, tabIndex: 0, role: "slider",
    "aria-label": "Hue and chroma",
    title: "Hue and chroma; shows the colors that exist at this lightness",
    "aria-valuemin": "0", "aria-valuemax": "360",
  });
  const context = plane.getContext("2d");

  function drawPlane() {
    const L = Math.round(editor.planeLightness());
    const { color } = editor.state;
    const key = `${L} ${color}`;
    if (key === drawnKey) return;
    if (!drawnKey.startsWith(`${L} `)) {
      extent = planeExtent(L);
      raster = new ImageData(planeRaster(L, RASTER_SIDE, extent), RASTER_SIDE, RASTER_SIDE);
    }
    drawnKey = key;
    context.putImageData(raster, 0, 0);
    const center = RASTER_SIDE / 2;
    context.strokeStyle = "#8888";
    context.lineWidth = 1;
    context.beginPath();
    context.moveTo(center, 0);
    context.lineTo(center, 2 * center);
    context.moveTo(0, center);
    context.lineTo(2 * center, center);
    context.stroke();
    const [, a, b] = hexToLab(color);
    const t = gamutScale(L, a, b);
    const [u, v] = abToPlane(t * a, t * b, extent).map((part) => part * RASTER_SIDE);
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
    const L = editor.planeLightness();
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
    finishEdit();
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
    editor.apply(state.begin(editor.state)); // a held key is one undo step
    setAb(a + step[0] * size, b + step[1] * size);
  });
  plane.addEventListener("keyup", () => editor.apply(state.finish(editor.state)));
  plane.addEventListener("blur", finishEdit);

  function finishEdit() {
    editor.apply(state.finish(editor.state));
    editor.addRecent(editor.state.color);
  }

  // --- Fields ---

  const swatch = el("span", { class: "swatch big", title: "Color at the lightness of the photo" });
  const hex = el("input", {
    class: "hex", type: "text", spellcheck: false, maxLength: 24, "aria-label": "Color as hex",
    title: "Color as hex or CSS name; only hue and chroma are used",
  });
  hex.addEventListener("change", () => {
    const color = parseColor(hex.value.trim()) ?? parseHex(hex.value);
    if (color) editor.setColor(color);
    else editor.notify("Enter a color as #rrggbb or a CSS name");
    hex.value = editor.state.color;
  });
  const gray = button("neutral", "Neutral gray", () => {
    editor.setColor(neutral(editor.state.color));
  });
  const eyedropper = button("pick", "Pick a color from an image (I)", () => {
    if (editor.picking) editor.change({ picking: null });
    else editor.startPicking();
    focusViewport();
  });
  const remove = button("remove", "Remove the point (Delete)", () => {
    editor.remove(editor.state.selected);
  });

  const size = el("input", {
    type: "range", min: state.MIN_SIZE, max: 32, step: 1, class: "size",
    "aria-label": "Point size", title: "Size in pixels of the working image",
  });
  const sizeValue = el("span", { class: "value" });
  size.addEventListener("input", () => {
    editor.apply(state.resize(state.begin(editor.state), Number(size.value)));
  });
  size.addEventListener("change", () => editor.apply(state.finish(editor.state)));

  // --- Swatches ---

  const suggested = el("div", { class: "swatches", dataset: { list: "suggested" } });
  const recent = el("div", { class: "swatches", dataset: { list: "recent" } });

  function fill(list, colors, label) {
    const key = colors.join();
    if (list.dataset.colors === key) return;
    list.dataset.colors = key;
    list.replaceChildren(...colors.map((color) => {
      const element = button("swatch", `${label} ${color}`, () => editor.setColor(color), "");
      element.className = "swatch";
      element.dataset.color = color;
      element.style.background = color;
      return element;
    }));
  }

  // --- Eyedropper ---

  const sources = Object.entries(SOURCES).map(([name, word]) => {
    const pick = () => {
      editor.change({ picking: name });
      focusViewport();
    };
    return button(`pick-${name}`, `Pick from the ${name}`, pick, word);
  });
  const cancel = button("pick-cancel", "Close the eyedropper (Escape)", () => {
    editor.change({ picking: null });
  }, "Cancel");
  const segments = el("div", { class: "segments" }, ...sources);
  const pickRow = el("div", { class: "row pick" }, segments, cancel);

  const label = (text, ...rest) =>
    el("div", { class: "row" }, el("span", { class: "label" }, text), ...rest);
  const suggestedRow = label("Likely", suggested);
  const element = el("div", { class: "panel picker" }, plane, el("div", { class: "fields" },
    el("div", { class: "row" }, swatch, hex, gray, eyedropper, remove),
    label("Size", size, sizeValue), suggestedRow, label("Recent", recent), pickRow,
  ));

  return {
    element,
    update() {
      element.hidden = editor.panel !== "color";
      if (element.hidden) return;
      const { state: current } = editor;
      const selected = current.points[current.selected];
      drawPlane();
      swatch.style.background = shownColor(current.color, editor.planeLightness());
      if (document.activeElement !== hex) hex.value = current.color;
      size.max = String(Math.max(32, current.size));
      size.value = String(current.size);
      setText(sizeValue, String(current.size));
      remove.disabled = !selected || editor.readOnly;
      eyedropper.setAttribute("aria-pressed", String(Boolean(editor.picking)));
      eyedropper.disabled = !editor.canPick();
      fill(suggested, editor.suggested, "Likely color");
      fill(recent, editor.recent, "Recent color");
      suggestedRow.hidden = Boolean(editor.picking) || !editor.suggested.length;
      pickRow.hidden = !editor.picking;
      sources.forEach((source, index) => {
        const name = Object.keys(SOURCES)[index];
        source.disabled = !editor.images[name];
        source.setAttribute("aria-pressed", String(editor.picking === name));
      });
    },
  };
}
