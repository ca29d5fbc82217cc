// A whole store: sort by a column, filter, and totals of what is left.
const body = document.querySelector("#positions tbody");
const lines = [...body.rows].map((row) => ({ row, p: data.positions[Number(row.dataset.n)] }));
const heads = [...document.querySelectorAll("#positions th")];
const filters = { state: $("filter-state"), reason: $("filter-reason"), symbol: $("filter-symbol") };
const find = $("filter-text");
let sorted = { column: -1, down: false };

function reasonOf(p) {
  return p.reason || (p.state === "filled" || p.state === "closed" ? "closed elsewhere" : "–");
}

function keeps(p) {
  const said = { state: p.state, reason: reasonOf(p), symbol: p.symbol };
  const text = find.value.trim().toLowerCase();
  return Object.entries(filters).every(([name, select]) => !select.value || select.value === said[name])
    && (!text || (p.position_id + " " + p.strategy_name).toLowerCase().includes(text));
}

// Sums of decimals, exact: as whole numbers of the smallest place.
function sum(texts) {
  const places = Math.max(0, ...texts.map((x) => (x.split(".")[1] || "").length));
  let total = 0n;
  for (const text of texts) {
    const [whole, part = ""] = text.replace("-", "").split(".");
    const value = BigInt(whole + part.padEnd(places, "0"));
    total += text.startsWith("-") ? -value : value;
  }
  const digits = (total < 0n ? -total : total).toString().padStart(places + 1, "0");
  const whole = digits.slice(0, digits.length - places), part = digits.slice(digits.length - places).replace(/0+$/, "");
  return (total < 0n ? "-" : total > 0n ? "+" : "") + whole + (part ? "." + part : "");
}

function tile(name, text, value) {
  const made = $("total-" + name);
  made.textContent = text;
  made.className = value > 0 ? "gain" : value < 0 ? "loss" : "";
}

function totals(kept) {
  const known = kept.filter((p) => p.pnl !== null);
  const count = (n) => n.toLocaleString("en-US");
  tile("shown", count(kept.length));
  tile("open", count(kept.filter((p) => p.state !== "filled" && p.state !== "closed").length));
  const pnl = sum(known.map((p) => p.pnl));
  tile("pnl", pnl, Number(pnl));
  const average = known.length ? known.reduce((s, p) => s + Number(p.pnl_pct), 0) / known.length : null;
  const shown = average === null ? "–" : (average > 0 ? "+" : "") + Number(average.toFixed(4)) + " %";
  tile("average", shown, average || 0);
  const won = known.filter((p) => Number(p.pnl) > 0).length;
  tile("won", known.length ? Math.round((won / known.length) * 100) + "%" : "–");
}

function filter() {
  const kept = [];
  for (const { row, p } of lines) {
    const stays = keeps(p);
    row.hidden = !stays;
    if (stays) kept.push(p);
  }
  $("nothing").hidden = kept.length > 0;
  totals(kept);
}

function sort(column) {
  const numeric = heads[column].classList.contains("num");
  const down = sorted.column === column ? !sorted.down : numeric;
  sorted = { column, down };
  const value = (line) => line.row.cells[column].dataset.v;
  const compare = (a, b) => {
    const x = value(a), y = value(b);
    if (x === "" || y === "") return (x === "") - (y === "");  // what is not known comes last, either way
    const order = numeric ? Number(x) - Number(y) : x < y ? -1 : x > y ? 1 : 0;
    return down ? -order : order;
  };
  lines.sort((a, b) => compare(a, b) || Number(a.row.dataset.n) - Number(b.row.dataset.n));
  body.append(...lines.map((line) => line.row));
  heads.forEach((head, i) => {
    if (i === column) head.setAttribute("aria-sort", down ? "descending" : "ascending");
    else head.removeAttribute("aria-sort");
  });
}

heads.forEach((head, i) => head.querySelector("button").addEventListener("click", () => sort(i)));
for (const select of Object.values(filters)) select.addEventListener("change", filter);
find.addEventListener("input", filter);
$("reset").addEventListener("click", () => {
  for (const select of Object.values(filters)) select.value = "";
  find.value = "";
  filter();
});
$("download").addEventListener("click", () => download($("download").dataset.name, JSON.stringify(data, null, 1)));
