/* Shows a machine's screen: asks for a way to it, gives it to noVNC, and comes again when it is lost. */
const desk = document.getElementById("desk");
const words = document.getElementById("words").dataset;
const action = desk.dataset.action;
const by = (id) => document.getElementById(id);
const fill = (text, values) => text.replace(/\{(\w+)\}/g, (whole, name) => values[name] ?? whole);

const PAUSES_S = [1, 2, 4, 8, 15, 30];
const LOOK_MS = { connected: 5000, otherwise: 3000 };
const END = { HOST: 4000, TAKEN_OVER: 4001, WITHDRAWN: 4003, LOGGED_OUT: 4004, SERVER: 4009 };

let RFB = null;
let rfb = null; // the viewer while it is connected or connecting
let failures = 0;
let timer = null;
let wanted = true; // false: something ended that no repetition brings back
let last = { state: desk.dataset.state, can_open: false };

/* -- words ------------------------------------------------------------------------------------------------------------ */

function show(look, text, buttons = []) {
  desk.dataset.look = look;
  for (const id of ["state-words", "card-words"]) {
    if (by(id).textContent !== text) by(id).textContent = text; // the same words are not read out again
  }
  for (const id of ["again", "start", "reload"]) {
    const button = by(id);
    if (button) button.hidden = !buttons.includes(id);
  }
  by("keys").disabled = look !== "connected";
}

/* -- asking ----------------------------------------------------------------------------------------------------------- */

async function ask(what, body) {
  // JupyterHub wants its token with every fetch of a script, also where nothing is changed.
  const headers = { Accept: "application/json", "X-XSRFToken": desk.dataset.xsrf };
  const options = { headers, cache: "no-store", credentials: "same-origin" };
  if (body !== undefined) {
    options.method = "POST";
    options.headers["Content-Type"] = "application/json";
    options.body = JSON.stringify(body);
  }
  let response;
  try {
    response = await fetch(action + what, options);
  } catch {
    return { status: 0, message: words.away };
  }
  let answer = {};
  try {
    answer = await response.json();
  } catch {
    // A proxy's page: its status is enough.
  }
  if (response.status >= 500 && !answer.message) answer.message = words.away;
  return { ...answer, status: response.status };
}

/* -- connecting ------------------------------------------------------------------------------------------------------- */

async function connect() {
  clearTimeout(timer);
  if (rfb || !wanted) return;
  show("waiting", words.connecting);
  if (!RFB) {
    try {
      RFB = (await import(desk.dataset.novnc)).default;
    } catch {
      wanted = false;
      return show("off", words.viewer, ["reload"]);
    }
  }
  const way = await ask("open", {});
  if (way.status !== 200) return refused(way);
  const address = new URL(action + "ws", location.href);
  address.protocol = address.protocol === "https:" ? "wss:" : "ws:";
  const socket = new WebSocket(address, ["binary", `labspawner.${way.key}`]);
  let end = 0;
  socket.addEventListener("close", (event) => (end = event.code));
  const view = document.createElement("div");
  view.className = "desk-view";
  by("screen").append(view);
  const mine = new RFB(view, socket, { credentials: { password: way.password }, shared: true });
  rfb = mine;
  mine.scaleViewport = true;
  mine.background = "transparent";
  mine.addEventListener("connect", () => {
    failures = 0;
    show("connected", words.connected);
    mine.focus();
    look();
  });
  mine.addEventListener("securityfailure", () => (end = end || -1));
  mine.addEventListener("clipboard", (event) => (by("clip-text").value = event.detail.text));
  mine.addEventListener("disconnect", () => {
    if (rfb === mine) rfb = null;
    // The close event of the socket may come a moment later than noVNC's own.
    setTimeout(() => {
      view.remove();
      ended(end);
    }, 0);
  });
}

function refused(answer) {
  const code = answer.code || "";
  if (answer.status === 401 || code === "forged") return loggedOut();
  // Without a code it is the hub's, which may have no way to us yet after it was started anew.
  if (answer.status === 403 && code) return finish(answer.message);
  if (code === "viewer") return finish(answer.message);
  if (code === "off") return off(answer.message);
  again(answer.message || words.lost);
}

async function ended(code) {
  if (code === END.TAKEN_OVER) return finish(words.taken, ["again"]);
  if (code === END.WITHDRAWN) return finish(words.withdrawn, ["again"]);
  if (code === END.LOGGED_OUT) return loggedOut();
  const now = await ask("state");
  if (now.status === 200) told(now);
  if (now.status === 401) return loggedOut();
  if (now.status === 403 && now.code) return finish(now.message);
  if (now.status === 200 && !now.can_open) return off(now.message);
  again(code === -1 ? words.password : now.status === 200 && code === END.HOST ? now.message : now.message || words.lost);
}

