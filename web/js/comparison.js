/** Shows photo and result of Colorize Photo in the node, with a slider between them. */

import { api } from "../../../scripts/api.js";
import { app } from "../../../scripts/app.js";

const NODE = "ColoristPhoto";
const STYLES = `
.colorist-comparison { display: flex; flex-direction: column; gap: 4px; width: 100%; height: 100%;
  min-height: 0; box-sizing: border-box; color: var(--input-text, #ddd); font-size: 12px; }
.colorist-comparison-images { position: relative; flex: 1; min-height: 0; overflow: hidden;
  touch-action: none; cursor: ew-resize; background: var(--comfy-input-bg, #222); }
.colorist-comparison-images img { position: absolute; inset: 0; width: 100%; height: 100%;
  object-fit: contain; user-select: none; pointer-events: none; }
.colorist-comparison-line { position: absolute; top: 0; bottom: 0; width: 2px; margin-left: -1px;
  background: #fff; box-shadow: 0 0 3px #000; pointer-events: none; }
.colorist-comparison-empty { position: absolute; inset: 0; display: grid; place-items: center;
  padding: 8px; text-align: center; }
.colorist-comparison-bar { display: flex; gap: 6px; align-items: center; }
.colorist-comparison-bar input { flex: 1; min-width: 0; }
.colorist-comparison [hidden] { display: none; }
`;

function element(tag, properties = {}, children = []) {
  const created = Object.assign(document.createElement(tag), properties);
  created.append(...children);
  return created;
}

/** Creates the widget's element; `show(files)` displays the two images of a run. */
function createComparison() {
  const before = element("img", { alt: "photo", hidden: true, draggable: false });
  const after = element("img", { alt: "colorized photo", hidden: true, draggable: false });
  const line = element("div", { className: "colorist-comparison-line", hidden: true });
  const empty = element("div", {
    className: "colorist-comparison-empty",
    textContent: "Run the workflow to see photo and result.",
  });
  const images = element("div", { className: "colorist-comparison-images" }, [
    after,
    before,
    line,
    empty,
  ]);
  const slider = element("input", { type: "range", min: 0, max: 100, value: 50, disabled: true });
  slider.setAttribute("aria-label", "share of the original photo");
  const share = element("button", {
    type: "button",
    textContent: "Side by side",
    title: "Save photo and result side by side",
    disabled: true,
  });
  const bar = element("div", { className: "colorist-comparison-bar" }, [slider, share]);
  const root = element("div", { className: "colorist-comparison" }, [
    element("style", { textContent: STYLES }),
    images,
    bar,
  ]);

  /** Left and width of the displayed image, as fractions of the area. */
  function imageSpan() {
    const { naturalWidth: w, naturalHeight: h } = after;
    const { clientWidth: width, clientHeight: height } = images;
    if (!w || !width) return [0, 1];
    const shown = Math.min(width, (height * w) / h) / width;
    return [(1 - shown) / 2, shown];
  }

  function place() {
    const [left, width] = imageSpan();
    const position = 100 * (left + (width * slider.value) / 100);
    before.style.clipPath = `inset(0 ${100 - position}% 0 0)`;
    line.style.left = `${position}%`;
  }

  function drag(event) {
    if (event.buttons !== 1 || slider.disabled) return;
    const box = images.getBoundingClientRect();
    const [left, width] = imageSpan();
    const position = (event.clientX - box.left) / box.width;
    slider.value = Math.round((100 * (position - left)) / width);
    place();
    event.preventDefault();
    event.stopPropagation();
  }

  images.addEventListener("pointerdown", (event) => {
    if (event.button === 0) images.setPointerCapture(event.pointerId);
    drag(event);
  });
  images.addEventListener("pointermove", drag);
  slider.addEventListener("input", place);
  for (const type of ["pointerdown", "pointermove"]) {
    bar.addEventListener(type, (event) => event.stopPropagation()); // the host would move the node
  }
  after.addEventListener("load", place);
  share.addEventListener("click", () => {
    const [w, h] = [after.naturalWidth, after.naturalHeight];
    const canvas = element("canvas", { width: 2 * w, height: h });
    canvas.getContext("2d").drawImage(before, 0, 0, w, h);
    canvas.getContext("2d").drawImage(after, w, 0, w, h);
    element("a", { href: canvas.toDataURL("image/png"), download: "before-after.png" }).click();
  });
  const resizing = new ResizeObserver(place);
  resizing.observe(images);

  return {
    root,
    show(files) {
      const [photo, result] = files.map((file) => api.apiURL(`/view?${new URLSearchParams(file)}`));
      before.src = photo;
      after.src = result;
      for (const part of [before, after, line]) part.hidden = false;
      empty.hidden = true;
      slider.disabled = share.disabled = false;
      place();
    },
    dispose: () => resizing.disconnect(),
  };
}

app.registerExtension({
  name: "Colorist.Comparison",
  nodeCreated(node) {
    if (node.comfyClass !== NODE) return;
    const comparison = createComparison();
    node.addDOMWidget("before_after", "colorist_comparison", comparison.root, {
      serialize: false,
      getMinHeight: () => 220,
      hideOnZoom: false,
    });
    const { onExecuted, onRemoved } = node;
    node.onExecuted = function (output) {
      onExecuted?.apply(this, arguments);
      if (output?.colorist_comparison?.length === 2) comparison.show(output.colorist_comparison);
    };
    node.onRemoved = function () {
      onRemoved?.apply(this, arguments);
      comparison.dispose();
    };
    node.setSize([Math.max(node.size[0], 320), Math.max(node.size[1], 460)]);
  },
});
