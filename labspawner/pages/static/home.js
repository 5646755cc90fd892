/* The home page: looks again every few seconds, and posts without leaving the page. It works without this. */
"use strict";
(function () {
  const page = document.getElementById("lab-home");
  if (!page) return;
  const servers = document.getElementById("lab-servers");
  const trouble = document.getElementById("lab-trouble");
  const said = document.getElementById("lab-said");
  const spoken = document.getElementById("lab-spoken");
  const words = document.getElementById("lab-words").dataset;
  const LOOK_MS = 10000;
  const SOON_MS = 2500; // something changes just now, or is being measured
  const PATIENCE_MS = 8000;
  let timer = 0;
  let looking = null;
  let known = null;
  let missed = 0;
  let over = false;

  // -- the reader's clock -------------------------------------------------------------------------------------------
  const localise = (root) => {
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

  // -- put new content in place, keeping what has the focus or is open ------------------------------------------------
  const alike = (a, b) => a.nodeType === b.nodeType && a.nodeName === b.nodeName && (a.id || "") === (b.id || "");
  const dress = (old, fresh) => {
    for (const { name } of [...old.attributes]) {
      if (!fresh.hasAttribute(name) && name !== "open") old.removeAttribute(name);
    }
    for (const { name, value } of fresh.attributes) {
      if (old.getAttribute(name) !== value) old.setAttribute(name, value);
    }
  };
  const become = (old, fresh) => {
    const wanted = [...fresh.childNodes];
    wanted.forEach((child, place) => {
      let here = old.childNodes[place];
      if (here && child.id && !alike(here, child)) {
        const elsewhere = [...old.children].find((other) => alike(other, child));
        if (elsewhere) here = old.insertBefore(elsewhere, here);
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

  // -- what is said beside the servers ---------------------------------------------------------------------------------
  const warn = (text, link, href) => {
    const content = [text];
    if (link) {
      const anchor = document.createElement("a");
      anchor.href = href;
      anchor.textContent = link;
      content.push(" ", anchor);
    }
    const same = trouble.textContent === content.map((part) => part.textContent ?? part).join("");
    if (!same) trouble.replaceChildren(...content);
    trouble.hidden = false;
    page.classList.add("lab-old");
  };
  const calm = () => {
    trouble.hidden = true;
    trouble.replaceChildren();
    page.classList.remove("lab-old");
  };
  const say = (text) => {
    said.textContent = text;
    said.hidden = !text;
  };
  const loggedOut = () => {
    over = true;
    warn(words.out, words.logIn, window.location.href);
  };

  // -- look ------------------------------------------------------------------------------------------------------------
  const show = (answer) => {
    const fragment = document.createElement("template");
    fragment.innerHTML = answer.html; // rendered and escaped by the hub
    localise(fragment.content);
    become(servers, fragment.content);
    const now = new Map(answer.servers.map((server) => [server.key, server]));
    if (known) {
      const news = answer.servers.filter((server) => known.get(server.key)?.spoken !== server.spoken);
      const gone = [...known.values()].filter((server) => !now.has(server.key) && server.name && server.key === server.name);
      const texts = [
        ...news.map((server) => server.spoken),
        ...gone.map((server) => words.gone.replace("{server}", server.name)),
      ];
      if (texts.length) spoken.textContent = texts.join(". ");
    }
    known = now;
    for (const row of document.querySelectorAll(".home-server-row[data-server-name]")) {
      const state = now.get(row.dataset.serverName)?.state ?? "off";
      const off = state === "off" || state === "parked";
      row.querySelector(".stop-server")?.classList.toggle("hidden", off);
      row.querySelector(".start-server")?.classList.toggle("hidden", !off);
      row.querySelector(".delete-server")?.classList.toggle("hidden", !off);
    }
  };

  const look = async () => {
    clearTimeout(timer);
    if (over || looking) return;
    const giveUp = new AbortController();
    const patience = setTimeout(() => giveUp.abort(), PATIENCE_MS);
    looking = giveUp;
    let next = LOOK_MS;
    try {
      const response = await fetch(page.dataset.url, {
        credentials: "same-origin",
        cache: "no-store",
        headers: { Accept: "application/json" },
        signal: giveUp.signal,
      });
      if (response.status === 403) return loggedOut();
      if (!response.ok) throw new Error(`HTTP ${response.status}`);
      const answer = await response.json();
      if (answer.user !== page.dataset.user) {
        over = true;
        return warn(words.other.replace("{user}", answer.user), words.reload, window.location.href);
      }
      calm();
      if (missed > 1) say(words.back);
      missed = 0;
      show(answer);
      const moving = answer.servers.some((server) => ["starting", "stopping"].includes(server.state));
      if (moving || servers.querySelector("[data-measuring]")) next = SOON_MS;
    } catch {
      missed += 1;
      if (missed > 1) warn(words.away);
      else next = SOON_MS; // one hiccup is no news
    } finally {
      clearTimeout(patience);
      looking = null;
      // A little apart, so that a class that opened the page together does not ask together for ever.
      if (!over && !document.hidden) timer = setTimeout(look, next * (0.9 + 0.2 * Math.random()));
    }
  };

  // -- post ------------------------------------------------------------------------------------------------------------
  document.addEventListener("submit", async (event) => {
    const form = event.target;
    if (!form.matches("[data-lab-post]")) return;
    event.preventDefault();
    const button = form.querySelector("button");
    say("");
    setTimeout(look, 300); // shows "Stopping" while the answer takes its time
    try {
      const response = await fetch(form.action, {
        method: "POST",
        credentials: "same-origin",
        headers: { Accept: "application/json" },
        body: new URLSearchParams(new FormData(form)),
      });
      const answer = await response.json().catch(() => ({}));
      if (!response.ok) say(answer.message || words.failed);
      else if (form.action.includes("/labspawner/extend/")) say(words.extended);
    } catch {
      warn(words.away);
    }
    button.disabled = false;
    look();
  });

  document.addEventListener("visibilitychange", () => (document.hidden ? clearTimeout(timer) : look()));
  window.addEventListener("pageshow", (event) => event.persisted && look());
  window.addEventListener("online", look);
  localise(document);
  timer = setTimeout(look, servers.querySelector("[data-measuring], [data-state=starting], [data-state=stopping]") ? SOON_MS : LOOK_MS);
  known = new Map();
  for (const panel of servers.querySelectorAll("[data-key]")) {
    const { key, name, spoken: text } = panel.dataset;
    known.set(key, { key, name, spoken: text });
  }
})();
