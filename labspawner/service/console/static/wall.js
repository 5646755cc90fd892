/* The class wall: it finds and orders while one types, counts what is ticked, and asks before it acts. */
import { localise, loggedOut, warn, words } from "./parts.js";
import { watch } from "./live.js";

const part = document.getElementById("wall");
const ticked = new Set(); // of rows that are out of sight too

const filter = () => document.getElementById("wall-filter");
const rows = () => [...part.querySelectorAll("#wall-rows > tr")];
const boxes = () => [...part.querySelectorAll("#wall-rows input[name=who]")];

/** The address with what is looked for: for the script's own question, and so that "Back" and "Reload" keep it. */
const query = () => {
  const form = filter();
  const asked = new URLSearchParams();
  if (form) for (const [name, value] of new FormData(form)) if (value && !(name === "sort" && value === "name")) asked.set(name, value);
  return asked.toString();
};
const address = () => {
  const asked = query();
  return part.dataset.live + (asked ? `?${asked}` : "");
};

const count = () => {
  const shown = boxes();
  for (const box of shown) box.checked ? ticked.add(box.value) : ticked.delete(box.value);
  const all = document.getElementById("all");
  const on = shown.filter((box) => box.checked).length;
  if (all) {
    all.checked = shown.length > 0 && on === shown.length;
    all.indeterminate = on > 0 && on < shown.length;
  }
  const chosen = document.getElementById("chosen");
  if (chosen) chosen.textContent = ticked.size ? part.dataset.chosen.replace("{count}", ticked.size) : "";
};

const restore = () => {
  for (const box of boxes()) box.checked = ticked.has(box.value);
  count();
};

const look = watch(part, { url: address, after: restore });

// -- find and order --------------------------------------------------------------------------------------------------
let typing = 0;
const sought = () => {
  const asked = query();
  history.replaceState(null, "", asked ? `?${asked}` : window.location.pathname);
  look();
};
part.addEventListener("input", (event) => {
  if (event.target.id !== "q") return;
  const wish = event.target.value.trim().toLowerCase();
  let found = 0;
  for (const row of rows()) {
    row.hidden = !row.dataset.user.includes(wish);
    found += row.hidden ? 0 : 1;
  }
  document.getElementById("wall-none").hidden = found > 0;
  clearTimeout(typing);
  typing = setTimeout(sought, 300);
});
part.addEventListener("change", (event) => {
  if (event.target.closest("#wall-filter")) return event.target.id === "q" ? undefined : sought();
  if (event.target.id === "all") for (const box of boxes()) if (!box.closest("tr").hidden) box.checked = event.target.checked;
  count();
});
part.addEventListener("submit", (event) => {
  if (event.target.id !== "wall-filter") return;
  event.preventDefault();
  sought();
});

// -- act -------------------------------------------------------------------------------------------------------------
const dialog = document.createElement("dialog");
dialog.className = "con-confirm";
dialog.setAttribute("aria-labelledby", "confirm-title");
document.body.append(dialog);

part.addEventListener("submit", async (event) => {
  if (event.target.id !== "wall-form" || !event.submitter || event.submitter.name === "visit") return;
  event.preventDefault();
  const button = event.submitter;
  const body = new URLSearchParams();
  body.set("_xsrf", event.target.querySelector("[name=_xsrf]").value);
  body.set(button.name, button.value);
  for (const who of ticked) body.append("who", who);
  try {
    const response = await fetch(event.target.action, { method: "POST", body, credentials: "same-origin" });
    const page = new DOMParser().parseFromString(await response.text(), "text/html");
    const inside = page.getElementById("confirm");
    if (!inside) return response.status === 401 ? loggedOut() : warn(words().failed);
    localise(inside);
    dialog.replaceChildren(...inside.childNodes);
    dialog.querySelector("#confirm-back").addEventListener("click", (click) => {
      click.preventDefault();
      dialog.close();
    });
    dialog.showModal();
    dialog.querySelector("select, textarea, #do-it, #confirm-back")?.focus();
  } catch {
    warn(words().away);
  } finally {
    button.disabled = false;
  }
});
window.addEventListener("pageshow", (event) => event.persisted && dialog.open && dialog.close());
restore();
