// Sends what a person decides on a page to the HTTP API, and shows its answer beside the button. Nothing that was typed is lost.
"use strict";
(() => {
  const READ = {
    text: (field) => field.value.trim() || undefined,
    number: (field) => (field.value === field.defaultValue ? undefined : Number(field.value)),
    flag: (field) => (field.checked === field.defaultChecked ? undefined : field.checked),
    bytes: (field) => (field.value === field.defaultValue ? undefined : base64(field.value)),
  };
  const sent = new WeakMap(); // by form: what was sent last, and its key, so that the same is done once however often it is sent

  function bodyOf(form) {
    const named = [...form.elements].filter((field) => field.name);
    const values = named.map((field) => [field.name, READ[field.dataset.kind ?? "text"](field)]);
    return JSON.stringify(Object.fromEntries(values.filter(([, value]) => value !== undefined)));
  }

  const base64 = (text) => btoa(Array.from(new TextEncoder().encode(text), (byte) => String.fromCharCode(byte)).join(""));

  function keyOf(form, body) {
    if (sent.get(form)?.body !== body) sent.set(form, { body, key: crypto.randomUUID() });
    return sent.get(form).key;
  }

  function tell(form, text, isBad) {
    const answer = form.querySelector(".answer");
    answer.textContent = text;
    answer.classList.toggle("bad", isBad);
  }

  async function send(form) {
    const body = bodyOf(form);
    form.setAttribute("data-changed", ""); // live.js replaces nothing meanwhile
    form.setAttribute("aria-busy", "true");
    tell(form, "Sending", false);
    try {
      const headers = { "Content-Type": "application/json", "Idempotency-Key": keyOf(form, body) };
      const response = await fetch(form.dataset.address, { method: form.dataset.method, headers, body });
      if (response.status === 401) location.assign(`/login?next=${encodeURIComponent(location.pathname + location.search)}`);
      if (response.ok) finish(form);
      else tell(form, sentence((await response.json()).detail), true);
    } catch {
      tell(form, "The service does not answer: try again.", true);
    }
    form.removeAttribute("aria-busy");
  }

  function finish(form) {
    sent.delete(form);
    form.reset();
    form.removeAttribute("data-changed");
    tell(form, form.dataset.done, false);
  }

  const sentence = (text) => `${text.charAt(0).toUpperCase()}${text.slice(1)}.`;

  document.addEventListener("submit", (event) => {
    const form = event.target.closest("form[data-address]");
    if (!form) return;
    event.preventDefault();
    if (!form.hasAttribute("aria-busy")) send(form);
  });
})();
