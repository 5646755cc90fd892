/* Light or dark, as it was chosen on the hub's pages, else as the system is. Before anything is drawn. */
"use strict";
(function () {
  const KEY = "jupyterhub-bs-theme";
  const stored = () => {
    try {
      const theme = localStorage.getItem(KEY);
      return theme === "light" || theme === "dark" ? theme : null;
    } catch {
      return null; // no storage: as the system is
    }
  };
  const system = window.matchMedia("(prefers-color-scheme: dark)");
  const apply = () =>
    document.documentElement.setAttribute("data-bs-theme", stored() ?? (system.matches ? "dark" : "light"));
  apply();
  system.addEventListener("change", apply);
  document.addEventListener("DOMContentLoaded", () => {
    const button = document.getElementById("theme-toggle");
    if (!button) return;
    button.hidden = false;
    button.addEventListener("click", () => {
      const next = document.documentElement.getAttribute("data-bs-theme") === "dark" ? "light" : "dark";
      try {
        localStorage.setItem(KEY, next);
      } catch {
        // Chosen for this page alone.
      }
      document.documentElement.setAttribute("data-bs-theme", next);
    });
  });
})();
