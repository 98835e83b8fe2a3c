// Heads of columns become buttons, which would do nothing without this script.
for (const head of document.querySelectorAll("thead th")) {
  const button = document.createElement("button");
  button.append(...head.childNodes);
  head.append(button);
}
// A click on a column's head sorts its table: numbers by value, words as words, what is missing last.
document.addEventListener("click", (event) => {
  const button = event.target.closest("th button");
  if (!button) return;
  const head = button.parentElement;
  const column = head.cellIndex;
  const down = head.getAttribute("aria-sort") === "ascending";
  for (const other of head.parentElement.cells) other.removeAttribute("aria-sort");
  head.setAttribute("aria-sort", down ? "descending" : "ascending");
  const body = head.closest("table").tBodies[0];
  const key = (row) => {
    const text = row.cells[column].textContent;
    const value = parseFloat(text.replaceAll(",", ""));
    return { text, value, missing: text === "—" };
  };
  const rows = [...body.rows].map((row) => [key(row), row]);
  const numeric = rows.every(([a]) => a.missing || !Number.isNaN(a.value));
  const sign = down ? -1 : 1;
  rows.sort(([a], [b]) => a.missing - b.missing || sign * (numeric && !a.missing ? a.value - b.value : a.text.localeCompare(b.text)));
  body.append(...rows.map(([, row]) => row));
});
// A print unfolds the parts that are meant for it. A link into a folded part unfolds it.
addEventListener("beforeprint", () => {
  for (const part of document.querySelectorAll("details.printed")) part.open = true;
});
const unfold = () => {
  const part = location.hash && document.getElementById(location.hash.slice(1));
  for (let each = part; each; each = each.parentElement) if (each.tagName === "DETAILS") each.open = true;
};
addEventListener("hashchange", unfold);
unfold();