function again(why) {
  clearTimeout(timer);
  const seconds = PAUSES_S[Math.min(failures, PAUSES_S.length - 1)];
  failures += 1;
  const until = Date.now() + seconds * 1000;
  const tick = () => {
    const left = Math.ceil((until - Date.now()) / 1000);
    if (left <= 0) return connect();
    show("waiting", `${why} ${fill(words.again, { seconds: left })}`.trim(), ["again"]);
    timer = setTimeout(tick, Math.min(1000, until - Date.now()));
  };
  tick();
}

function off(why) {
  clearTimeout(timer);
  failures = 0;
  show("off", why, ["off", "parked"].includes(last.state) ? ["start"] : []);
}

function finish(why, buttons = ["reload"]) {
  clearTimeout(timer);
  wanted = false;
  show("off", why, buttons);
}

function loggedOut() {
  finish(words.out, ["reload"]);
}

/* -- looking at what is true beside the picture ------------------------------------------------------------------------ */

let looking = null;

async function look() {
  clearTimeout(looking);
  if (!document.hidden) {
    const now = await ask("state");
    if (now.status === 200) {
      told(now);
      if (wanted && !rfb && desk.dataset.look === "off") now.can_open ? connect() : off(now.message);
    } else if (now.status === 403 && !rfb) finish(now.message);
  }
  clearTimeout(looking);
  looking = setTimeout(look, rfb ? LOOK_MS.connected : LOOK_MS.otherwise);
}

function told(now) {
  last = now;
  const guests = by("guests");
  guests.hidden = now.guests.length === 0;
  const names = now.guests.join(", ");
  if (!guests.hidden) guests.textContent = fill(words.looks, { names });
  const share = by("share-words");
  if (share) {
    const minutes = Math.ceil(now.consent_s / 60);
    const open = now.consent_s > 0 ? fill(words.shared, { minutes }) : words.alone;
    share.textContent = names ? `${fill(words.looks, { names })} ${open}` : open;
    by("share-take").hidden = now.consent_s === 0;
  }
  by("ssh").hidden = !now.ssh;
  by("ssh-line").value = now.ssh ? `ssh ${now.ssh}` : "";
}

/* -- the bar ----------------------------------------------------------------------------------------------------------- */

function toggle(button, panel) {
  if (!button) return;
  button.addEventListener("click", () => {
    panel.hidden = !panel.hidden;
    button.setAttribute("aria-expanded", String(!panel.hidden));
    if (!panel.hidden) (panel.querySelector("textarea, button") || panel).focus();
  });
}

function keysym(character) {
  if (character === "\n") return 0xff0d;
  if (character === "\t") return 0xff09;
  const point = character.codePointAt(0);
  return point < 0x100 ? point : 0x01000000 | point;
}

toggle(by("clip-toggle"), by("clip"));
toggle(by("share-toggle"), by("share"));
by("keys").addEventListener("click", () => {
  rfb?.sendCtrlAltDel();
  rfb?.focus();
});
by("clip-type").addEventListener("click", () => {
  for (const character of by("clip-text").value.replace(/\r\n?/g, "\n")) rfb?.sendKey(keysym(character), null);
  rfb?.focus();
});
by("clip-send").addEventListener("click", () => rfb?.clipboardPasteFrom(by("clip-text").value));
by("full").addEventListener("click", () => {
  if (document.fullscreenElement) document.exitFullscreen();
  else by("desk").requestFullscreen().catch(() => {});
  rfb?.focus();
});
by("again").addEventListener("click", () => {
  wanted = true;
  failures = 0;
  connect();
});
by("reload").addEventListener("click", () => location.reload());
by("ssh-copy").addEventListener("click", async () => {
  const line = by("ssh-line");
  line.select();
  try {
    await navigator.clipboard.writeText(line.value);
  } catch {
    document.execCommand("copy"); // without HTTPS there is no other way
  }
  by("ssh-copy").textContent = words.copied;
  setTimeout(() => (by("ssh-copy").textContent = words.copy), 2000);
});
by("share-give")?.addEventListener("click", () => agree(true));
by("share-take")?.addEventListener("click", () => agree(false));

async function agree(yes) {
  const answer = await ask("consent", { look: yes });
  if (answer.status === 200) return look();
  by("share-words").textContent = answer.message || words.away;
}

// The machine gets every key, Tab too; this is the way out for who uses no mouse.
document.addEventListener(
  "keydown",
  (event) => {
    if (!rfb || !event.ctrlKey || !event.altKey || !event.shiftKey || !by("screen").contains(event.target)) return;
    event.preventDefault();
    event.stopPropagation();
    rfb.blur();
    by("clip-toggle").focus();
  },
  true,
);

document.addEventListener("visibilitychange", () => {
  if (!document.hidden) look();
});

if (desk.dataset.novnc) {
  if (["on", "starting"].includes(desk.dataset.state)) connect();
  else off(by("state-words").textContent);
  last.state = desk.dataset.state;
} else {
  wanted = false;
  desk.dataset.look = "off";
}
look();
