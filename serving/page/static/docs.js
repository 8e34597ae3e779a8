// Shows the engine's own OpenAPI description, with the example of each call.
import { el, table, visible } from "/page/draw.js";

const calls = document.getElementById("calls");
try {
  const found = await (await fetch("/v1/openapi.json")).json();
  document.getElementById("about").textContent = visible(`${found.info.title} ${found.info.version}: ${found.info.description}`);
  for (const [path, methods] of Object.entries(found.paths)) {
    for (const [method, call] of Object.entries(methods)) {
      const parameters = (call.parameters || []).map((each) => [each.name, each.in, each.required ? "yes" : "no", each.description || ""]);
      const answers = Object.entries(call.responses || {}).map(([status, each]) => [status, each.description || ""]);
      calls.append(el("article", {},
        el("h2", {}, `${method.toUpperCase()} ${path}`), el("p", {}, call.description || call.summary || ""),
        call.security ? el("p", { class: "hint" }, "Takes the bearer token, where the engine has one.") : null,
        ...(call["x-codeSamples"] || []).map((each) => el("pre", { tabindex: "0" }, ...each.source.split("\n").flatMap((line) => [el("code", {}, line), document.createTextNode("\n")]))),
        parameters.length ? table([{ name: "parameter" }, { name: "in" }, { name: "required" }, { name: "meaning" }], parameters, "") : null,
        table([{ name: "status" }, { name: "answer" }], answers, "")));
    }
  }
} catch (error) {
  calls.append(el("p", { class: "bad" }, `The description cannot be read: ${error.message}`));
}
