// Counts the people behind the filters while they are chosen, and shows the filters of another line when it is. Without scripts
// two buttons of the form do the same.
"use strict";
(() => {
  const PAUSE_MS = 250;
  const form = document.getElementById("ask");
  if (!form) return;
  let waiting = 0, asked = 0;

  const address = (path) => {
    const fields = [...new FormData(form)].filter(([name, value]) => value !== "" && name !== "key");
    return `${path}?${new URLSearchParams(fields)}`;
  };

  async function count() {
    const own = ++asked;
    try {
      const response = await fetch(address("/ask/people"), { cache: "no-store" });
      const text = await response.text();
      if (own === asked) document.getElementById("people-count").textContent = response.ok ? text : "";
    } catch {
      if (own === asked) document.getElementById("people-count").textContent = "";
    }
  }

  function schedule() {
    clearTimeout(waiting);
    waiting = setTimeout(count, PAUSE_MS);
  }

  async function showFilters() {
    const response = await fetch(address("/ask"), { cache: "no-store" });
    const fresh = new DOMParser().parseFromString(await response.text(), "text/html").getElementById("filters");
    if (fresh) document.getElementById("filters").replaceChildren(...document.adoptNode(fresh).childNodes);
    schedule();
  }

  document.getElementById("count").hidden = true;
  document.getElementById("use-line")?.toggleAttribute("hidden", true);
  form.addEventListener("input", schedule);
  document.getElementById("line").addEventListener("change", showFilters);
  document.querySelector("[aria-invalid]")?.focus();
  count();
})();
