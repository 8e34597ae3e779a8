// The six panels: each shows its part of the page's numbers, and says so plainly where there are none.
import { chart, clock, curves, el, figures, label, link, number, percent, seconds, table, visible, when } from "/page/draw.js";

const STATE_CLASS = { ok: "good", warming: "warn", draining: "warn", anomalous: "warn", failing: "bad", ejected: "bad", silent: "bad", running: "warn", failed: "bad" };
let quantity = "throughput";
let cell = null;
let cellShown = null;

// A part of a panel by name, made once.
function part(host, name) {
  let found = host.querySelector(`:scope > [data-part="${name}"]`);
  if (!found) {
    found = el("div", { "data-part": name });
    host.append(found);
  }
  return found;
}

// Fills a part anew only when its numbers are others, so that focus and scrolling stay.
function fill(host, name, data, make) {
  const place = part(host, name);
  const mark = JSON.stringify(data) ?? "";
  if (place.mark === mark) return place;
  place.mark = mark;
  place.replaceChildren(...make(data).filter(Boolean));
  return place;
}

const hint = (text) => el("p", { class: "hint" }, text);
const empty = (text) => el("p", { class: "empty" }, text);
const coloured = (state) => el("span", { class: STATE_CLASS[state] || "" }, state);

function clearChart(host, id, text) {
  const old = host.querySelector(`#${id}`);
  if (old) {
    window.Plotly.purge(old);
    old.remove();
  }
  fill(host, "none", text, (said) => [said ? empty(said) : null]);
}

// Fleet.

function showFleet(host, page) {
  const { fleet } = page;
  fill(host, "about", [fleet.states, fleet.known], () => [
    hint("Each row is a host, each column a kind of request. Yellow is the fastest host of a column, dark a slow one. Select a field to see what was measured beside what was predicted."),
    figures(...Object.entries(fleet.states).map(([state, count]) => [state, String(count), `fleet-${state}`])),
  ]);
  if (!page.frozen) showChoices(host, page);
  const map = part(host, "map");
  if (fleet.picture) {
    clearChart(map, "nothing", "");
    heatMap(map, fleet.picture);
  } else clearChart(map, "heat", "No host has reported yet. Start `fingerpost agent` beside a host, with FINGERPOST_ENGINE_URL set to this address.");
  showCell(part(host, "cell"), page);
  fill(host, "hosts", fleet.hosts, (hosts) => [
    el("h3", {}, "Hosts"),
    table(
      [{ name: "host" }, { name: "state" }, { name: "why" }, { name: "class, zone" }, { name: "requests/s", number: true }, { name: "slower than predicted", number: true }, { name: "last heard", number: true }],
      hosts.map((each) => [each.name, coloured(each.state), each.why.join("; "), [each.class, each.zone].filter(Boolean).join(", "), number(each.rate_rps), each.off === null ? "–" : `${each.off} ×`, seconds(each.age_s)]),
      "No host is known."),
    fleet.known > hosts.length ? hint(`${fleet.known - hosts.length} more hosts are well.`) : null,
  ]);
}

function showChoices(host, page) {
  const names = page.fleet.picture ? { hosts: page.fleet.picture.hosts, categories: page.fleet.picture.categories } : null;
  fill(host, "choices", names, () => {
    if (!names) return [];
    const option = (name) => el("option", { value: name }, name);
    const hosts = el("select", { id: "cell-host" }, names.hosts.map(option));
    const categories = el("select", { id: "cell-category" }, names.categories.map(option));
    const shown = el("select", { id: "quantity" }, option("throughput"), option("latency"));
    shown.value = quantity;
    if (cell) {
      hosts.value = cell.host;
      categories.value = cell.category;
    }
    const pick = () => {
      cell = { host: hosts.value, category: categories.value, service: page.service };
      cellShown = null;
      showCell(part(host, "cell"), page);
    };
    shown.addEventListener("change", () => {
      quantity = shown.value;
      heatMap(part(host, "map"), page.fleet.picture);
    });
    return [el("p", {}, el("label", {}, "Show ", shown), " ", el("label", {}, "Host ", hosts), " ", el("label", {}, "Category ", categories), " ",
      el("button", { type: "button", id: "cell-show", onclick: pick }, "Show over time"))];
  });
}

