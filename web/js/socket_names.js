/**
 * Lets the front end translate the names of sockets without a widget (image, mask, ...).
 *
 * For these sockets it prefers the display name to the translation, so this extension deletes the
 * display name: locales/ has the names in every language, including English.
 */

import { app } from "../../../scripts/app.js";

const WIDGET_TYPES = ["INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"];

app.registerExtension({
  name: "Colorist.SocketNames",
  beforeRegisterNodeDef(type, definition) {
    if (!definition.name.startsWith("Colorist")) return;
    const { required, optional } = definition.input ?? {};
    for (const [kind, options] of Object.values({ ...required, ...optional }))
      if (!Array.isArray(kind) && !WIDGET_TYPES.includes(kind)) delete options?.display_name;
  },
});
