// Draws: elements made of text, never of markup; charts by Plotly; numbers in words.

// What is not printed, line breaks and marks of direction among it, is shown as its code.
export function visible(text) {
  return String(text).replace(/[\p{C}\p{Zl}\p{Zp}]/gu, (each) => `\\u{${each.codePointAt(0).toString(16)}}`);
}

// Plotly obeys some tags in labels: what would be markup is written in its full-width form.
export function label(text, most = 60) {
  const plain = visible(text);
  const cut = plain.length > most ? `${plain.slice(0, most - 1)}…` : plain;
  return cut.replace(/[<>&$]/g, (each) => String.fromCharCode(each.charCodeAt(0) + 0xfee0));
}

export function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (name === "class") made.className = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else if (value !== null && value !== undefined) made.setAttribute(name, value);
  }
  for (const child of children.flat()) {
    if (child === null || child === undefined) continue;
    made.append(child instanceof Node ? child : document.createTextNode(visible(child)));
  }
  return made;
}

// Only addresses of the web: the engine sends no others, and this is not left to it.
export function link(address, text) {
  if (!/^https?:\/\//.test(address || "")) return el("span", {}, text);
  return el("a", { href: address, rel: "noreferrer noopener", target: "_blank" }, text);
}

export const percent = (share) => (share === null || share === undefined ? "–" : `${+(100 * share).toFixed(share < 0.1 ? 1 : 0)} %`);
export const number = (value) => (value === null || value === undefined ? "–" : String(value));

export function seconds(value) {
  if (value === null || value === undefined) return "–";
  if (value < 1) return `${+(1000 * value).toPrecision(3)} ms`;
  if (value < 120) return `${+value.toPrecision(3)} s`;
  return value < 7200 ? `${Math.round(value / 60)} min` : `${Math.round(value / 3600)} h`;
}

export const clock = (at) => (at ? new Date(at * 1000).toLocaleTimeString() : "–");
export const when = (at) => new Date(at * 1000);

export function figures(...pairs) {
  return el("div", { class: "figures" }, pairs.map(([name, value, id]) => el("div", {}, el("b", id ? { "data-figure": id } : {}, value), el("span", {}, name))));
}

export function table(heads, rows, empty) {
  if (!rows.length) return el("p", { class: "empty" }, empty);
  const cell = (tag, value, numeric) => el(tag, numeric ? { class: "number" } : {}, value);
  return el("div", { class: "wide", tabindex: "0" }, el("table", {},
    el("thead", {}, el("tr", {}, heads.map((head) => el("th", { scope: "col", ...(head.number ? { class: "number" } : {}) }, head.name)))),
    el("tbody", {}, rows.map((row) => el("tr", {}, row.map((value, place) => cell("td", value, heads[place].number)))))));
}

function colours() {
  const style = getComputedStyle(document.documentElement);
  const of = (name) => style.getPropertyValue(name).trim();
  return { text: of("--text"), line: of("--line"), card: of("--card"), accent: of("--accent") };
}

// Draws into an element of the given id, which is made once and kept, so that zoom and focus survive.
export function chart(host, id, description, traces, layout, height = 300) {
  let place = host.querySelector(`#${id}`);
  if (!place) {
    place = el("div", { id, class: "chart", role: "img" });
    host.append(place);
  }
  place.setAttribute("aria-label", description);
  const { text, line } = colours();
  const axis = { gridcolor: line, zerolinecolor: line, linecolor: line, automargin: true };
  window.Plotly.react(place, traces, {
    height, paper_bgcolor: "rgba(0,0,0,0)", plot_bgcolor: "rgba(0,0,0,0)",
    font: { color: text, size: 12 }, legend: { orientation: "h", x: 1, xanchor: "right", y: 1.02, yanchor: "bottom" }, hovermode: "closest", uirevision: id,
    ...layout, margin: { l: 60, r: 20, t: 34, b: 40, ...(layout.margin || {}) }, xaxis: { ...axis, ...(layout.xaxis || {}) }, yaxis: { ...axis, ...(layout.yaxis || {}) },
  }, { displayModeBar: false, responsive: true });
  return place;
}

export function curves(host, id, description, title, series, options = {}) {
  const traces = series.map(({ name, times, values, ...style }) => ({
    type: "scatter", mode: "lines", name: label(name), x: times.map(when), y: values, connectgaps: false, ...style,
  }));
  return chart(host, id, description, traces, {
    title: { text: title, font: { size: 13 }, x: 0, xanchor: "left" },
    yaxis: { rangemode: "tozero", ...(options.yaxis || {}) }, ...(options.layout || {}),
  }, options.height || 280);
}