function heatMap(host, picture) {
  const relative = quantity === "throughput" ? picture.relative_throughput : picture.relative_latency;
  const rows = picture.hosts.map((name, place) => (picture.states[place] === "ok" ? label(name, 30) : `${label(name, 30)} (${picture.states[place]})`));
  const texts = picture.hosts.map((name, row) => picture.categories.map((category, column) => [
    label(name), label(category), number(picture.throughput_rps[row][column]), seconds(picture.latency_p50_s[row][column]),
    percent(relative[row][column]), number(picture.evidence[row][column])]));
  const place = chart(host, "heat", `Hosts by categories: ${quantity} relative to the best host of each category`, [{
    type: "heatmap", z: relative, customdata: texts, zmin: 0, zmax: 1, colorscale: "Viridis", xgap: 1, ygap: 1,
    colorbar: { title: { text: "share of the best" }, thickness: 12 },
    hovertemplate: "%{customdata[0]}<br>%{customdata[1]}<br>%{customdata[2]} requests/s, median %{customdata[3]}<br>%{customdata[4]} of the best host, %{customdata[5]} requests seen<extra></extra>",
  }], {
    xaxis: { tickvals: picture.categories.map((_, number) => number), ticktext: picture.categories.map((name) => label(name, 28)), tickangle: 30, side: "bottom" },
    yaxis: { tickvals: rows.map((_, number) => number), ticktext: rows, autorange: "reversed" },
    margin: { t: 10, b: 120 },
  }, Math.min(1100, 190 + 22 * rows.length));
  place.picture = picture;
  if (!place.clickable && document.getElementById("cell-show")) {
    place.clickable = true;
    place.on("plotly_click", (event) => {
      const [row, column] = event.points[0].pointIndex;
      document.getElementById("cell-host").value = place.picture.hosts[row];
      document.getElementById("cell-category").value = place.picture.categories[column];
      document.getElementById("cell-show").click();
    });
  }
  fill(host, "more", [picture.all_hosts, picture.all_categories], ([hosts, categories]) => [
    hosts > picture.hosts.length || categories > picture.categories.length
      ? hint(`The picture has ${picture.hosts.length} of ${hosts} hosts, those with something to tell first, and the ${picture.categories.length} busiest of ${categories} categories.`) : null]);
}

async function showCell(host, page) {
  if (!cell || cell.service !== page.service || cellShown === Math.floor(page.now / 5)) return;
  cellShown = Math.floor(page.now / 5);
  const asked = cell;
  let found;
  try {
    const answer = await fetch(`/v1/page/cell?${new URLSearchParams(asked)}`, { cache: "no-store" });
    found = await answer.json();
    if (!answer.ok) throw new Error(found.error);
  } catch (error) {
    if (!(error instanceof TypeError)) fill(host, "title", error.message, (text) => [empty(text)]);
    return;
  }
  if (asked !== cell) return;
  fill(host, "title", [found.host, found.category, found.now, found.compared], () => [
    el("h3", { id: "cell-title" }, `${found.host} at ${found.category}`),
    found.now ? figures(
      ["predicted requests/s, alone", number(found.now.throughput_rps), "cell-throughput"], ["predicted median", seconds(found.now.latency_p50_s), "cell-p50"],
      ["predicted p99", seconds(found.now.latency_p99_s), "cell-p99"], ["requests it rests on", number(found.now.evidence), "cell-evidence"]) : empty("It is in no table now."),
    found.times.length ? null : empty("Nothing to draw yet: a window of 10 s has to end after a prediction."),
  ]);
  if (!found.times.length) return;
  const name = quantity === "throughput" ? "throughput_rps" : "latency_p50_s";
  const predicted = found.predicted[name];
  const series = [];
  if (found.interval) {
    const [low, high] = found.interval[name];
    const band = (factor) => predicted.map((value) => (value === null ? null : value * factor));
    series.push({ name: "low", times: found.times, values: band(low), line: { width: 0 }, showlegend: false, hoverinfo: "skip" });
    series.push({ name: "held 80 % of what was measured", times: found.times, values: band(high), line: { width: 0 }, fill: "tonexty", fillcolor: "rgba(80,140,200,0.22)" });
  }
  series.push({ name: "predicted", times: found.times, values: predicted, line: { dash: "dash" } });
  series.push({ name: "measured", times: found.times, values: found.measured[name], mode: "lines+markers", marker: { size: 4 } });
  curves(part(host, "chart"), "cell-chart", `Measured beside predicted ${quantity} of ${visible(found.host)} at ${visible(found.category)}`,
    quantity === "throughput" ? "requests/s that the host could serve of this category alone" : "median latency, seconds", series);
}

