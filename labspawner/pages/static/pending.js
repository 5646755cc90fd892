/* The progress page: stages in words, elapsed time, and on to the server when it is ready.
   Listens to JupyterHub's event stream; where a proxy holds the stream back, asks every second instead. */
"use strict";
(function () {
  const page = document.getElementById("lab-pending");
  if (!page) return;
  const bar = document.getElementById("progress-bar");
  const progress = document.getElementById("lab-progress");
  const message = document.getElementById("progress-message");
  const details = document.getElementById("progress-details");
  const list = document.getElementById("progress-log");
  const elapsed = document.getElementById("lab-elapsed");
  const began = Date.now() - 1000 * Number(elapsed.dataset.since || 0);
  const STREAM_PATIENCE_MS = 1500;
  const POLL_MS = 1000;
  let over = false;
  let heard = 0;

  const tick = () => {
    const seconds = Math.max(0, Math.floor((Date.now() - began) / 1000));
    elapsed.textContent = `${Math.floor(seconds / 60)}:${String(seconds % 60).padStart(2, "0")}`;
  };
  elapsed.parentElement.hidden = false;
  tick();
  setInterval(tick, 1000);

  const leave = (delay) => {
    // The same address now leads to the server, or says why there is none.
    if (over) return;
    over = true;
    source.close();
    setTimeout(() => window.location.reload(), delay);
  };

  const fill = (percent) => {
    const value = Math.max(0, Math.min(100, Math.round(percent || 0)));
    if (value < Number(progress.getAttribute("aria-valuenow"))) return;
    progress.setAttribute("aria-valuenow", String(value));
    bar.style.width = `${value}%`;
  };

  const stage = (event) => {
    // html_message is made by the hub, escaped; a plain message is text.
    const body = document.createElement("li");
    if (event.html_message !== undefined) body.innerHTML = event.html_message;
    else body.textContent = event.message;
    return body;
  };

  const say = (events) => {
    const items = events.map(stage);
    const lastItem = items[items.length - 1];
    const same = list.lastElementChild && list.lastElementChild.textContent === lastItem.textContent;
    if (same && list.children.length === items.length) return;
    list.replaceChildren(...items);
    message.replaceChildren(...lastItem.cloneNode(true).childNodes);
    details.hidden = false;
  };

  const stages = [];
  const source = new EventSource(page.dataset.progressUrl);
  source.onmessage = (raw) => {
    const event = JSON.parse(raw.data);
    if (over) return;
    if (event.ready || event.failed) return leave(0);
    heard += 1;
    fill(event.progress);
    if (event.message === "Server requested") return; // JupyterHub's own first word; the page says it already
    if (stages.some((known) => known.message === event.message && known.progress === event.progress)) return;
    stages.push(event);
    say(stages);
  };
  source.onerror = () => {
    // Closed for good: the start is already over. Ask the hub for the page again, but not in a rush.
    if (source.readyState === EventSource.CLOSED) leave(2000);
  };

  // Cancel posts a form and goes home: what the stream says meanwhile must not lead anywhere else.
  document.getElementById("lab-cancel").form.addEventListener("submit", () => {
    over = true;
    source.close();
  });

  // Another way to start, where the course lets students pick one and there is room for it.
  const instead = document.getElementById("lab-instead");
  const offers = document.getElementById("lab-instead-offers");
  const offer = (found) => {
    instead.hidden = !found.length;
    const same = found.map((one) => `${one.variant} ${one.text}`).join("\n");
    if (instead.dataset.said === same) return;
    instead.dataset.said = same;
    offers.replaceChildren(
      ...found.map((one) => {
        const button = document.createElement("button");
        button.type = "submit";
        button.className = "btn btn-outline-primary";
        button.name = "variant";
        button.value = String(one.variant);
        button.textContent = one.text;
        return button;
      }),
    );
  };
  if (instead.dataset.ask === "yes") {
    const events = new EventSource(`${instead.dataset.events}events`);
    events.addEventListener("servers", (raw) => {
      const here = JSON.parse(raw.data).servers.find((server) => server.name === instead.dataset.server);
      offer((here && here.instead) || []);
    });
    window.addEventListener("pagehide", () => events.close());
  }

  const poll = async () => {
    if (over) return;
    try {
      const answer = await fetch(page.dataset.pollUrl, { credentials: "same-origin", cache: "no-store" });
      if (!answer.ok) return leave(2000);
      const now = await answer.json();
      if (over) return;
      if (now.over) return leave(0);
      if (now.events.length) {
        say(now.events);
        fill(now.events[now.events.length - 1].progress);
      }
    } catch (error) {
      /* the network hiccups; ask again */
    }
    setTimeout(poll, POLL_MS);
  };
  setTimeout(() => {
    if (heard || over) return;
    source.close();
    poll();
  }, STREAM_PATIENCE_MS);
  window._jupyterhub_page_loaded = true;
})();
