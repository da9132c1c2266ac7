// The page: cards of all programs, and one of them to try. The part after # in the address is the program's name.

const FORM_WORDS = { images: "images", table: "table", sequences: "series", strings: "text", tokens: "tokens", forecast: "forecast" };
const state = { cards: [], limits: {}, changes: -1 };
const main = document.getElementById("main");

function taskWords(card) {
  if (card.form === "forecast") return card.targets[0].horizon === 1 ? "the next point" : `the next ${card.targets[0].horizon} points`;
  if (card.task === "regression") return card.targets.length > 1 ? `${card.targets.length} numbers` : "a number";
  return `${card.targets[0].classes.length} classes`;
}

function score(card) {
  const value = card.metrics.test ?? card.metrics.val;
  if (typeof value !== "number" || !card.metric) return "";
  return card.metric === "r2" ? `R² ${card.form === "forecast" ? "beyond the naive forecast " : ""}${value.toFixed(3)}` : `${card.metric} ${percent(value)}`;
}

function showCards() {
  document.title = "icecore: programs";
  if (!state.cards.length) {
    main.replaceChildren(el("div", { className: "panel stack" }, el("h1", {}, "No programs yet"),
      el("p", {}, "Copy a program into the folder that the server watches, and it appears here.")));
    return;
  }
  const list = el("ul", { className: "cards" });
  const filter = el("input", { type: "search", id: "filter", placeholder: "Name, kind or class" });
  const fill = () => {
    const words = filter.value.toLowerCase().split(/\s+/);
    const shown = state.cards.filter((card) => {
      const classes = card.targets.flatMap((target) => (target.classes || []).slice(0, 50));
      const text = `${card.name} ${card.form} ${card.task} ${classes.join(" ")}`.toLowerCase();
      return words.every((word) => text.includes(word));
    });
    list.replaceChildren(...shown.slice(0, 300).map((card) => el("li", {}, el("a", { href: `#${encodeURIComponent(card.name)}` },
      el("h2", {}, card.name),
      el("p", { className: "tags" }, el("span", { className: "tag" }, FORM_WORDS[card.form]), el("span", { className: "tag" }, taskWords(card)),
        score(card) ? el("span", { className: "tag" }, score(card)) : null),
      el("p", { className: "soft small" }, `Predicts ${card.targets.map((target) => target.name).join(", ")} from ${card.summary}.`)))));
    if (!shown.length) list.append(el("li", { className: "soft" }, "No program has all of these words."));
  };
  filter.addEventListener("input", fill);
  fill();
  const search = state.cards.length > 6 ? el("div", {}, el("label", { htmlFor: "filter" }, "Find a program"), filter) : null;
  main.replaceChildren(el("h1", {}, "Programs"), ...[search, list].filter(Boolean));
}