// Traffic.

// Numbered lines at moments that somebody has marked, `[{at, name}]`.
function marked(marks) {
  if (!marks) return {};
  return {
    shapes: marks.map(({ at }) => ({ type: "line", xref: "x", yref: "paper", x0: when(at), x1: when(at), y0: 0, y1: 1, line: { dash: "dot", width: 1 } })),
    annotations: marks.map(({ at, name }) => ({ x: when(at), xref: "x", yref: "paper", y: 1, yanchor: "top", textangle: -90, xanchor: "left", showarrow: false, text: label(name, 40), font: { size: 10 } })),
  };
}

function showTraffic(host, page) {
  const { traffic } = page;
  const arms = Object.entries(traffic.arms);
  const sum = (name) => arms.reduce((total, [, each]) => total + (each[name] || 0) * each.requests, 0) / Math.max(1, arms.reduce((total, [, each]) => total + each.requests, 0));
  fill(host, "figures", [traffic.rate_rps, traffic.failed_share, traffic.arms], () => [figures(
    ["requests/s", number(traffic.rate_rps), "traffic-rate"], ["failed", percent(traffic.failed_share), "traffic-failed"],
    ["explored, last hour", arms.length ? percent(sum("explored_share")) : "–", "traffic-explored"])]);
  const times = traffic.series.times;
  if (times.length) {
    clearChart(part(host, "rate"), "nothing", "");
    curves(part(host, "rate"), "rate-chart", "Requests a second over the last hour", "requests/s, by windows of the agents", [{ name: "requests/s", times, values: traffic.series.rate_rps }], { height: 220 });
    curves(part(host, "latency"), "latency-chart", "Latency over the last hour", "latency, seconds (mean of the hosts' own, by requests)",
      [{ name: "p50", times, values: traffic.series.p50_s }, { name: "p99", times, values: traffic.series.p99_s }], { height: page.marks ? 320 : 240, layout: marked(page.marks) });
  } else clearChart(part(host, "rate"), "rate-chart", "No window has ended yet: agents report every 10 s.");
  fill(host, "arms", [traffic.arms, traffic.arms_problem], () => [
    el("h3", {}, "By who routed"),
    hint("`predicted` is the picker with the table; `least request` is what it falls back to without one; `champion` and `challenger` are the arms of an experiment. From request records of the last hour, which a proxy's agent sends."),
    traffic.arms_problem ? empty(traffic.arms_problem) : null,
    table(
      [{ name: "routed by" }, { name: "requests", number: true }, { name: "median", number: true }, { name: "p99", number: true }, { name: "failed", number: true }, { name: "explored", number: true }],
      arms.map(([name, each]) => [name, number(each.requests), seconds(each.p50_s), seconds(each.p99_s), percent(each.failed_share), percent(each.explored_share)]),
      "No request record tells who routed it. Run `fingerpost agent --proxy` beside Envoy."),
  ]);
  fill(host, "fallbacks", traffic.fallbacks, (fallbacks) => [
    el("h3", {}, "Not predicted, by reason"),
    fallbacks ? table([{ name: "reason" }, { name: "requests since the router began", number: true }],
      Object.entries(fallbacks).map(([reason, count]) => [reason, number(count)]), "Every request was predicted.")
      : empty("No router reads its proxy's log on this machine: its metric is fingerpost_router_fallbacks_total."),
  ]);
  if (arms.some(([, each]) => each.times.length > 1)) {
    curves(part(host, "armchart"), "arm-chart", "p99 by who routed, minute by minute", "p99 by who routed, seconds",
      arms.map(([name, each]) => ({ name, times: each.times, values: each.minute_p99_s })), { height: 240 });
  }
  fill(host, "split", traffic.split, (split) => [
    el("h3", {}, "Where each category's requests go"),
    table([{ name: "category" }, { name: "last minute", number: true }, { name: "last hour", number: true }, { name: "hosts: share of the last minute (of the last hour)" }],
      split.map((each) => [each.category, number(each.requests_minute), number(each.requests_hour),
        each.hosts.map((one) => `${one.host} ${percent(one.now)} (${percent(one.hour)})`).join(", ") + (each.other_hosts > 0 ? `, and ${each.other_hosts} more` : "")]),
      "No requests in the last hour."),
  ]);
}

