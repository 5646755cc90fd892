/* Looks every few seconds whether the student has agreed. */
import { localise } from "./parts.js";

const LOOK_MS = 5_000;
const look = async () => {
  const panel = document.getElementById("visit");
  const form = document.getElementById("visit-form");
  if (panel.dataset.state === "open") return;
  try {
    const body = new URLSearchParams(new FormData(form));
    const response = await fetch(form.action, { method: "POST", body, credentials: "same-origin" });
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const fresh = page.getElementById("visit");
    if (!fresh) return window.location.assign(document.querySelector("#visit-form a:last-child").href); // it has ended
    localise(fresh);
    if (fresh.dataset.state !== panel.dataset.state) panel.replaceWith(fresh);
  } catch {
    // Nobody answered; the next look may find somebody.
  }
  setTimeout(look, LOOK_MS);
};
setTimeout(look, LOOK_MS);
