/* The spawn page: cards say what is free as it changes, and a click keeps a place before the form is posted.
   It works without this: the hub decides, whatever a page shows. */
"use strict";
(function () {
  const form = document.getElementById("spawn_form");
  if (!form || !form.querySelector(".lab-card")) return;
  const news = document.getElementById("lab-news");
  const state = document.getElementById("lab-chosen-state");
  const heard = document.getElementById("lab-heard");
  const base = form.dataset.base;
  const query = `?server=${encodeURIComponent(form.dataset.server)}`;
  const SILENCE_MS = 5000; // a proxy that holds streams back; a hub that refuses one
  const POLL_MS = 8000;
  const PATIENCE_MS = 4000;
  const LATE_MS = 45000;
  let source = null;
  let timer = 0;
  let silence = 0;
  let heardAt = 0;

  const cardOf = (radio) => radio && radio.closest(".lab-card");
  const chosen = () => cardOf(form.querySelector('input[name="profile"]:checked'));

  // -- what a card says -----------------------------------------------------------------------------------------------
  const localise = (root) => {
    for (const element of root.querySelectorAll("time.lab-at")) {
      const at = new Date(element.dateTime);
      if (Number.isNaN(at.getTime())) continue;
      const today = at.toDateString() === new Date().toDateString();
      const day = today ? {} : { month: "short", day: "numeric" };
      const clock = { ...day, hour: "2-digit", minute: "2-digit", hourCycle: "h23" };
      element.textContent = at.toLocaleString(document.documentElement.lang, clock);
    }
  };
  const dress = (card, said) => {
    const line = card.querySelector(".lab-free");
    const words = card.querySelector(".lab-free-words");
    line.className = `lab-free lab-free-${said.kind}`;
    if (words.textContent.trim() !== said.text || words.querySelector("time")) {
      words.innerHTML = said.html; // made by the hub, escaped
      localise(words);
    }
    card.dataset.go = said.go;
    card.dataset.label = said.label;
    const radio = card.querySelector('input[name="profile"]');
    const off = said.go === "wait";
    radio.disabled = off;
    card.classList.toggle("lab-card-off", off);
    if (!off) card.querySelector(".lab-why")?.remove();
    const place = card.querySelector(".lab-elsewhere");
    const wanted = JSON.stringify(said.elsewhere);
    if (place.dataset.said !== wanted) {
      place.dataset.said = wanted;
      place.replaceChildren(
        ...said.elsewhere.map((one) => {
          const button = document.createElement("button");
          button.type = "submit";
          button.className = "btn btn-sm btn-outline-primary";
          button.name = "variant";
          button.value = `${card.dataset.key}:${one.variant}`;
          button.formNoValidate = true;
          button.textContent = one.text;
          return button;
        }),
      );
    }
  };
  // Beside the button stands what the chosen card says; spoken is only what makes a difference, not each number.
  let spoken = "";
  const tell = (card) => {
    const words = card ? card.querySelector(".lab-free-words").textContent.trim() : "";
    if (state.textContent !== words) state.textContent = words;
    const kind = card ? `${card.dataset.key} ${card.querySelector(".lab-free").className} ${card.dataset.go}` : "";
    if (spoken !== kind) heard.textContent = spoken ? words : "";
    spoken = kind;
  };
  const show = (profiles) => {
    const before = chosen();
    for (const card of form.querySelectorAll(".lab-card")) {
      const said = profiles[card.dataset.key];
      if (said) dress(card, said);
      else dress(card, { kind: "closed", text: "", html: "", go: "wait", label: card.dataset.label, elsewhere: [] });
    }
    const none = form.querySelector(".lab-none");
    const usable = [...form.querySelectorAll('input[name="profile"]')].filter((radio) => !radio.disabled);
    if (none) none.hidden = usable.length > 0;
    if (!chosen() && usable.length && none) usable[0].checked = true;
    const now = chosen() || before;
    tell(now);
    form.dispatchEvent(new Event("lab:changed"));
  };
  const fresh = (answer) => {
    heardAt = Date.now();
    form.classList.remove("lab-old-news");
    if (answer.profiles) show(answer.profiles);
    if (answer.servers) mine(answer.servers);
  };
  const say = (text, link, words) => {
    news.replaceChildren(text);
    if (link) {
      const anchor = document.createElement("a");
      anchor.href = link;
      anchor.textContent = words || form.dataset.look;
      news.append(" ", anchor);
    }
    news.hidden = !text;
  };
  const mine = (servers) => {
    const here = servers.find((server) => server.name === form.dataset.server);
    if (here && here.state === "starting") say(form.dataset.starting, `${base}../home`);
    else if (here && here.state === "running") say(form.dataset.running, `${base}../home`);
    else if (news.querySelector("a")) say("");
  };

  // -- listen, or ask -------------------------------------------------------------------------------------------------
  const ask = async () => {
    clearTimeout(timer);
    if (document.hidden) return;
    try {
      const response = await fetch(`${base}availability${query}`, { credentials: "same-origin", cache: "no-store" });
      if (response.status === 403) return say(form.dataset.out, window.location.href, form.dataset.logIn);
      if (response.ok) fresh(await response.json());
    } catch {
      /* the network hiccups; ask again */
    }
    timer = setTimeout(ask, POLL_MS * (0.9 + 0.2 * Math.random()));
  };
  const hush = () => {
    clearTimeout(timer);
    clearTimeout(silence);
    if (source) source.close();
    source = null;
  };
  const listen = () => {
    hush();
    if (form.dataset.own !== "yes" || document.hidden) return;
    source = new EventSource(`${base}events${query}`);
    const take = (raw) => {
      clearTimeout(silence);
      fresh(JSON.parse(raw.data));
    };
    source.addEventListener("availability", take);
    source.addEventListener("servers", take);
    source.onerror = () => {
      if (source && source.readyState === EventSource.CLOSED) {
        hush();
        ask();
      }
    };
    silence = setTimeout(() => {
      hush();
      ask();
    }, SILENCE_MS);
  };
  document.addEventListener("visibilitychange", () => (document.hidden ? hush() : listen()));
  window.addEventListener("pagehide", hush);
  window.addEventListener("pageshow", (event) => event.persisted && listen());
  window.addEventListener("online", listen);
  setInterval(() => {
    // Old words are worse than none: they are dimmed until the hub is heard again.
    if (heardAt && source && source.readyState !== EventSource.OPEN && Date.now() - heardAt > LATE_MS) {
      form.classList.add("lab-old-news");
    }
  }, 5000);

  // -- a click keeps a place, then the form is posted -------------------------------------------------------------------
  const fieldsOf = (submitter) => {
    const fields = new URLSearchParams();
    for (const [name, value] of new FormData(form)) if (typeof value === "string") fields.append(name, value);
    if (submitter && submitter.name) fields.set(submitter.name, submitter.value);
    const xsrf = new URL(form.action, window.location.href).searchParams.get("_xsrf");
    if (xsrf) fields.set("_xsrf", xsrf);
    return fields;
  };
  const post = (submitter) => {
    if (submitter && submitter.name) {
      const field = document.createElement("input");
      field.type = "hidden";
      field.name = submitter.name;
      field.value = submitter.value;
      form.append(field);
    }
    hush();
    HTMLFormElement.prototype.submit.call(form);
  };
  const keep = async (submitter) => {
    const giveUp = new AbortController();
    const patience = setTimeout(() => giveUp.abort(), PATIENCE_MS);
    try {
      const response = await fetch(`${base}place${query}`, {
        method: "POST",
        credentials: "same-origin",
        headers: { Accept: "application/json" },
        body: fieldsOf(submitter),
        signal: giveUp.signal,
      });
      if (response.status !== 409) return true; // kept, or a reason that the form's own answer tells better
      const answer = await response.json();
      if (!answer.profiles) return true;
      fresh(answer);
      say(answer.message || "");
      return false;
    } catch {
      return true; // the hub decides
    } finally {
      clearTimeout(patience);
    }
  };
  let busy = false;
  form.addEventListener("submit", async (event) => {
    const submitter = event.submitter;
    const direct = form.dataset.own !== "yes" || !(submitter && submitter.name) && chosen()?.dataset.go !== "start";
    if (direct) return;
    event.preventDefault();
    if (busy) return;
    busy = true;
    if (submitter) submitter.disabled = true;
    if (await keep(submitter)) {
      if (submitter) submitter.disabled = false;
      post(submitter);
    } else {
      busy = false;
      if (submitter) submitter.disabled = false;
      form.dispatchEvent(new Event("lab:changed"));
    }
  });
  window.addEventListener("pageshow", () => (busy = false));

  form.addEventListener("change", () => {
    tell(chosen());
    if (!news.querySelector("a")) say("");
  });
  localise(form);
  tell(chosen());
  listen();
})();
