/* What every page of the console has: the reader's clock, copy buttons, and care for what was typed. */
import { localise, warn, words } from "./parts.js";

localise(document);

// A second click on a button that posts must not post twice; coming back with "Back" makes it usable again.
document.addEventListener("submit", (event) => {
  const button = event.submitter;
  if (button && !event.defaultPrevented) setTimeout(() => (button.disabled = true), 0);
});
window.addEventListener("pageshow", (event) => {
  if (event.persisted) document.querySelectorAll("button[type=submit]").forEach((b) => (b.disabled = false));
});

// A menu closes when something else is clicked, and on Escape.
document.addEventListener("click", (event) => {
  for (const menu of document.querySelectorAll(".lab-menu[open]")) if (!menu.contains(event.target)) menu.open = false;
});
document.addEventListener("keydown", (event) => {
  if (event.key !== "Escape") return;
  for (const menu of document.querySelectorAll(".lab-menu[open]")) {
    menu.open = false;
    if (menu.contains(document.activeElement)) menu.querySelector("summary").focus();
  }
});

// <button data-copy="id-of-a-field">
for (const button of document.querySelectorAll("[data-copy]")) {
  const label = button.textContent;
  button.hidden = false;
  button.addEventListener("click", async () => {
    const field = document.getElementById(button.dataset.copy);
    try {
      await navigator.clipboard.writeText(field.value ?? field.textContent);
    } catch {
      field.select?.();
      document.execCommand("copy"); // without TLS there is no other way
    }
    button.textContent = words().copied;
    setTimeout(() => (button.textContent = label), 2000);
  });
}

// What needs a script is shown only where there is one, and the other way round.
for (const element of document.querySelectorAll("[data-scripted]")) element.hidden = false;
for (const element of document.querySelectorAll("[data-unscripted]")) element.hidden = true;

// A form that holds somebody's work says so before the page is left.
for (const form of document.querySelectorAll("form[data-guard]")) {
  let changed = form.dataset.guard === "changed";
  let sent = false;
  form.addEventListener("input", () => (changed = true));
  form.addEventListener("submit", () => (sent = true));
  window.addEventListener("beforeunload", (event) => {
    if (changed && !sent) event.preventDefault();
  });
  window.addEventListener("pageshow", () => (sent = false));
}

// A text file that is picked is read into the field beside it, where it can be looked at and mended.
for (const input of document.querySelectorAll("input[type=file][data-into]")) {
  input.addEventListener("change", async () => {
    const file = input.files?.[0];
    const field = document.getElementById(input.dataset.into);
    if (!file || !field) return;
    if (file.size > 200_000) return warn(words().large);
    const bytes = await file.arrayBuffer();
    try {
      field.value = new TextDecoder("utf-8", { fatal: true }).decode(bytes);
    } catch {
      field.value = new TextDecoder("gb18030").decode(bytes);
    }
    input.value = "";
    field.dispatchEvent(new Event("input", { bubbles: true }));
    field.focus();
  });
}
