/* Small comforts on top of pages that work without them. */
"use strict";
(function () {
  // Name the chosen profile beside the Start button, and say that the click was heard.
  const form = document.getElementById("spawn_form");
  if (form) {
    const chosen = document.getElementById("lab-chosen");
    const show = () => {
      const radio = form.querySelector('input[name="profile"]:checked');
      const label = radio && form.querySelector(`label[for="${CSS.escape(radio.id)}"]`);
      const title = label ? label.textContent.trim() : "";
      if (chosen && chosen.textContent !== title) chosen.textContent = title;
      // What the button does depends on the card: start, join the line, or nothing yet.
      const card = radio && radio.closest(".lab-card");
      const start = document.getElementById("lab-start");
      if (card && start) {
        if (start.textContent !== card.dataset.label) start.textContent = card.dataset.label;
        start.disabled = radio.disabled || card.dataset.go === "wait";
        const enter = document.getElementById("lab-enter");
        if (enter) enter.disabled = start.disabled;
      }
    };
    form.addEventListener("change", (event) => {
      // Setting an option of a profile means that profile.
      const card = event.target.closest(".lab-card");
      const radio = card && card.querySelector('input[name="profile"]');
      if (radio && event.target !== radio && !radio.disabled) radio.checked = true;
      show();
    });
    window.addEventListener("pageshow", show);
    form.addEventListener("lab:changed", show);
    show();

    // Mark a typed answer that will not be taken. Only a mark: the pattern is Python's, and the hub decides.
    const mark = (field, patient) => {
      let fits = true;
      try {
        fits = !field.value || new RegExp(`^(?:${field.dataset.pattern})$`, "u").test(field.value);
      } catch {
        // A pattern that only Python can read.
      }
      if (fits) field.removeAttribute("aria-invalid");
      else if (!patient) field.setAttribute("aria-invalid", "true");
    };
    form.querySelectorAll("input[data-pattern]").forEach((field) => {
      field.addEventListener("input", () => mark(field, true));
      field.addEventListener("change", () => mark(field, false));
      mark(field, false);
    });
  }

  // A second click on a button that posts must not post twice; coming back with "Back" makes it usable again.
  document.addEventListener("submit", (event) => {
    const button = event.submitter || event.target.querySelector('button[type="submit"]');
    if (button && !event.defaultPrevented) setTimeout(() => (button.disabled = true), 0);
  });
  window.addEventListener("pageshow", (event) => {
    if (event.persisted) document.querySelectorAll("button[disabled]").forEach((b) => (b.disabled = false));
    if (form && event.persisted) form.dispatchEvent(new Event("lab:changed"));
  });

  // Close the user menu when something else is clicked, and on Escape.
  const menu = document.querySelector(".lab-menu");
  if (menu) {
    document.addEventListener("click", (event) => {
      if (!menu.contains(event.target)) menu.open = false;
    });
    document.addEventListener("keydown", (event) => {
      if (event.key === "Escape") menu.open = false;
    });
  }
})();