// Predictions.

function showPredictions(host, page) {
  const { predictions } = page;
  const who = predictions.source === null ? "–" : predictions.model_version ? `version ${predictions.model_version}` : "baseline";
  fill(host, "figures", [predictions.windows, predictions.p99_over, predictions.table_age_s, who, predictions.guard, predictions.fingerprint_age_s], () => [
    figures(["predicted by", who, "predicts"], ["windows compared", String(predictions.windows), "windows"],
      ["p99 above the predicted one", percent(predictions.p99_over), "p99-over"],
      ["table age", seconds(predictions.table_age_s), "table-age"],
      ["fingerprint age, median", seconds(predictions.fingerprint_age_s?.median), "fingerprint-age"],
      ["trust of the guard", predictions.guard ? number(predictions.guard.trust) : "–", "trust"]),
    predictions.table_age_s !== null && predictions.table_age_s > predictions.table_ttl_s ? el("p", { class: "bad" }, "The table has expired: pickers balance without predictions.") : null,
    predictions.reason ? el("p", {}, predictions.reason) : null,
    predictions.guard ? null : hint("The guard is the router's: no router keeps its table on this machine. Its metric is fingerpost_guard_trust."),
    predictions.drift ? el("p", {}, `Drift, as of ${clock(predictions.drift.at)}: ${predictions.drift.text}`) : null,
  ]);
  fill(host, "live", predictions.live, (live) => live.map((each) => el("p", { class: each.found ? "bad" : "" }, `Live error of ${each.target}: ${number(each.error)}, tested with ${number(each.low)} to ${number(each.high)}${each.found ? ": a sign of drift" : ""}.`)));
  fill(host, "errors", predictions.errors, (errors) => [
    el("h3", {}, "How far off"),
    hint("Mean error of the last hour, by the windows that followed each prediction. Regret: how much longer the host takes that a predictor holds for the fastest. `served` is what routes; `last window` expects what was measured last; a model that does not beat the baseline does not serve."),
    table([{ name: "predictor" }, { name: "throughput", number: true }, { name: "median latency", number: true }, { name: "p99 latency", number: true }, { name: "regret", number: true }],
      Object.entries(errors).map(([name, each]) => [name, percent(each.throughput_rps), percent(each.latency_p50_s), percent(each.latency_p99_s), percent(each.regret)]),
      "Nothing to compare yet: two windows of 10 s have to end."),
  ]);
  const names = Object.entries(predictions.errors);
  if (names.length) {
    curves(part(host, "chart"), "error-chart", "Error of predicted throughput over the last hour by predictor", "error of predicted throughput, window by window",
      names.map(([name, each]) => ({ name, times: predictions.times, values: each.curve })), { yaxis: { tickformat: ".0%" } });
  }
}

// Model.

