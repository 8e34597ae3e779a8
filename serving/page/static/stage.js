// The band above the panels: the stage of a story that is under way, such as the demo's.
import { el, seconds } from "/page/draw.js";

// Shows a stage, or hides the band where there is none; `choose` shows a panel by its id.
export function showStage(host, stage, choose) {
  host.hidden = !stage;
  if (!stage) return;
  const { elapsed_s: elapsed, ...told } = stage;
  const mark = JSON.stringify(told);
  if (host.mark !== mark) {
    host.mark = mark;
    host.replaceChildren(...[
      el("p", { role: "status" }, el("b", {}, `${stage.number} of ${stage.of}: ${stage.title}`), " ", el("span", { id: "stage-since" })),
      el("p", {}, stage.now),
      stage.look ? el("p", {}, stage.look, " ", document.getElementById(`tab-${stage.panel}`)
        ? el("button", { type: "button", onclick: () => choose(stage.panel) }, `Show ${document.getElementById(`tab-${stage.panel}`).textContent}`) : null) : null,
      stage.found.length ? el("details", { open: "" }, el("summary", {}, "Found so far, the latest first"), el("ul", {}, stage.found.map((line) => el("li", {}, line)))) : null,
    ].filter(Boolean));
  }
  // Without a role: nobody wants every second read out.
  host.querySelector("#stage-since").textContent = `for ${seconds(Math.round(elapsed))}`;
}
