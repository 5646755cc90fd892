/* What the console's scripts share. Importing it does nothing. */

/** Our sentences, in the page's language. */
export const words = () => document.getElementById("con-words").dataset;

/** Put each instant below `root` into the reader's time zone. */
export const localise = (root) => {
  for (const element of root.querySelectorAll("time.lab-at")) {
    const at = new Date(element.dateTime);
    if (Number.isNaN(at.getTime())) continue;
    const today = at.toDateString() === new Date().toDateString();
    const day = today ? {} : { month: "short", day: "numeric" };
    const language = document.documentElement.lang;
    element.textContent = at.toLocaleString(language, { ...day, hour: "2-digit", minute: "2-digit", hourCycle: "h23" });
    element.title = at.toLocaleString(language);
  }
};

/** A sentence above the page, with a link where there is one; nothing: all is well. */
export const warn = (text = "", link = "", href = "") => {
  const trouble = document.getElementById("con-trouble");
  const content = [text];
  if (link) {
    const anchor = document.createElement("a");
    anchor.href = href;
    anchor.target = "_blank";
    anchor.rel = "noopener";
    anchor.textContent = link;
    content.push(" ", anchor);
  }
  const whole = content.map((part) => part.textContent ?? part).join("");
  if (trouble.textContent !== whole) trouble.replaceChildren(...content);
  trouble.hidden = !text;
};

export const loggedOut = () => warn(words().out, words().logIn, words().logInUrl);

/** For screen readers alone. */
export const speak = (text) => {
  document.getElementById("con-spoken").textContent = text;
};

/** The answer as JSON. Throws an Error with `status`; 401 and 403 mean that nobody is logged in, 0 that nobody answered. */
export const ask = async (url, { body = null, patience = 15_000 } = {}) => {
  const giveUp = new AbortController();
  const timer = setTimeout(() => giveUp.abort(), patience);
  try {
    const response = await fetch(url, {
      method: body ? "POST" : "GET",
      body,
      credentials: "same-origin",
      cache: "no-store",
      headers: { Accept: "application/json", "X-XSRFToken": words().xsrf },
      signal: giveUp.signal,
    });
    const answer = await response.json().catch(() => null);
    if (!response.ok || answer === null) {
      throw Object.assign(new Error(answer?.detail || `HTTP ${response.status}`), { status: response.status, answer });
    }
    return answer;
  } catch (error) {
    throw error.status === undefined ? Object.assign(error, { status: 0 }) : error;
  } finally {
    clearTimeout(timer);
  }
};

const alike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a.id || "") === (b.id || "");
// What a reader did stays as it is: what they typed, ticked, picked and opened.
const kept = (element, name) =>
  (name === "open" && element.matches("details, dialog")) ||
  (["value", "checked"].includes(name) && element.matches("input, textarea")) ||
  (name === "selected" && element.matches("option"));
const dress = (old, fresh) => {
  for (const { name } of [...old.attributes]) {
    if (!fresh.hasAttribute(name) && !kept(old, name)) old.removeAttribute(name);
  }
  for (const { name, value } of fresh.attributes) {
    if (old.getAttribute(name) !== value && !kept(old, name)) old.setAttribute(name, value);
  }
};

/** Make `old` look like `fresh`, keeping what has the focus, is ticked or is open. What moves is found by its id. */
export const become = (old, fresh) => {
  const wanted = [...fresh.childNodes];
  wanted.forEach((child, place) => {
    let here = old.childNodes[place];
    if (child.id && (!here || !alike(here, child))) {
      const elsewhere = [...old.children].find((other) => alike(other, child));
      if (elsewhere) here = old.insertBefore(elsewhere, here ?? null);
    }
    if (!here) old.append(child);
    else if (!alike(here, child)) old.insertBefore(child, here);
    else if (child.nodeType !== Node.ELEMENT_NODE) {
      if (here.nodeValue !== child.nodeValue) here.nodeValue = child.nodeValue;
    } else {
      dress(here, child);
      become(here, child);
    }
  });
  while (old.childNodes.length > wanted.length) old.lastChild.remove();
};
