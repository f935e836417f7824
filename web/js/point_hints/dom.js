/** Builders of page elements for the point-hint canvas, and its icons. */

const SVG = "http://www.w3.org/2000/svg";

/** Path data in a 16 x 16 view box, stroked; paths with a leading "!" are filled instead. */
const ICONS = {
  undo: ["M5.5 3.5 2.5 6.5l3 3", "M2.5 6.5h6.8a3.7 3.7 0 0 1 0 7.4H6"],
  redo: ["M10.5 3.5l3 3-3 3", "M13.5 6.5H6.7a3.7 3.7 0 0 0 0 7.4H10"],
  zoomOut: ["M3 8h10"],
  zoomIn: ["M8 3v10", "M3 8h10"],
  fit: ["M2.5 6V2.5H6", "M10 2.5h3.5V6", "M13.5 10v3.5H10", "M6 13.5H2.5V10"],
  compare: ["M2.5 3h11v10h-11z", "!M8 3h5.5v10H8z"],
  points: ["M8 14.2S3.7 9.9 3.7 6.5a4.3 4.3 0 0 1 8.6 0C12.3 9.9 8 14.2 8 14.2z",
    "!M8 8.2a1.7 1.7 0 1 0 0-3.4 1.7 1.7 0 0 0 0 3.4z"],
  color: ["M8 2s4.5 4.7 4.5 7.7a4.5 4.5 0 0 1-9 0C3.5 6.7 8 2 8 2z"],
  more: ["!M3.5 9.3a1.3 1.3 0 1 0 0-2.6 1.3 1.3 0 0 0 0 2.6z",
    "!M8 9.3a1.3 1.3 0 1 0 0-2.6 1.3 1.3 0 0 0 0 2.6z",
    "!M12.5 9.3a1.3 1.3 0 1 0 0-2.6 1.3 1.3 0 0 0 0 2.6z"],
  remove: ["M2.8 4.5h10.4", "M6 4.5V2.8h4v1.7", "M4.3 4.5l.6 8.7h6.2l.6-8.7", "M6.8 7v3.8",
    "M9.2 7v3.8"],
  pick: ["M3 13l.7-2.7 5.4-5.4 2 2-5.4 5.4z", "M8.3 4.1l3.6 3.6",
    "M10.2 5.8 12 4a1.7 1.7 0 0 0 0-2.2v0a1.7 1.7 0 0 0-2.2 0L8.1 3.6"],
  neutral: ["M8 2.5a5.5 5.5 0 1 0 0 11 5.5 5.5 0 0 0 0-11z", "!M8 2.5a5.5 5.5 0 0 0 0 11z"],
};

/**
 * Creates an element. `class`, `dataset`, `role` and names with a hyphen become attributes; all
 * other keys, such as `onclick`, become properties.
 * @param {string} tag
 * @param {Record<string, any>} [props]
 * @param {...(Node | string)} children
 * @returns {any}
 */
export function el(tag, props = {}, ...children) {
  const element = document.createElement(tag);
  for (const [key, value] of Object.entries(props)) {
    if (key === "class") element.className = value;
    else if (key === "dataset") Object.assign(element.dataset, value);
    else if (key.includes("-") || key === "role") element.setAttribute(key, value);
    else element[key] = value;
  }
  element.append(...children);
  return element;
}

/** @param {keyof typeof ICONS} name */
export function icon(name) {
  const svg = document.createElementNS(SVG, "svg");
  svg.setAttribute("viewBox", "0 0 16 16");
  svg.setAttribute("aria-hidden", "true");
  for (const line of ICONS[name]) {
    const path = document.createElementNS(SVG, "path");
    path.setAttribute("d", line.replace("!", ""));
    if (line[0] === "!") path.setAttribute("class", "fill");
    svg.append(path);
  }
  return svg;
}

/**
 * Creates a button with an icon or a text label.
 * @param {string} action value of data-action, for style and tests
 * @param {string} title tooltip and accessible name
 * @param {() => void} onclick
 * @param {string} [label] shown instead of the icon
 * @returns {HTMLButtonElement}
 */
export function button(action, title, onclick, label) {
  const props = { type: "button", title, dataset: { action }, "aria-label": title, onclick };
  return el("button", props, label ?? icon(action));
}

/** Sets the text of an element if it differs, so that screen readers do not repeat it. */
export function setText(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/**
 * Adds the style sheet to the page.
 * @returns {Promise<void>} resolves once it applies, or cannot be loaded
 */
export function addStyle() {
  const href = new URL("./point_hints.css", import.meta.url).href;
  return new Promise((resolve) => {
    document.head.append(
      el("link", { rel: "stylesheet", href, onload: () => resolve(), onerror: () => resolve() }),
    );
  });
}
