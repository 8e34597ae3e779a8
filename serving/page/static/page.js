// Asks the engine for the page's numbers every two seconds and shows the panel that is chosen.
import { clock, el, link, seconds, visible } from "/page/draw.js";
import { PANELS } from "/page/panels.js";
import { showStage } from "/page/stage.js";

const EVERY_MS = 2000;
const byId = (id) => document.getElementById(id);
let page = null;
let heard = null;
let stage = null;
let chosen = PANELS.some((each) => each.id === location.hash.slice(1)) ? location.hash.slice(1) : PANELS[0].id;
let service = new URLSearchParams(location.search).get("service");

function makeTabs() {
  for (const { id, name } of PANELS) {
    byId("tabs").append(el("button", { id: `tab-${id}`, role: "tab", type: "button", "aria-controls": id, onclick: () => choose(id) }, name));
    byId("panels").append(el("section", { id, class: "panel", role: "tabpanel", "aria-labelledby": `tab-${id}`, tabindex: "0" }));
  }
  byId("tabs").addEventListener("keydown", (event) => {
    const step = { ArrowRight: 1, ArrowLeft: -1 }[event.key];
    const at = PANELS.findIndex((each) => each.id === chosen);
    const next = event.key === "Home" ? 0 : event.key === "End" ? PANELS.length - 1 : step ? (at + step + PANELS.length) % PANELS.length : null;
    if (next === null) return;
    event.preventDefault();
    choose(PANELS[next].id);
    byId(`tab-${chosen}`).focus();
  });
  choose(chosen, false);
}

function choose(id, remember = true) {
  chosen = id;
  for (const { id: each } of PANELS) {
    byId(`tab-${each}`).setAttribute("aria-selected", String(each === id));
    byId(`tab-${each}`).tabIndex = each === id ? 0 : -1;
    byId(each).hidden = each !== id;
  }
  if (remember) history.replaceState(null, "", `#${id}`);
  show();
}

function show() {
  if (!page) return;
  for (const [name, lines] of Object.entries(page.answers)) {
    byId(`answer-${name}`).replaceChildren(...lines.map((line) => el("li", {}, line)));
  }
  byId("wrong").classList.toggle("bad", page.answers.wrong[0] !== "Nothing is wrong.");
  byId("links").replaceChildren(...Object.entries(page.pipeline.links).flatMap(([name, address]) => [link(address, name), " "]));
  showServices();
  const panel = PANELS.find((each) => each.id === chosen);
  panel.show(byId(chosen), page);
}

function showServices() {
  const select = byId("service");
  const names = page.services.includes(page.service) ? page.services : [page.service, ...page.services];
  if ([...select.options].map((each) => each.value).join("\n") === names.join("\n")) return;
  select.replaceChildren(...names.map((name) => el("option", { value: name }, name)));
  select.value = page.service;
}

function tellState(problem) {
  const banner = byId("banner");
  const lines = [];
  if (problem !== null && stage && !heard) lines.push("The engine starts: it does not answer yet.");
  else if (problem !== null) lines.push(heard ? `The engine does not answer since ${clock(heard)}: what is shown is of then. ${problem}` : `The engine does not answer. ${problem}`);
  else if (page.stale) lines.push(`The tables may be old: ${page.stale}`);
  banner.hidden = !lines.length;
  const text = lines.map(visible).join(" ");
  if (banner.textContent !== text) banner.textContent = text;
  if (problem !== null) {
    byId("state").textContent = "away";
    return;
  }
  const age = page.predictions.table_age_s;
  const table = age === null ? "no routing table" : `table ${seconds(age)} old`;
  byId("state").textContent = `live, engine ${page.engine.version} ${page.engine.status}, ${table}`;
}

function tellStage(told) {
  stage = told.stage || null;
  showStage(byId("stage"), stage, choose);
}

// What an answer says that is no page: why, and the stage if it came along.
async function refusal(answer) {
  const text = await answer.text();
  try {
    const told = JSON.parse(text);
    if (told.stage) tellStage(told);
    return told.error || text;
  } catch {
    return text;
  }
}

async function poll() {
  try {
    const query = service ? `?${new URLSearchParams({ service })}` : "";
    const answer = await fetch(`/v1/page${query}`, { signal: AbortSignal.timeout(10000), cache: "no-store" });
    if (!answer.ok) throw new Error(`It answers with ${answer.status}: ${(await refusal(answer)).slice(0, 200)}`);
    page = await answer.json();
    tellStage(page);
    heard = page.now;
    tellState(null);
    show();
  } catch (error) {
    tellState(error instanceof TypeError || error.name === "TimeoutError" ? "" : error.message);
  }
  setTimeout(poll, EVERY_MS);
}

byId("service").addEventListener("change", (event) => {
  service = event.target.value;
  history.replaceState(null, "", `?${new URLSearchParams({ service })}${location.hash}`);
  page = null;
});
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", show);
window.addEventListener("hashchange", () => PANELS.some((each) => each.id === location.hash.slice(1)) && choose(location.hash.slice(1), false));
makeTabs();
poll();
