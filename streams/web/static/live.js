// Keeps a page up to date: fetches it again when the service tells of a change, without closing or moving what the reader is at.
"use strict";
(() => {
  const AT_LEAST_MS = 1500, AGES_MS = 30_000, AGAIN_MS = 3000;
  const status = document.getElementById("live");
  let refreshed = Date.now(), waiting = 0, isStale = false;

  const isBusy = () => {
    const active = document.activeElement;
    const isTyping = active && active.closest("#page form") && active.matches("input, select, textarea");
    return document.hidden || isTyping || getSelection().toString() !== "" || document.querySelector("#page form[data-changed]") !== null;
  };

  async function refresh() {
    if (isBusy()) {
      isStale = true;
      return;
    }
    isStale = false;
    refreshed = Date.now();
    try {
      const response = await fetch(location.href, { cache: "no-store" });
      if (response.status >= 500) throw new Error(response.status);
      replace(new DOMParser().parseFromString(await response.text(), "text/html").getElementById("page"));
      tell("live");
    } catch {
      tell("not reachable, trying again");
    }
  }

  function replace(fresh) {
    const page = document.getElementById("page");
    if (isBusy()) return;
    for (const details of page.querySelectorAll("details[id]")) fresh.querySelector(`#${CSS.escape(details.id)}`)?.toggleAttribute("open", details.open);
    const focused = page.contains(document.activeElement) ? pathOf(document.activeElement, page) : null;
    for (const figure of page.querySelectorAll("figure[data-chart][id]")) keep(figure, fresh.querySelector(`#${CSS.escape(figure.id)}`));
    page.replaceChildren(...document.adoptNode(fresh).childNodes);
    window.twinstream.drawCharts();
    if (focused) follow(focused, page)?.focus({ preventScroll: true });
  }

  // A chart of the same numbers stays as it is, with its zoom.
  function keep(figure, other) {
    const data = (element) => element?.querySelector("script[type='application/json']")?.textContent;
    if (other && data(figure) === data(other)) other.replaceWith(figure);
  }

  function pathOf(element, root) {
    const path = [];
    for (let node = element; node !== root; node = node.parentElement) path.unshift([...node.parentElement.children].indexOf(node));
    return path;
  }

  const follow = (path, root) => path.reduce((node, index) => node?.children[index], root);

  function tell(text) {
    if (status && status.textContent !== text) status.textContent = text;
  }

  function schedule() {
    clearTimeout(waiting);
    waiting = setTimeout(refresh, Math.max(0, AT_LEAST_MS - (Date.now() - refreshed)));
  }

  function listen() {
    const events = new EventSource("/events");
    events.addEventListener("open", () => tell("live"));
    events.addEventListener("change", schedule);
    events.addEventListener("error", () => {
      tell("not reachable, trying again");
      if (events.readyState === EventSource.CLOSED) setTimeout(listen, AGAIN_MS);
    });
    addEventListener("pagehide", () => events.close(), { once: true });
  }

  addEventListener("pageshow", (event) => event.persisted && listen());
  document.addEventListener("input", (event) => event.target.form?.setAttribute("data-changed", ""));
  document.addEventListener("visibilitychange", () => isStale && schedule());
  document.addEventListener("focusout", () => isStale && schedule());
  setInterval(refresh, AGES_MS);
  listen();
})();
