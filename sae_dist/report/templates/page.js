// A click on a heading sorts the table by its column; another click turns the order round.
for (const heading of document.querySelectorAll(".sortable th")) {
  heading.firstChild.addEventListener("click", () => {
    const isAscending = heading.getAttribute("aria-sort") !== "ascending";
    const column = heading.cellIndex, body = heading.closest("table").tBodies[0];
    const value = (row) => row.cells[column].dataset.value;
    const order = (a, b) => {
      if (value(a) === "" || value(b) === "") return (value(a) === "") - (value(b) === "");
      const difference = Number(value(a)) - Number(value(b));
      const sign = Number.isNaN(difference) ? value(a).localeCompare(value(b)) : difference;
      return isAscending ? sign : -sign;
    };
    for (const other of heading.parentNode.cells) other.removeAttribute("aria-sort");
    heading.setAttribute("aria-sort", isAscending ? "ascending" : "descending");
    body.append(...[...body.rows].sort(order));
  });
}

// The contents show which part is open. The parts themselves are shown and hidden by style alone.
function showPlace() {
  const isThere = document.getElementById(decodeURIComponent(location.hash.slice(1)));
  const here = isThere ? decodeURIComponent(location.hash) : "#overview";
  for (const link of document.querySelectorAll("nav a:not(.run)")) {
    if (link.getAttribute("href") === here) {
      link.setAttribute("aria-current", "page");
      const far = Math.max(0, link.offsetLeft + link.offsetWidth - innerWidth / 2);
      document.querySelector("nav").scrollLeft = far; // where it is a strip
    } else link.removeAttribute("aria-current");
  }
}
addEventListener("hashchange", showPlace);
showPlace();
