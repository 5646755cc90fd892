/* What changes on a page is fetched again: when the service says so, else every few seconds. */
import { ask, become, localise, loggedOut, warn, words } from "./parts.js";

const LOOK_MS = 10_000; // without events
const SLOW_MS = 60_000; // beside events, in case one was lost
const MOVING_MS = 2_500; // without events, while something moves

export const watch = (part, { url = () => part.dataset.live, after = () => {} } = {}) => {
  let timer = 0;
  let looking = false;
  let again = false;
  let missed = 0;
  let over = false;
  let told = false; // events arrive

  const pause = () => {
    if (told && missed === 0) return SLOW_MS;
    return part.querySelector("[data-moving]") ? MOVING_MS : LOOK_MS;
  };
  const look = async () => {
    clearTimeout(timer);
    if (over) return;
    if (looking) {
      again = true;
      return;
    }
    looking = true;
    try {
      const answer = await ask(url());
      const fresh = document.createElement("template");
      fresh.innerHTML = answer.html; // rendered and escaped by the service
      localise(fresh.content);
      become(part, fresh.content);
      if (missed > 1) warn();
      missed = 0;
      after();
    } catch (error) {
      if (error.status === 401 || error.status === 403) {
        over = true;
        hush();
        loggedOut();
      } else {
        missed += 1;
        if (missed > 1) warn(words().away);
      }
    } finally {
      looking = false;
      // A little apart, so that pages that were opened together do not ask together for ever.
      if (!over && !document.hidden) timer = setTimeout(look, again ? 200 : pause() * (0.9 + 0.2 * Math.random()));
      again = false;
    }
  };

  // Only a page that is seen listens: a browser has few connections for one host.
  let events = null;
  let soon = 0;
  const hush = () => {
    events?.close();
    events = null;
    told = false;
  };
  const listen = () => {
    if (!part.dataset.events || events || over) return;
    // JupyterHub wants its token here too, and an event source can send no header.
    events = new EventSource(`${part.dataset.events}?_xsrf=${encodeURIComponent(words().xsrf)}`);
    events.addEventListener("changed", () => {
      told = true;
      clearTimeout(soon);
      soon = setTimeout(look, 150);
    });
    events.addEventListener("over", () => {
      hush();
      look(); // which says why
    });
    events.onerror = () => (told = false); // the browser tries again by itself; meanwhile we look
  };
  document.addEventListener("visibilitychange", () => {
    if (document.hidden) {
      clearTimeout(timer);
      hush();
    } else {
      listen();
      look();
    }
  });
  window.addEventListener("pageshow", (event) => event.persisted && look());
  window.addEventListener("online", look);
  listen();
  timer = setTimeout(look, pause());
  return look;
};

for (const part of document.querySelectorAll("[data-live]:not([data-own-watch])")) watch(part);
