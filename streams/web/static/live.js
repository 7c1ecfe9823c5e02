// Keeps the page up to date: fetches it again and replaces its content, without closing what the reader has opened.
"use strict";
(() => {
  const REFRESH_S = Number(document.body.dataset.refreshS);

  async function refresh() {
    try {
      const response = await fetch(location.href, { cache: "no-store" });
      if (!response.ok) throw new Error(response.status);
      const page = new DOMParser().parseFromString(await response.text(), "text/html").getElementById("page");
      for (const open of document.querySelectorAll("details[open][id]")) page.querySelector(`#${CSS.escape(open.id)}`)?.setAttribute("open", "");
      document.getElementById("page").replaceWith(document.adoptNode(page));
      window.twinstream.drawCharts();
      document.title = "Twinstream";
    } catch {
      document.title = "Twinstream (not reachable)";
    }
  }

  setInterval(() => document.hidden || getSelection().toString() || refresh(), 1000 * REFRESH_S);
})();
