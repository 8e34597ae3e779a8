// A page that was frozen into one file: chapters with sentences, and panels as they were at the end of each.
import { clock, el } from "/page/draw.js";
import { PANELS } from "/page/panels.js";

const QUESTIONS = { best: "Which host is best at what?", sure: "How sure are we?", worth: "What is it worth?", wrong: "Is anything wrong?" };

function answersOf(page) {
  return el("section", { id: "answers" }, Object.entries(QUESTIONS).map(([name, question]) =>
    el("article", {}, el("h2", {}, question), el("ul", {}, page.answers[name].map((line) => el("li", {}, line))))));
}

function panelsOf(chapter) {
  return chapter.panels.map((id) => {
    const { name, show } = PANELS.find((each) => each.id === id);
    const place = el("section", { class: "panel" });
    return { heading: el("h3", {}, `${name}, as of ${clock(chapter.page.now)}`), place, draw: () => show(place, chapter.page) };
  });
}

const main = document.querySelector("main");
const chapters = JSON.parse(document.getElementById("chapters").textContent);
for (const chapter of chapters) {
  main.append(el("h2", { class: "chapter" }, chapter.title), ...chapter.sentences.map((line) => el("p", {}, line)));
  if (!chapter.page) continue;
  // There is nobody to ask for the history of a field.
  chapter.page.frozen = true;
  if (chapter.answers) main.append(answersOf(chapter.page));
  for (const { heading, place, draw } of panelsOf(chapter)) {
    main.append(heading, place);
    draw();
  }
}
matchMedia("(prefers-color-scheme: dark)").addEventListener("change", () => location.reload());
