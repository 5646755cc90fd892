/* The live parts of administrators' pages: looked at again every few seconds, while somebody looks at them. */
import { ask, become, localise, loggedOut, warn, words } from "./parts.js";

const CALM_MS = 5000;
const MOVING_MS = 1000;
const AWAY_MS = 15000;

const live = document.querySelector("[data-fresh]");

const pause = () => (live.querySelector("[data-moving]") ? MOVING_MS : CALM_MS);

const look = async () => {
  if (document.hidden) return CALM_MS;
  try {
    const { html } = await ask(live.dataset.fresh);
    const fresh = document.createElement("div");
    fresh.innerHTML = html; // rendered by the console, every word in it escaped
    localise(fresh);
    become(live, fresh);
    warn();
    return pause();
  } catch (error) {
    if (error.status === 401 || error.status === 403) loggedOut();
    else warn(words().away);
    return AWAY_MS;
  }
};

const again = async () => setTimeout(again, await look());
if (live) setTimeout(again, pause());
