// Figures with the colours of the style sheet: "@name" and "@name/opacity" are its variables.
const themed = (function () {
  "use strict";
  const COLOR = /^@([a-z]+\d*)(?:\/([\d.]+))?$/;

  function color(name, opacity) {
    const hex = getComputedStyle(document.documentElement).getPropertyValue("--" + name).trim();
    if (opacity === undefined) return hex;
    const full = hex.length === 4 ? hex.replace(/[^#]/g, "$&$&") : hex;
    const parts = [1, 3, 5].map((i) => parseInt(full.slice(i, i + 2), 16));
    return "rgba(" + parts.join(",") + "," + opacity + ")";
  }

  function themed(value) {
    if (typeof value === "string") {
      const found = COLOR.exec(value);
      return found ? color(found[1], found[2]) : value;
    }
    if (Array.isArray(value)) return typeof value[0] === "number" ? value : value.map(themed);
    if (value && typeof value === "object") {
      return Object.fromEntries(Object.entries(value).map(([k, v]) => [k, themed(v)]));
    }
    return value;
  }

  return themed;
})();