function showModel(host, page) {
  const { model } = page;
  fill(host, "aliases", [model.aliases, model.registry_problem, model.previous, model.link], () => [
    hint("The champion predicts, as long as it beats the baseline; the challenger is compared with it, in the shadow first and then by an experiment."),
    model.registry_problem ? el("p", { class: "bad" }, `The registry: ${model.registry_problem}`) : null,
    table([{ name: "alias" }, { name: "version" }, { name: "problem" }],
      model.aliases.map((each) => [each.alias, each.version ? link(each.link, `version ${each.version}`) : "none", each.problem || ""]), "No alias is known."),
    el("p", {}, "Champion before: ", model.previous ? `version ${model.previous}` : "none", ". ", model.link ? link(model.link, "All versions in MLflow") : ""),
  ]);
  fill(host, "experiment", [model.experiment, model.experiment_problem, model.verdict], () => [
    el("h3", {}, "Experiment"),
    model.experiment_problem ? el("p", { class: "bad" }, model.experiment_problem) : null,
    model.experiment ? el("p", { id: "experiment" }, `${model.experiment.id}: version ${[model.experiment.challenger, ...(model.experiment.others || [])].join(", ")} against ${model.experiment.champion}, pair ${model.experiment.pair ?? "–"} of ${model.experiment.pairs}, ${model.experiment.arm ? `the ${model.experiment.arm} routes now` : "between slots"}, until ${clock(model.experiment.end)}`) : empty("None is running."),
    model.verdict ? el("p", {}, `Latest verdict: ${model.verdict.verdict}. ${model.verdict.reason}.`) : null,
    model.verdict ? table([{ name: "what" }, { name: "champion", number: true }, { name: "challenger", number: true }, { name: "change", number: true }, { name: "interval" }],
      Object.values(model.verdict.effects || {}).map((each) => [each.metric, number(each.champion), number(each.challenger), `${number(each.estimate)} (${each.unit})`, `${number(each.low)} to ${number(each.high)}`]), "No pair can be used yet.") : null,
    model.verdict?.others?.length ? table([{ name: "further challenger" }, { name: "verdict" }, { name: "pairs", number: true }, { name: "latency over the champion's", number: true }, { name: "interval" }],
      model.verdict.others.map((each) => { const effect = (each.effects || {}).latency_geomean_s || {}; return [`version ${each.version}`, `${each.verdict}: ${each.reason}`, String(each.pairs), number(effect.estimate), `${number(effect.low)} to ${number(effect.high)}`]; })) : null,
  ]);
  const sequence = model.verdict?.sequence;
  if (sequence && sequence.pair.length) {
    chart(part(host, "sequence"), "sequence-chart", "Confidence sequence of the challenger's latency over the champion's, by pairs", [
      { type: "scatter", mode: "lines", x: sequence.pair, y: sequence.low, line: { width: 0 }, showlegend: false, hoverinfo: "skip" },
      { type: "scatter", mode: "lines", x: sequence.pair, y: sequence.high, line: { width: 0 }, fill: "tonexty", fillcolor: "rgba(80,140,200,0.25)", name: "holds at every look" },
      { type: "scatter", mode: "lines", x: sequence.pair, y: sequence.estimate, name: "estimate" },
      ...(model.verdict.others || []).map((each) => ({ type: "scatter", mode: "lines", x: each.sequence.pair, y: each.sequence.estimate, name: `version ${each.version}` })),
    ], { title: { text: "latency, challenger over champion (1 is no difference)", font: { size: 13 }, x: 0, xanchor: "left" }, xaxis: { title: { text: "pairs" } },
      shapes: [{ type: "line", xref: "paper", x0: 0, x1: 1, y0: 1, y1: 1, line: { dash: "dot", width: 1 } }] });
  }
  fill(host, "decisions", model.decisions, (decisions) => [
    el("h3", {}, "Decisions, the latest first"),
    table([{ name: "when" }, { name: "what" }, { name: "who" }, { name: "why" }, { name: "gates" }],
      decisions.map((each) => [each.when || "", `${each.action || ""} version ${each.challenger || "–"} (champion ${each.champion || "–"})`, each.who || "", each.why || "", each.gates || ""]),
      "No decision was made yet."),
  ]);
}

// Worth.

