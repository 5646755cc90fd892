/* Light or dark, as it was chosen on the hub's pages, else as the system is. Before anything is drawn. */
"use strict";
(function () {
  let chosen = null;
  try {
    chosen = localStorage.getItem("jupyterhub-bs-theme");
  } catch {
    // No storage: as the system is.
  }
  const dark = window.matchMedia("(prefers-color-scheme: dark)").matches;
  const theme = chosen === "light" || chosen === "dark" ? chosen : dark ? "dark" : "light";
  document.documentElement.setAttribute("data-bs-theme", theme);
})();
