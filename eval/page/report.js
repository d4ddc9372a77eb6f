"use strict";
// The browser of questions. What a model wrote reaches the page as text nodes alone.
(() => {
  const data = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const MARKS = { correct: "✓", wrong: "✗", no_answer: "∅", timeout: "T", error: "E" };
  const right = (sample) => sample.status === "correct";
  const OUTCOMES = {
    all: () => true,
    "all right": (samples) => samples.every(right),
    mixed: (samples) => samples.some(right) && !samples.every(right),
    "all wrong": (samples) => !samples.some(right),
    "greedy wrong": (samples) => samples.some((sample) => sample.greedy && !right(sample)),
    truncated: (samples) => samples.some((sample) => sample.finish_reason === "length"),
    "no answer": (samples) => samples.some((sample) => sample.status === "no_answer"),
    "timeout or error": (samples) => samples.some((sample) => ["timeout", "error"].includes(sample.status)),
    "lenient differs": (samples) => samples.some((sample) => right(sample) !== (sample.lenient_status === "correct")),
  };
  const items = data.items.map(([model, number, rows]) => {
    const [benchmark, id, problem, answer, unit, tolerance] = data.questions[number];
    const samples = rows.map((row) => Object.fromEntries(data.fields.map((field, i) => [field, row[i] ?? null])));
    return { model, benchmark, id, problem, answer, unit, tolerance, samples };
  });
  let shown = items;
  let place = 0;
  let query = null;

  function create(tag, name, ...children) {
    const element = document.createElement(tag);
    if (name) element.className = name;
    element.append(...children);
    return element;
  }

  // A text is a string, or [beginning, how many characters are left out, end].
  const pieces = (text) => (Array.isArray(text) ? [text[0], text[2]] : text === null ? [] : [text]);

  function marked(text) {
    const nodes = [];
    let end = 0;
    for (const hit of query ? text.matchAll(query) : []) {
      nodes.push(text.slice(end, hit.index), create("mark", "", hit[0]));
      end = hit.index + hit[0].length;
    }
    return [...nodes, text.slice(end)];
  }

  function show(text) {
    if (!Array.isArray(text)) return marked(text);
    const note = create("span", "cut", `… ${text[1].toLocaleString("en")} characters left out …`);
    return [...marked(text[0]), note, ...marked(text[2])];
  }

  const matches = (text) => pieces(text).some((piece) => piece.search(query) >= 0);
  const found = (item) =>
    [item.id, item.problem, item.answer].some(matches) ||
    item.samples.some((sample) => matches(sample.response) || matches(sample.extracted) || matches(sample.reasoning ?? null));

  function sampleElement(sample, index) {
    const name = sample.greedy ? "greedy" : `sample ${sample.sample}`;
    const summary = create("summary", "", create("span", `verdict ${sample.status}`, MARKS[sample.status]), create("b", "", name));
    summary.append(create("span", "status", sample.status.replace("_", " ")));
    if (sample.extracted !== null) summary.append(create("span", "answer", "answer ", create("bdi", "", ...show(sample.extracted))));
    if (sample.lenient_status !== sample.status) {
      const lenient = create("span", "differs", `lenient: ${sample.lenient_status.replace("_", " ")} `);
      if (sample.lenient_extracted !== null) lenient.append(create("bdi", "", ...show(sample.lenient_extracted)));
      summary.append(lenient);
    }
    const cut = sample.finish_reason === "length";
    summary.append(create("span", cut ? "finish cut" : "finish", cut ? "cut at the limit (length)" : sample.finish_reason));
    if (sample.tokens !== null) summary.append(create("span", "tokens", `${sample.tokens.toLocaleString("en")} tokens`));
    const element = create("details", "sample", summary, create("pre", "response", ...show(sample.response)));
    if (sample.reasoning) {
      const thinking = create("details", "", create("summary", "", "thinking, not graded"), create("pre", "response reasoning", ...show(sample.reasoning)));
      thinking.open = query !== null && matches(sample.reasoning);
      summary.after(thinking);
    }
    element.open = at("open").checked || index === 0 || (query !== null && (matches(sample.response) || matches(sample.reasoning ?? null)));
    return element;
  }

  function render() {
    const target = at("question");
    target.replaceChildren();
    at("count").textContent = `of ${shown.length.toLocaleString("en")}`;
    at("position").max = Math.max(1, shown.length);
    at("position").value = shown.length ? place + 1 : 0;
    at("previous").disabled = place <= 0;
    at("next").disabled = place >= shown.length - 1;
    if (!shown.length) {
      target.append(create("p", "about", "No question fits these filters."));
      return;
    }
    const item = shown[place];
    const samples = item.samples.map(sampleElement);
    const strip = create("div", "strip");
    item.samples.forEach((sample, index) => {
      const button = create("button", `verdict ${sample.status}`, MARKS[sample.status]);
      button.type = "button";
      button.title = `${sample.greedy ? "greedy" : `sample ${sample.sample}`}: ${sample.status.replace("_", " ")}`;
      button.setAttribute("aria-label", button.title);
      button.addEventListener("click", () => {
        samples[index].open = true;
        samples[index].scrollIntoView({ block: "start" });
        samples[index].querySelector("summary").focus({ preventScroll: true });
      });
      strip.append(button);
    });
    const score = `${item.samples.filter(right).length} of ${item.samples.length} right`;
    const title = create("h3", "", create("span", "where", item.benchmark), create("bdi", "", ...marked(item.id)));
    target.append(title, create("p", "who", create("b", "", data.labels[item.model]), strip, score));
    target.append(create("h4", "", "Problem"), create("pre", "problem", ...show(item.problem)));
    target.append(create("h4", "", "Reference answer"), create("pre", "reference", ...show(item.answer)));
    if (item.unit) target.append(create("span", "unit", "unit ", create("bdi", "", item.unit)));
    if (item.tolerance) target.append(create("span", "unit", `tolerance ${item.tolerance}`));
    target.append(create("h4", "", "Samples"), ...samples);
  }

  function go(to) {
    place = Math.min(Math.max(0, to), Math.max(0, shown.length - 1));
    render();
  }

  function filter() {
    const text = at("search").value.trim();
    query = text ? new RegExp(text.replace(/[.*+?^${}()|[\]\\]/g, "\\$&"), "giu") : null;
    const benchmark = at("benchmark").value;
    const model = at("model").value;
    const outcome = OUTCOMES[at("outcome").value];
    const current = shown[place];
    shown = items.filter(
      (item) =>
        (!benchmark || item.benchmark === data.benchmarks[benchmark]) && (!model || item.model === Number(model)) &&
        outcome(item.samples) && (!query || found(item)),
    );
    go(shown.indexOf(current));
  }

  const options = (id, names, value) => names.forEach((name, i) => at(id).append(new Option(name, value(name, i))));
  options("benchmark", data.benchmarks, (_, i) => i);
  options("model", data.labels, (_, i) => i);
  options("outcome", Object.keys(OUTCOMES), (name) => name);
  let waiting = 0;
  at("filters").addEventListener("input", () => {
    clearTimeout(waiting);
    waiting = setTimeout(filter, 150);
  });
  at("filters").addEventListener("submit", (event) => event.preventDefault());
  at("open").addEventListener("change", render);
  at("previous").addEventListener("click", () => go(place - 1));
  at("next").addEventListener("click", () => go(place + 1));
  at("position").addEventListener("change", () => go(Number(at("position").value) - 1));
  document.addEventListener("keydown", (event) => {
    if (event.ctrlKey || event.altKey || event.metaKey || event.target.closest("input:not([type=checkbox]), select, .wide")) return;
    if (event.key === "ArrowRight") go(place + 1);
    else if (event.key === "ArrowLeft") go(place - 1);
  });
  render();
})();
