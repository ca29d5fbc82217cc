// One position: the slider, the keys, the marks and the links all lead to `go`, which moves everything together.
const events = data.events, view = data.view, last = events.length;
const slider = $("slider"), caption = $("caption"), cursor = $("cursor"), ahead = $("ahead"), raw = $("raw");
const right = Number(ahead.getAttribute("x"));
const edges = [...document.querySelectorAll("#machine .edge")].map((g) => ({
  g,
  text: g.querySelector("text"),
  verb: g.dataset.verb,
  taken: g.dataset.e ? g.dataset.e.split(",").map(Number) : [],
}));
const boxes = new Map([...document.querySelectorAll("#machine .state")].map((g) => [g.dataset.state, g]));
const firstIn = new Map(); // state -> first event after which the position was in it
for (const e of events) if (e.state_after && !firstIn.has(e.state_after)) firstIn.set(e.state_after, e.version);
const marks = new Map([...document.querySelectorAll("#chart a.mark")].map((a) => [Number(a.dataset.e), a]));
let current = 0, row = null, mark = null;

function numbers(verb, taken) {
  if (!taken.length) return "";
  const shown = taken.slice(0, 3).map((n) => "#" + n).join(", ");
  return verb + " " + shown + (taken.length > 3 ? " +" + (taken.length - 3) : "");
}

function foldOf(n) {
  const fold = view.folds.find(([first, end]) => first <= n && n <= end);
  return fold ? document.querySelector('tbody[data-fold="' + fold[0] + '"]') : null;
}

// The line of an event; that of its stretch while it is folded.
function rowOf(n) {
  const body = foldOf(n);
  return body && !body.classList.contains("opened") ? body.querySelector(".summary") : $("e" + n);
}

function open(body) {
  const template = body.querySelector("template");
  const button = body.querySelector("button.open");
  if (template) {
    body.append(template.content);
    template.remove();
    body.classList.add("opened");
  } else {
    body.classList.toggle("opened");
  }
  const shown = body.classList.contains("opened");
  button.textContent = shown ? "▾" : "▸";
  button.setAttribute("aria-expanded", String(shown));
}

function unfold(n) {
  const body = foldOf(n);
  if (body && !body.classList.contains("opened")) open(body);
}

// The list of events has a frame of its own: it follows without moving the page.
function reveal(line) {
  const frame = line.closest(".scroll"), head = frame.querySelector("thead").offsetHeight;
  const above = line.offsetTop - head - 8, below = line.offsetTop + line.offsetHeight + 8;
  if (above < frame.scrollTop) frame.scrollTop = above;
  else if (below > frame.scrollTop + frame.clientHeight) frame.scrollTop = below - frame.clientHeight;
}

function go(n, { scroll = false, link = true, show = true } = {}) {
  n = Math.min(Math.max(n, 1), last);
  const e = events[n - 1];
  current = n;
  slider.value = n;
  slider.setAttribute("aria-valuetext", "event " + n + ": " + e.name);
  const x = view.x[n - 1];
  cursor.setAttribute("transform", "translate(" + x + " 0)");
  ahead.setAttribute("x", x);
  ahead.setAttribute("width", n === last ? 0 : Math.max(0, right - x));
  for (const edge of edges) {
    const taken = edge.taken.filter((v) => v <= n);
    edge.g.classList.toggle("taken", taken.length > 0);
    edge.g.classList.toggle("now", taken.includes(n));
    edge.text.textContent = numbers(edge.verb, taken);
  }
  for (const [name, box] of boxes) {
    box.classList.toggle("seen", firstIn.has(name) && firstIn.get(name) <= n);
    box.classList.toggle("current", name === e.state_after);
  }
  if (row) row.classList.remove("selected");
  row = rowOf(n);
  if (row) {
    row.classList.add("selected");
    if (show) reveal(row);
    if (scroll) row.scrollIntoView({ block: "center" });
  }
  if (mark) mark.classList.remove("selected");
  mark = marks.get(n) || null;
  if (mark) mark.classList.add("selected");
  follow_cursor();
  say(n, e);
  raw.textContent = JSON.stringify(e, null, 2);
  if (link) history.replaceState(null, "", "#e" + n);
}

// On a narrow screen the picture is wider than its frame.
function follow_cursor() {
  const frame = cursor.closest(".card");
  if (frame.scrollWidth <= frame.clientWidth) return;
  const at = cursor.getBoundingClientRect().left - frame.getBoundingClientRect().left;
  if (at < 40 || at > frame.clientWidth - 40) frame.scrollLeft += at - frame.clientWidth / 2;
}

function say(n, e) {
  const part = (name, text) => {
    const made = document.createElement(name);
    made.textContent = text;
    return made;
  };
  const moved = e.state_before !== e.state_after ? (e.state_before || "(nothing)") + " → " + e.state_after : e.state_after;
  caption.replaceChildren(
    part("b", "#" + n + " of " + last),
    part("span", e.at.replace("T", " ").replace("Z", "")),
    part("b", e.name),
    part("span", e.what),
    part("i", moved || ""),
  );
}

slider.addEventListener("input", () => go(Number(slider.value)));
$("prev").addEventListener("click", () => go(current - 1));
$("next").addEventListener("click", () => go(current + 1));
document.addEventListener("keydown", (key) => {
  if (key.altKey || key.ctrlKey || key.metaKey || key.target.matches("input:not(#slider), select, textarea")) return;
  const steps = { ArrowLeft: -1, ArrowRight: 1, PageUp: -10, PageDown: 10, Home: -last, End: last };
  const arrows = key.key.startsWith("Arrow");
  if (!(key.key in steps) || (!arrows && key.target !== slider)) return;
  key.preventDefault();
  go(current + steps[key.key]);
});
document.addEventListener("click", (click) => {
  const button = click.target.closest("button.open, tr.summary");
  if (button) return open(button.closest("tbody"));
  const link = click.target.closest('a[href^="#e"]');
  if (link) {
    click.preventDefault();
    const n = Number(link.getAttribute("href").slice(2));
    unfold(n);
    return go(n, { scroll: !link.closest("#chart") && !link.closest("tr[id]")?.id.endsWith("e" + n) });
  }
  const line = click.target.closest("#events tr[id]");
  if (line && !getSelection().toString()) go(Number(line.id.slice(1)));
});
$("download").addEventListener("click", () => {
  const { view: _, ...rest } = data;
  download($("download").dataset.name, JSON.stringify(rest, null, 1));
});

function follow() {
  const asked = /^#e(\d+)$/.exec(location.hash);
  if (asked) {
    unfold(Number(asked[1]));
    go(Number(asked[1]), { scroll: true });
  } else if (!current) {
    go(last, { link: false, show: false });
  }
}
addEventListener("hashchange", follow);
follow();