function showWorth(host, page) {
  const { worth } = page;
  fill(host, "figures", worth, () => (worth ? [
    hint("What the fleet could carry at most of the mix of the last minute, by a linear programme over the predicted throughputs. `Blind` keeps hosts equally busy and knows no categories."),
    figures(["requests/s now", number(worth.rate_rps), "worth-rate"], ["could carry at most", number(worth.bound_rps), "worth-bound"],
      ["in use", percent(worth.used_share), "worth-used"], ["headroom", percent(worth.headroom_share), "worth-headroom"],
      [`headroom in ${Math.round(worth.forecast_s / 60)} min, as forecast`, percent(worth.forecast_headroom_share), "worth-soon"],
      ["hosts saved by predictions", percent(worth.saved_share), "worth-saved"],
      ["cores saved", worth.cores_saved === null ? "–" : `${worth.cores_saved} of ${worth.cores}`, "worth-cores"],
      ["busiest host", percent(worth.busiest_host), "worth-busiest"]),
    worth.grouped ? hint("The fleet is large: hosts that are alike and rare categories are taken together.") : null,
  ] : [empty("Nothing is known yet: it takes a minute of traffic.")]));
  if (!worth) return clearChart(part(host, "chart"), "worth-chart", "");
  return chart(part(host, "chart"), "worth-chart", "Requests a second now, and what the fleet could carry by each way of routing", [{
    type: "bar", orientation: "h", x: [worth.bound_rps, worth.present_rps, worth.blind_rps, worth.rate_rps],
    y: ["any routing, at most", "as split now", "blind to categories", "now"], marker: { color: ["#2a6fb0", "#5f9bd1", "#9bb8d3", "#c98a1b"] },
  }], { xaxis: { title: { text: "requests/s" }, rangemode: "tozero" }, yaxis: { autorange: "reversed" }, margin: { l: 160 } }, 240);
}

// Pipeline.

function showPipeline(host, page) {
  const { pipeline } = page;
  // An engine of an earlier version tells of none.
  const pickers = page.pickers || { known: 0, listed: [] };
  fill(host, "figures", [pipeline.reporters, pipeline.disks], () => [figures(
    ...Object.entries(pipeline.reporters).map(([name, count]) => [`${name} that report`, String(count), name.replace(" ", "-")]),
    ...pipeline.disks.map((each) => [`free on the disk of ${each.folder}`, each.free_mb === null ? "–" : `${Math.round(each.free_mb / 1024)} GB`, `disk-${each.folder}`]))]);
  fill(host, "problems", pipeline.problems, (problems) => [el("h3", {}, "Problems"),
    table([{ name: "of" }, { name: "what" }], Object.entries(problems).map(([name, text]) => [name, el("span", { class: "bad" }, text)]), "None.")]);
  fill(host, "flows", [pipeline.flows, Math.floor(page.now / 10)], () => [el("h3", {}, "Flows"),
    table([{ name: "flow" }, { name: "state" }, { name: "last success", number: true }, { name: "took", number: true }, { name: "began late by", number: true }, { name: "failures since", number: true }, { name: "what came of it" }, { name: "run" }],
      pipeline.flows.map((each) => [each.name, coloured(each.state), each.succeeded ? `${seconds(Math.max(0, page.now - each.succeeded))} ago` : "never", seconds(each.took_s), seconds(each.lag_s), String(each.failures), each.text, each.link ? link(each.link, "Prefect") : ""]),
      "No flow has run yet on this lake. `fingerpost up` starts their schedules.")]);
  fill(host, "pickers", [pickers, Math.floor(page.now / 2)], () => [el("h3", {}, "Pickers that follow the table"),
    table([{ name: "picker" }, { name: "kind" }, { name: "age of its table", number: true }, { name: "state" }],
      pickers.listed.map((each) => [each.name, each.kind === "router" ? "router beside Envoy" : "endpoint picker", seconds(each.table_age_s), each.expired ? el("span", { class: "bad" }, "expired") : coloured("ok")]),
      "None has asked within ten minutes. Run `fingerpost router` beside Envoy, or `fingerpost endpoint-picker --engine-url`."),
    pickers.known > pickers.listed.length ? hint(`${pickers.known - pickers.listed.length} more have younger tables.`) : null]);
  fill(host, "refused", pipeline.refused, (refused) => [el("h3", {}, "Refused since the engine began"),
    table([{ name: "reason" }, { name: "count", number: true }], Object.entries(refused).map(([reason, count]) => [reason, number(count)]), "Nothing was refused.")]);
}

export const PANELS = [
  { id: "fleet", name: "Fleet", show: showFleet },
  { id: "traffic", name: "Traffic", show: showTraffic },
  { id: "predictions", name: "Predictions", show: showPredictions },
  { id: "model", name: "Model", show: showModel },
  { id: "worth", name: "Worth", show: showWorth },
  { id: "pipeline", name: "Pipeline", show: showPipeline },
];