function showProgram(card) {
  document.title = `icecore: ${card.name}`;
  const fields = FIELDS[card.form](card);
  const result = el("section", { className: "panel stack", "aria-live": "polite", "aria-label": "Answer" },
    el("p", { className: "soft" }, card.form === "images" ? "Drop an image to see what the program makes of it."
      : "Press Predict to see what the program makes of this row."));
  const explains = card.form !== "forecast";
  const explain = el("input", { type: "checkbox", id: "explain", checked: explains });
  const button = el("button", { className: "main", type: "submit" }, "Predict");
  const examples = el("section", { className: "panel stack" });
  const send = async (url, options, sent) => {
    button.disabled = true;
    result.setAttribute("aria-busy", "true");
    fields.show([]);
    try {
      const answer = await ask(url, options);
      result.replaceChildren(...answerParts(card, answer, sent));
    } catch (error) {
      if (error.status === 401) return route();
      result.replaceChildren(problemPart(error));
      fields.show(error.rows || []);
    } finally {
      button.disabled = false;
      result.removeAttribute("aria-busy");
      if (result.getBoundingClientRect().top > innerHeight * 0.8) result.scrollIntoView({ block: "start" });
    }
    return null;
  };
  const path = `v1/programs/${encodeURIComponent(card.name)}/predict`;
  const sendFile = (file) => {
    if (file.size > state.limits.bytes) {
      result.replaceChildren(problemPart(new Error(`${file.name} is larger than ${Math.floor(state.limits.bytes / 2 ** 20)} MiB.`)));
      return;
    }
    const type = mediaType(file);
    const isImage = type.startsWith("image/");
    const query = isImage && explain.checked ? "?explain=attention" : "";
    send(path + query, { method: "POST", body: file, headers: { "Content-Type": type } },
      isImage ? { image: URL.createObjectURL(file) } : {});
    showExamples(examples, card, path, { file, type });
  };
  const form = el("form", {
    className: "panel stack", noValidate: true,
    onsubmit: (event) => {
      event.preventDefault();
      let read;
      try {
        read = fields.read();
      } catch (error) {
        result.replaceChildren(problemPart(error));
        return;
      }
      const query = explain.checked ? "?explain=attention" : "";
      send(path + query, { method: "POST", body: JSON.stringify({ rows: [read.row] }), headers: { "Content-Type": "application/json" } }, read.sent || {});
      showExamples(examples, card, path, { row: read.row });
    },
  }, el("h2", {}, "Try it"), card.form === "images" ? null : fields.node,
  card.form === "images" ? null : el("div", { className: "row" }, button),
  card.form === "images" ? dropZone(card, sendFile) : null,
  explains ? el("label", { className: "check", htmlFor: "explain" }, explain, "Show where it looked") : null,
  card.form !== "images" && card.media_types.length > 1 ? dropZone(card, sendFile) : null);
  showExamples(examples, card, path, { row: card.example });
  main.replaceChildren(
    el("div", { className: "stack" }, el("p", {}, el("a", { href: "#" }, "All programs")), el("h1", { tabindex: "-1" }, card.name),
      el("p", { className: "soft" }, `Predicts ${card.targets.map((target) => target.name).join(", ")} (${taskWords(card)}) from ${card.summary}.`)),
    el("div", { className: "two" }, form, result), el("div", { className: "two" }, examples, aboutPart(card)));
}

function problemPart(error) {
  const rows = (error.rows || []).slice(0, 20);
  return el("div", { className: "alert", role: "alert" }, el("p", {}, error.message),
    rows.length > 1 ? el("ul", {}, rows.map((row) => el("li", {}, `Row ${row.row}${row.column ? `, ${row.column}` : ""}: ${row.message}`))) : null);
}

function answerParts(card, answer, sent) {
  const notes = answer.notes.length
    ? el("ul", { className: "notes" }, answer.notes.map((note) => el("li", {}, `${note.topic}: ${note.message}`))) : null;
  const parts = [el("h2", {}, "Answer")];
  const [first] = answer.predictions;
  if (!first) parts.push(el("p", {}, "None of the series can be forecast."));
  else if (answer.predictions.length > 1 || "time" in first) parts.push(answersTable(answer));
  else if (first.targets) {
    for (const [name, value] of Object.entries(first.targets)) {
      parts.push(targetAnswer(name, value, card.targets.find((target) => target.name === name)));
    }
  } else {
    parts.push(el("p", { className: "answer" }, positionsText(first)));
    if (first.positions.length <= 20) parts.push(positionsTable(first.positions));
  }
  if (notes) parts.push(notes);
  if (first?.explanation) parts.push(attentionView(first.explanation, sent));
  return parts;
}

/** The verdict: its first line is a recommendation. */
function verdictPart(verdict) {
  const [first, ...others] = verdict.split("\n");
  return el("div", { className: "stack" }, el("p", {}, el("strong", {}, first)), others.map((line) => el("p", {}, line)));
}

