/**
 * Lets the front end translate the names of sockets that have no widget (image, mask, ...).
 *
 * It prefers a display name to its translation there, so the display name goes: locales/ has the
 * names in every language, English among them.
 */

import { app } from "../../../scripts/app.js";

const WITH_WIDGET = ["INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"];

app.registerExtension({
  name: "Colorist.SocketNames",
  beforeRegisterNodeDef(type, definition) {
    if (!definition.name.startsWith("Colorist")) return;
    const { required, optional } = definition.input ?? {};
    for (const [kind, options] of Object.values({ ...required, ...optional }))
      if (!Array.isArray(kind) && !WITH_WIDGET.includes(kind)) delete options?.display_name;
  },
});
