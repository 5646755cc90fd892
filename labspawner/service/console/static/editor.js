/* The editor: line numbers, problems while one types, and form and text kept alike. The service does the thinking. */
import { ask, loggedOut, speak, warn, words } from "./parts.js";

const form = document.getElementById("editor");
const text = document.getElementById("text");
const lines = document.getElementById("lines");
const fields = document.getElementById("form-side");
const sideField = document.getElementById("side");
const readOnly = form.dataset.readOnly === "yes";
const QUIET_MS = 500;

// -- line numbers ----------------------------------------------------------------------------------------------------
let bad = new Set();
const number = () => {
  const count = text.value.split("\n").length;
  if (lines.childElementCount !== count || lines.dataset.bad !== [...bad].join()) {
    lines.replaceChildren(
      ...Array.from({ length: count }, (_, index) => {
        const line = document.createElement("span");
        line.textContent = index + 1;
        if (bad.has(index + 1)) line.className = "con-bad-line";
        return line;
      }),
    );
    lines.dataset.bad = [...bad].join();
  }
  lines.scrollTop = text.scrollTop;
};
text.addEventListener("scroll", () => (lines.scrollTop = text.scrollTop));
new ResizeObserver(() => (lines.style.height = `${text.clientHeight}px`)).observe(text);

const jump = (line, column) => {
  const before = text.value.split("\n").slice(0, line - 1);
  const start = before.reduce((sum, one) => sum + one.length + 1, 0);
  const end = start + (text.value.split("\n")[line - 1] ?? "").length;
  text.focus();
  text.setSelectionRange(Math.min(start + column - 1, end), end);
  const height = text.scrollHeight / Math.max(1, text.value.split("\n").length);
  text.scrollTop = Math.max(0, height * (line - 4));
};
form.addEventListener("click", (event) => {
  const link = event.target.closest("a[data-line]");
  if (!link) return;
  event.preventDefault();
  jump(Number(link.dataset.line), Number(link.dataset.column) || 1);
});

// Tab indents, as one expects in an editor; Escape first, then Tab leaves it, as the keyboard needs.
let leaving = false;
text.addEventListener("keydown", (event) => {
  if (event.key === "Escape") leaving = true;
  else if (event.key === "Tab" && !event.shiftKey && !leaving && !text.readOnly) {
    event.preventDefault();
    text.setRangeText("  ", text.selectionStart, text.selectionEnd, "end");
    text.dispatchEvent(new Event("input", { bubbles: true }));
  } else if (event.key !== "Shift") leaving = false;
});

// -- what is wrong, while one types ------------------------------------------------------------------------------------
let timer = 0;
let asked = 0;
let side = "";

const put = (id, html) => {
  const fresh = document.createElement("template");
  fresh.innerHTML = html.trim(); // rendered and escaped by the service
  const old = document.getElementById(id);
  if (old && fresh.content.firstElementChild && !old.isEqualNode(fresh.content.firstElementChild)) {
    old.replaceWith(fresh.content.firstElementChild);
  }
};
const look = async () => {
  clearTimeout(timer);
  timer = 0;
  const mine = ++asked;
  const from = side;
  const body = new URLSearchParams(new FormData(form));
  body.set("side", from);
  if (form.dataset.profile) body.set("profile", form.dataset.profile);
  for (const name of ["save", "if_match", "base"]) body.delete(name);
  try {
    const answer = await ask(form.dataset.lint, { body });
    if (mine !== asked) return; // something was typed meanwhile
    put("problems", answer.problems);
    put("seats", answer.seats);
    bad = new Set(answer.lines);
    if (from === "form" && text.value !== answer.text) text.value = answer.text;
    if (from === "yaml" && answer.form && fields) {
      const fresh = document.createElement("template");
      fresh.innerHTML = answer.form;
      fields.replaceChildren(fresh.content);
    }
    number();
    warn(answer.trouble);
  } catch (error) {
    if (error.status === 401 || error.status === 403) loggedOut();
    else if (mine === asked) warn(words().away);
  }
};
const later = () => {
  clearTimeout(timer);
  timer = setTimeout(look, QUIET_MS);
};
form.addEventListener("input", (event) => {
  if (event.target === text) {
    side = "yaml";
    number();
  } else if (fields?.contains(event.target)) side = "form";
  else if (event.target.id !== "students") return;
  asked += 1; // an answer to what was there before is too late
  if (sideField) sideField.value = side;
  if (readOnly && event.target.id !== "students") return;
  later();
});
// Whoever goes from the form to the text finds there what the form says, also when they were quicker than the pause.
text.addEventListener("focus", () => {
  if (side === "form" && timer) look();
});
form.addEventListener("keydown", (event) => {
  if (event.key === "Enter" && event.target.matches("#form-side input, #students")) {
    event.preventDefault(); // Enter in a field does not save by surprise
    look();
  }
  if (event.key === "s" && (event.ctrlKey || event.metaKey)) {
    event.preventDefault();
    document.getElementById("save")?.click();
    speak(words().unsaved);
  }
});
number();
bad = new Set([...document.querySelectorAll("#problems a[data-line]")].map((link) => Number(link.dataset.line)));
number();
const wanted = /^#line-(\d+)$/.exec(window.location.hash);
if (wanted) jump(Number(wanted[1]), 1);
