"use strict";
// Walks through the responses by keys, and sends each verdict as it is given. What a model wrote reaches the page as text
// nodes alone. The verifier's verdict is in the page only where the response is judged, or `v` was pressed.
(() => {
  const { responses, verdicts } = JSON.parse(document.getElementById("data").textContent);
  const at = (id) => document.getElementById(id);
  const END = 1500; // characters of a response that are shown first
  const revealed = new Set();
  let place = 0;
  let open = false; // the beginning of the response
  let busy = false;

  function create(tag, name, ...children) {
    const element = document.createElement(tag);
    if (name) element.className = name;
    element.append(...children);
    return element;
  }

  // A text is a string, or [beginning, how many characters are left out, end].
  function show(text) {
    if (!Array.isArray(text)) return [text];
    return [text[0], create("span", "cut", `… ${text[1].toLocaleString("en")} characters left out …`), text[2]];
  }

  // The last END characters, from the beginning of a line where one is near, and what comes before.
  function split(text) {
    const [head, omitted, tail] = Array.isArray(text) ? text : ["", 0, text];
    if (tail.length <= END) return { before: omitted ? [head, omitted, ""] : "", end: tail };
    const line = tail.indexOf("\n", tail.length - END) + 1;
    let cut = line && tail.length - line > END / 2 ? line : tail.length - END;
    if (/[\udc00-\udfff]/.test(tail[cut])) cut += 1; // not between the halves of one character
    const rest = tail.slice(0, cut);
    return { before: omitted ? [head, omitted, rest] : rest, end: tail.slice(cut) };
  }

  function answer(title, text, ...notes) {
    const shown = text === null ? create("pre", "none", "none found") : create("pre", "", ...show(text));
    return create("div", "", create("h2", "", title), shown, ...notes.map((note) => create("p", "note", note)));
  }

  const words = (status) => status.replace("_", " ");

  function verifier(item) {
    const box = create("p", "verifier", "The verifier: ", create("b", "", words(item.status)), ` (${item.rule}).`);
    if (item.lenient_status !== item.status) {
      box.append(` Under lenient extraction: ${words(item.lenient_status)}`);
      if (item.lenient_extracted !== null) box.append(", ", create("bdi", "", ...show(item.lenient_extracted)));
      box.append(".");
    }
    return box;
  }

  function render() {
    const item = responses[place];
    const own = verdicts[item.key];
    const target = at("response");
    const ended = item.finish_reason === "length" ? "cut at the maximal length" : `ended: ${item.finish_reason}`;
    const where = create("p", "where", create("b", "", item.benchmark), create("bdi", "", item.question));
    where.append(create("span", "", item.sample), create("span", "", ended));
    if (item.tokens !== null) where.append(create("span", "", `${item.tokens.toLocaleString("en")} tokens`));
    if (own) where.append(create("span", `own ${own}`, `judged ${own}`));
    const notes = [];
    if (item.unit) notes.push(`unit: ${item.unit}`);
    if (item.tolerance) notes.push(`tolerance: ${item.tolerance}`);
    const answers = create("div", "answers", answer("Reference answer", item.gold, ...notes), answer("Extracted answer", item.extracted));
    const { before, end } = split(item.response);
    target.replaceChildren(where, create("h2", "", "Question"), create("pre", "problem", ...show(item.problem)), answers);
    if (own || revealed.has(item.key)) target.append(verifier(item));
    const ending = create("pre", "text end", end);
    ending.tabIndex = 0; // it scrolls
    target.append(create("h2", "", before ? "End of the response" : "Response"), ending);
    if (before && open) target.append(create("h2", "", "What comes before"), create("pre", "text before", ...show(before)));
    else if (before) target.append(create("p", "note", create("kbd", "", "b"), " shows what comes before"));
    ending.scrollTop = ending.scrollHeight;

    const judged = responses.filter((response) => verdicts[response.key]).length;
    at("progress").textContent = `response ${place + 1} of ${responses.length}, ${judged} judged`;
    at("bar").max = responses.length;
    at("bar").value = judged;
    at("done").hidden = judged < responses.length;
    at("previous").disabled = place === 0;
    at("next").disabled = place === responses.length - 1;
    at("unjudged").disabled = judged === responses.length;
    at("reveal").disabled = Boolean(own) || revealed.has(item.key);
    at("before").disabled = !before;
    for (const button of at("verdicts").children) button.setAttribute("aria-pressed", String(button.dataset.verdict === own));
  }

  function go(to) {
    if (to < 0 || to >= responses.length || busy) return;
    place = to;
    open = false;
    render();
    window.scrollTo(0, 0);
  }

  // The next response without a verdict, from the beginning again after the end; stays where there is none.
  function goUnjudged() {
    const after = [...responses.keys()].map((i) => (place + 1 + i) % responses.length);
    go(after.find((i) => !verdicts[responses[i].key]) ?? place);
  }

  function reveal() {
    if (busy || verdicts[responses[place].key]) return;
    revealed.add(responses[place].key);
    render();
  }

  function toggle() {
    open = !open;
    render();
  }

  // A key that comes while a verdict is being saved is ignored: it was meant for a response not yet seen.
  async function judge(verdict) {
    if (busy) return;
    busy = true;
    const { key } = responses[place];
    const before = verdicts[key];
    let problem = "";
    try {
      const answered = await fetch("verdicts", {
        method: "POST",
        headers: { "Content-Type": "application/json" },
        body: JSON.stringify({ key, verdict, revealed: revealed.has(key) || before !== undefined }),
      });
      if (!answered.ok) problem = await answered.text();
    } catch {
      problem = "the audit's process has ended; start it again and open the address that it prints";
    }
    busy = false;
    at("alarm").hidden = !problem;
    at("alarm").textContent = problem && `Not saved: ${problem}`;
    at("saved").textContent = problem ? "" : `saved: ${verdict}`;
    if (problem) return;
    verdicts[key] = verdict;
    if (before === undefined) goUnjudged();
    render();
  }

  const KEYS = {
    1: () => judge("right"),
    0: () => judge("wrong"),
    "?": () => judge("unsure"),
    ArrowLeft: () => go(place - 1),
    ArrowRight: () => go(place + 1),
    n: goUnjudged,
    v: reveal,
    b: toggle,
  };
  document.addEventListener("keydown", (event) => {
    const action = KEYS[event.key];
    if (!action || event.ctrlKey || event.altKey || event.metaKey || event.repeat) return;
    event.preventDefault();
    action();
  });
  for (const button of at("verdicts").children) button.addEventListener("click", () => judge(button.dataset.verdict));
  at("previous").addEventListener("click", () => go(place - 1));
  at("next").addEventListener("click", () => go(place + 1));
  at("unjudged").addEventListener("click", goUnjudged);
  at("reveal").addEventListener("click", reveal);
  at("before").addEventListener("click", toggle);
  place = Math.max(0, responses.findIndex((response) => !verdicts[response.key]));
  render();
})();
