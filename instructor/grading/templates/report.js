"use strict";

// Sort a table by one of its columns; a second click turns the order round. Rows without a value
// stay at the end in both.
function sortBy(header) {
  const body = header.closest("table").tBodies[0];
  const numeric = header.dataset.kind === "number";
  const now = header.getAttribute("aria-sort");
  const down = now === "none" ? numeric : now === "ascending";
  const rows = Array.from(body.rows, (row) => {
    const value = row.cells[header.cellIndex].dataset.value;
    return { row, missing: value === undefined, value: numeric ? Number(value) : value };
  });
  rows.sort((a, b) => {
    if (a.missing || b.missing) return a.missing - b.missing;
    const order = numeric ? a.value - b.value : a.value.localeCompare(b.value);
    return down ? -order : order;
  });
  body.append(...rows.map((item) => item.row));
  for (const other of header.parentElement.cells) other.setAttribute("aria-sort", "none");
  header.setAttribute("aria-sort", down ? "descending" : "ascending");
}

for (const header of document.querySelectorAll("th[aria-sort]")) {
  header.querySelector("button").addEventListener("click", () => sortBy(header));
}

// A link to a student opens what it leads to.
function openTarget() {
  const section = document.getElementById(location.hash.slice(1));
  if (section === null || !section.matches(".student")) return;
  section.querySelector("details").open = true;
  section.scrollIntoView();
}
window.addEventListener("hashchange", openTarget);
openTarget();

const students = Array.from(document.querySelectorAll(".student > details"));
for (const button of document.querySelectorAll("button[data-open]")) {
  button.addEventListener("click", () => {
    for (const details of students) details.open = button.dataset.open === "yes";
  });
}
