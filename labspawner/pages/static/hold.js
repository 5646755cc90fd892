/* "Start again" keeps a place first, as a click on the spawn page does: what was just taken is then said by the spawn page,
   and nobody finds themselves in line unasked. It works without this. */
"use strict";
(function () {
  const PATIENCE_MS = 4000;

  /* Whether to post: a place is kept, or the hub's own answer to the form tells better why not. */
  const keep = async (form, fields) => {
    const giveUp = new AbortController();
    const patience = setTimeout(() => giveUp.abort(), PATIENCE_MS);
    try {
      const response = await fetch(form.dataset.labPlace, {
        method: "POST",
        credentials: "same-origin",
        headers: { Accept: "application/json" },
        body: fields,
        signal: giveUp.signal,
      });
      return response.status !== 409;
    } catch {
      return true; // the hub decides
    } finally {
      clearTimeout(patience);
    }
  };

  let busy = new WeakSet();
  document.addEventListener("submit", async (event) => {
    const form = event.target;
    if (!form.dataset.labPlace) return;
    event.preventDefault();
    if (busy.has(form)) return;
    busy.add(form);
    const submitter = event.submitter;
    const fields = new URLSearchParams();
    for (const [name, value] of new FormData(form)) if (typeof value === "string") fields.append(name, value);
    if (submitter?.name) fields.set(submitter.name, submitter.value);
    if (submitter) submitter.disabled = true;
    if (await keep(form, fields)) {
      form.querySelector("[data-lab-picked]")?.remove();
      if (submitter?.name) {
        const field = document.createElement("input");
        Object.assign(field, { type: "hidden", name: submitter.name, value: submitter.value });
        field.dataset.labPicked = "";
        form.append(field);
      }
      HTMLFormElement.prototype.submit.call(form);
    } else {
      const page = new URL(form.action);
      page.search = new URLSearchParams({ profile: fields.get("profile") ?? "" });
      window.location.assign(page);
    }
  });
  window.addEventListener("pageshow", () => (busy = new WeakSet()));
})();