function aboutPart(card) {
  const facts = [["Kind", `${FORM_WORDS[card.form]}, ${card.task}`], ["Body", `${card.body.name}, ${card.body.weights} weights, ${card.body.precision}`],
    ["Version", card.version], ["Size", `${(card.bytes / 1000).toFixed(1)} kB`], ["Score", score(card) || "not in the file"]];
  return el("section", { className: "panel stack" }, el("h2", {}, "About this program"),
    el("table", { className: "facts" }, el("tbody", {}, facts.map(([name, value]) => el("tr", {}, el("th", { scope: "row", className: "soft" }, name), el("td", {}, value))))),
    el("h3", {}, "Verdict of the controls"),
    card.verdict ? verdictPart(card.verdict) : el("p", {},
      "It was trained without controls, so nobody knows whether the pretrained body helped. ",
      el("code", {}, "icecore fit --controls"), " finds out."));
}

/** Shell and Python code that ask what was just asked. */
function showExamples(box, card, path, asked) {
  const base = location.href.split("#")[0];
  const header = savedToken() ? ' \\\n  -H "Authorization: Bearer $TOKEN"' : "";
  const token = savedToken() ? ", token=TOKEN" : "";
  const quote = (text) => `'${text.replaceAll("'", `'\\''`)}'`;
  let data, type, python;
  if (asked.file || card.form === "images") {
    const name = asked.file ? asked.file.name : "image.png";
    type = asked.type || "image/png";
    data = `--data-binary ${quote(`@${name}`)}`;
    python = `client.predict(${JSON.stringify(card.name)}, ${JSON.stringify(name)})`;
  } else {
    const rows = JSON.stringify([asked.row]);
    type = "application/json";
    data = `-d ${quote(JSON.stringify({ rows: [asked.row] }))}`;
    python = `rows = ${pythonLiteral(rows)}\nanswer = client.${card.form === "tokens" ? "ask" : "predict"}(${JSON.stringify(card.name)}, rows)`;
  }
  box.replaceChildren(el("h2", {}, "Ask from elsewhere"),
    codeBlock("curl", `curl ${quote(base + path)}${header} \\\n  -H 'Content-Type: ${type}' \\\n  ${data}`),
    codeBlock("Python", `import icecore\n\nclient = icecore.Client(${JSON.stringify(base.replace(/\/$/, ""))}${token})\n${python}`));
}

function pythonLiteral(json) {
  return json.replace(/("(?:[^"\\]|\\.)*")|\b(null|true|false)\b/g, (all, text, word) => text ?? { null: "None", true: "True", false: "False" }[word]);
}

async function load() {
  const answer = await ask("v1/programs");
  state.cards = answer.programs;
  state.limits = answer.limits;
  const count = answer.programs.length;
  document.getElementById("count").textContent = count === 1 ? "1 program" : `${count} programs`;
  document.getElementById("footer").textContent = `icecore ${answer.icecore}`;
}

/** Show what the address names. */
async function route() {
  try {
    if (state.changes < 0) {
      state.changes = (await ask("ready")).changes;
      await load();
    }
  } catch (error) {
    state.changes = -1;
    main.replaceChildren(error.status === 401 ? tokenForm(route) : problemPart(error));
    return;
  }
  const name = decodeURIComponent(location.hash.slice(1));
  const card = state.cards.find((each) => each.name === name);
  if (card) showProgram(card);
  else {
    showCards();
    if (name && name !== "main") main.prepend(el("p", { className: "alert", role: "alert" }, `There is no program "${name}" any more.`));
  }
}

/** Look for programs that came or went; a form that is being filled in stays as it is. */
async function poll() {
  if (document.hidden || state.changes < 0) return;
  try {
    const { changes } = await ask("ready");
    if (changes === state.changes) return;
    state.changes = changes;
    await load();
    const name = decodeURIComponent(location.hash.slice(1));
    if (!name || !state.cards.some((card) => card.name === name)) route();
  } catch { /* the next look tells */ }
}

addEventListener("hashchange", async () => {
  if (location.hash === "#main") return;
  await route();
  const heading = main.querySelector("h1");
  if (heading) {
    heading.tabIndex = -1;
    heading.focus();
  }
});
setInterval(poll, 3000);
route();
