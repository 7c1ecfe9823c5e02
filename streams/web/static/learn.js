// Sends the chosen file of the form as it is, and shows beside the field why it was refused: nothing that was entered is lost.
"use strict";
(() => {
  const TYPES = { csv: "text/csv", txt: "text/csv", tsv: "text/csv", parquet: "application/vnd.apache.parquet" };

  document.addEventListener("submit", (event) => {
    if (event.target.id !== "upload") return;
    event.preventDefault();
    send(event.target);
  });

  async function send(form) {
    const button = form.querySelector("button"), file = form.elements.file.files[0];
    if (!file) return refuse(form, "Choose a file first.");
    const type = TYPES[file.name.toLowerCase().split(".").pop()];
    if (!type) return refuse(form, `${file.name} is neither CSV (.csv, .txt, .tsv) nor Parquet (.parquet): save it as one of these.`);
    const parameters = new URLSearchParams({ name: file.name, twin_type: form.elements.twin_type.value });
    for (const name of ["decimal", "date_order", "timezone"]) if (form.elements[name].value) parameters.set(name, form.elements[name].value);
    button.disabled = true;
    tell(form, "Sending the table…");
    try {
      const reply = await fetch(`/api/v1/tables?${parameters}`, { method: "POST", body: file, headers: { "Content-Type": type } });
      const answer = await reply.json();
      if (reply.status === 201) return location.assign(`/learn/${answer.table_id}`);
      refuse(form, answer.detail);
    } catch {
      refuse(form, "The service does not answer: try again in a moment.");
    } finally {
      button.disabled = false;
    }
  }

  function refuse(form, sentence) {
    tell(form, "");
    form.setAttribute("data-changed", "");
    const file = form.elements.file, error = form.querySelector("[role=alert]");
    error.textContent = sentence;
    file.setAttribute("aria-invalid", "true");
    file.focus();
  }

  function tell(form, text) {
    form.querySelector("[role=alert]").textContent = "";
    form.elements.file.removeAttribute("aria-invalid");
    form.querySelector("[role=status]").textContent = text;
  }
})();
