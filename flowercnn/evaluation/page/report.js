"use strict";
const data = JSON.parse(document.getElementById("embedded").textContent);
const percent = (share) => (100 * share).toFixed(share > 0 && share < 0.1 ? 1 : 0) + " %";

function element(tag, text, className) {
  const made = document.createElement(tag);
  if (text !== undefined) made.textContent = text; // text is never read as HTML
  if (className) made.className = className;
  return made;
}

function imageItem(index) {
  const [key, truth, predicted, confidence] = data.images[index];
  const item = element("li");
  const thumbnail = data.thumbnails[index];
  if (thumbnail) {
    const image = element("img");
    image.src = "data:image/jpeg;base64," + thumbnail;
    image.alt = data.classes[truth] + ", taken for " + data.classes[predicted];
    item.append(image);
  } else {
    item.append(element("span", undefined, "none"));
  }
  if (truth !== predicted) item.append(element("b", data.classes[truth]), element("br"));
  item.append(element("span", data.classes[predicted] + " " + percent(confidence), truth === predicted ? "" : "took"));
  item.append(element("br"), element("span", key, "name"));
  return item;
}

function showCell(button) {
  const row = Number(button.dataset.row), column = Number(button.dataset.column);
  document.querySelectorAll(".matrix [aria-pressed=true]").forEach((other) => other.setAttribute("aria-pressed", "false"));
  button.setAttribute("aria-pressed", "true");
  const found = data.images.map((_, index) => index).filter((i) => data.images[i][1] === row && data.images[i][2] === column);
  found.sort((a, b) => data.images[b][3] - data.images[a][3]);
  const panel = document.getElementById("cell");
  const title = row === column ? data.classes[row] + ", recognised" : data.classes[row] + " taken for " + data.classes[column];
  const list = element("ul", undefined, "images");
  list.append(...found.slice(0, 60).map(imageItem));
  panel.replaceChildren(element("h3", title + " (" + found.length + ")"), list);
  if (found.length > 60) panel.append(element("p", "and " + (found.length - 60) + " more"));
}

const cells = [...document.querySelectorAll(".matrix td button")];
const at = new Map(cells.map((button) => [button.dataset.row + "," + button.dataset.column, button]));
cells.forEach((button, number) => {
  button.tabIndex = number ? -1 : 0; // one stop for the tab key; arrows move within
  button.addEventListener("click", () => showCell(button));
  button.addEventListener("keydown", (event) => {
    const step = { ArrowRight: [0, 1], ArrowLeft: [0, -1], ArrowDown: [1, 0], ArrowUp: [-1, 0] }[event.key];
    if (!step) return;
    event.preventDefault();
    let row = Number(button.dataset.row), column = Number(button.dataset.column);
    for (let tries = 0; tries < data.classes.length; tries++) {
      row += step[0];
      column += step[1];
      const next = at.get(row + "," + column);
      if (!next) continue;
      button.tabIndex = -1;
      next.tabIndex = 0;
      next.focus();
      return;
    }
  });
});

document.querySelectorAll("table.sortable").forEach((table) => {
  const headers = [...table.tHead.rows[0].cells];
  headers.forEach((header, column) => {
    header.firstElementChild.addEventListener("click", () => {
      const down = header.getAttribute("aria-sort") === "descending" || (column === 0 && header.getAttribute("aria-sort") !== "ascending");
      headers.forEach((other) => other.removeAttribute("aria-sort"));
      header.setAttribute("aria-sort", down ? "ascending" : "descending");
      const value = (row) => row.cells[column].dataset.value ?? row.cells[column].textContent;
      const rows = [...table.tBodies[0].rows].sort((a, b) => {
        const x = value(a), y = value(b);
        const order = column === 0 ? x.localeCompare(y) : Number(x) - Number(y);
        return down ? order : -order;
      });
      table.tBodies[0].append(...rows);
      document.getElementById("status").textContent = "Sorted by " + header.firstElementChild.textContent + ", " + header.getAttribute("aria-sort");
    });
  });
});
