"use strict";
{
  for (const button of document.querySelectorAll("th button")) {
    button.addEventListener("click", () => {
      const header = button.closest("th");
      const table = header.closest("table");
      const column = [...header.parentElement.children].indexOf(header);
      const descending = header.getAttribute("aria-sort") === "ascending";
      for (const other of table.querySelectorAll("th[aria-sort]")) other.removeAttribute("aria-sort");
      header.setAttribute("aria-sort", descending ? "descending" : "ascending");
      const body = table.tBodies[0];
      const key = (row) => row.children[column].dataset.value ?? row.children[column].textContent.trim();
      const compare = (a, b) => {
        const [x, y] = [key(a), key(b)];
        // What was not measured stays at the end, whichever way the column is sorted.
        if (x === "" || y === "") return (x === "") - (y === "");
        const [n, m] = [Number(x), Number(y)];
        const order = Number.isNaN(n) || Number.isNaN(m) ? x.localeCompare(y) : n - m;
        return descending ? -order : order;
      };
      body.append(...[...body.rows].sort(compare));
      document.getElementById("sorted").textContent =
        `Sorted by ${button.textContent.trim()}, ${descending ? "largest" : "smallest"} first.`;
    });
  }
}
