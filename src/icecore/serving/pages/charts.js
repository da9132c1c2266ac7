// What an answer looks like: bars of classes, a number on its scale, and attention on columns, patches and positions.

/** A share in per cent. 100 % is all of it: what is less gets so many digits that it shows. */
const percent = (share) => {
  const digits = share < 0.01 || (share >= 0.9995 && share < 1) ? 2 : share < 0.1 || (share >= 0.995 && share < 1) ? 1 : 0;
  const text = (100 * share).toFixed(digits);
  return share < 1 && Number(text) === 100 ? "> 99.99 %" : `${text} %`;
};
const shortNumber = (value, digits = 6) => (value === null ? "not a number" : Number(value.toPrecision(digits)).toString());
const countRows = (count) => (count === 1 ? "1 row" : `${count} rows`);

/** Bars of [label, share] pairs, the largest first; a table, so that screen readers read the numbers. */
function bars(title, pairs, largest = 1) {
  const body = pairs.map(([label, share], index) => {
    const fill = el("div", { className: "fill" });
    fill.style.width = `${Math.min(100, (100 * share) / largest)}%`;
    return el("tr", { className: index === 0 ? "best" : "" }, el("th", { scope: "row" }, label),
      el("td", { "aria-hidden": "true" }, el("div", { className: "track" }, fill)), el("td", { className: "number" }, percent(share)));
  });
  return el("table", { className: "bars" }, el("caption", { className: "label" }, title), el("tbody", {}, body));
}

/** The answer for one target. */
function targetAnswer(name, answer, described) {
  if ("value" in answer) {
    const words = [el("p", { className: "answer" }, shortNumber(answer.value)), el("p", { className: "soft small" }, name)];
    if (described && described.std && answer.value !== null) {
      const away = (answer.value - described.mean) / described.std;
      const side = away < 0 ? "below" : "above";
      words.push(el("p", { className: "soft small" },
        `${Math.abs(away).toFixed(1)} standard deviations ${side} the mean of training, ${shortNumber(described.mean)}.`));
    }
    return el("div", {}, words);
  }
  const pairs = Object.entries(answer.probabilities).sort((a, b) => b[1] - a[1]).slice(0, 20);
  return el("div", { className: "stack" }, el("p", { className: "answer" }, String(answer.class)), bars(`${name}: probability`, pairs));
}

/** How strongly each value is coloured, 0 to 1: the smallest not at all, the largest fully. */
function strengths(values) {
  const low = Math.min(...values), high = Math.max(...values);
  return values.map((value) => (high > low ? (value - low) / (high - low) : 0));
}

/** Paint values as opacity of the heat colour, one pixel each. */
function heat(canvas, width, height, values) {
  canvas.width = width;
  canvas.height = height;
  const context = canvas.getContext("2d");
  const colour = getComputedStyle(document.documentElement).getPropertyValue("--heat");
  strengths(values).forEach((strength, index) => {
    context.fillStyle = `rgba(${colour}, ${0.85 * strength})`;
    context.fillRect(index % width, Math.floor(index / width), 1, 1);
  });
  return canvas;
}

/** Where the program looked: `explanation` of the server, on the row that was sent. */
function attentionView(explanation, sent) {
  const { labels, attention, unit } = explanation;
  const top = attention.map((share, index) => [labels[index] ?? String(index + 1), share]).sort((a, b) => b[1] - a[1]);
  const parts = [el("h3", {}, "Where it looked"),
    el("p", { className: "soft small" },
      `The share of attention on each of the ${labels.length} ${unit}, as the mean over layers and heads. It shows what ` +
      "the answer could draw on, not why it was given.")];
  if (explanation.grid && sent.image) {
    parts.push(el("div", { className: "over-image", role: "img", "aria-label": `Attention is strongest at ${top[0][0]}` },
      el("img", { src: sent.image, alt: "" }), heat(el("canvas"), explanation.grid[1], explanation.grid[0], attention)));
  } else if (typeof sent.text === "string") {
    parts.push(letters(sent.text, attention));
  } else if (sent.series) {
    parts.push(line(sent.series, attention));
  }
  if (parts.length > 2) {
    parts.push(el("p", { className: "soft small" }, `No colour is ${percent(Math.min(...attention))}, full colour is ${percent(top[0][1])}.`));
  }
  parts.push(bars(`Strongest ${unit}`, top.slice(0, unit === "columns" ? 12 : 5), top[0][1]));
  const cells = explanation.map.flat();
  parts.push(el("details", {}, el("summary", {}, "Map of all tokens"),
    el("p", { className: "soft small" }, "A row is a token that looks, a column a token that is looked at."),
    heat(el("canvas", { className: "map", role: "img", "aria-label": "Map of attention of tokens on tokens" }),
      explanation.map.length, explanation.map.length, cells)));
  return el("section", { className: "stack" }, parts);
}

function letters(text, attention) {
  const strength = strengths(attention);
  const colour = getComputedStyle(document.documentElement).getPropertyValue("--heat");
  const spans = [...text].slice(0, attention.length).map((letter, index) => {
    const span = el("span", { title: `${index + 1}: ${percent(attention[index])}` }, letter === " " ? "\u00a0" : letter);
    span.style.background = `rgba(${colour}, ${0.55 * strength[index]})`;
    return span;
  });
  return el("p", { className: "letters" }, spans);
}

function line(series, attention) {
  const space = "http://www.w3.org/2000/svg";
  const svg = document.createElementNS(space, "svg");
  const known = series.filter((value) => value !== null);
  const low = Math.min(...known), high = Math.max(...known);
  svg.setAttribute("viewBox", "0 0 100 40");
  svg.setAttribute("preserveAspectRatio", "none");
  svg.setAttribute("class", "line");
  svg.setAttribute("role", "img");
  svg.setAttribute("aria-label", `A series of ${series.length} points with the attention on them`);
  strengths(attention).forEach((strength, index) => {
    const box = document.createElementNS(space, "rect");
    const width = 100 / attention.length;
    Object.entries({ x: index * width, y: 0, width, height: 40, opacity: 0.5 * strength })
      .forEach(([name, value]) => box.setAttribute(name, value));
    svg.append(box);
  });
  const path = document.createElementNS(space, "polyline");
  path.setAttribute("points", series.map((value, index) => value === null ? "" :
    `${(100 * (index + 0.5)) / series.length},${38 - (36 * (value - low)) / (high - low || 1)}`).join(" "));
  svg.append(path);
  return svg;
}

/** The classes at all positions that are read, in a row. */
function positionsText(row) {
  return row.positions.map((position) => [position].flat().map((each) => each.class).join("")).join(" ");
}

function positionsTable(positions) {
  return el("table", { className: "facts" }, el("thead", {}, el("tr", {}, ["position", "class", "probability"].map((head) => el("th", { scope: "col" }, head)))),
    el("tbody", {}, positions.map((position, index) => [position].flat().map((each) => el("tr", {}, el("th", { scope: "row" }, String(index + 1)),
      el("td", {}, String(each.class)), el("td", {}, percent(each.probability)))))));
}

/** The answers of many rows as a table, with the file to download. */
function answersTable(answer) {
  const names = answer.targets.map((target) => target.name);
  const isForecast = answer.predictions.some((row) => "time" in row);
  const cells = (row) => row.errors ? [row.errors[0].message, ""] : isForecast
    ? [row.time, ...names.flatMap((name) => ["value", "low", "high"].map((part) => shortNumber(row.targets[name][part])))] : row.targets
    ? names.flatMap((name) => "value" in row.targets[name]
      ? [shortNumber(row.targets[name].value)] : [String(row.targets[name].class), percent(row.targets[name].probability)])
    : [positionsText(row)];
  const heads = isForecast ? ["time", ...names.flatMap((name) => [name, "low (10%)", "high (90%)"])] : names.flatMap((name) => {
    const first = answer.predictions.find((row) => row.targets);
    return first && "probability" in first.targets[name] ? [name, "probability"] : [name];
  });
  const shown = answer.predictions.slice(0, 200);
  const csvCell = (text) => {
    const safe = /^[=+\-@\t\r]/.test(text) && Number.isNaN(Number(text)) ? `'${text}` : text;
    return /[",\n]/.test(safe) ? `"${safe.replaceAll('"', '""')}"` : safe;
  };
  const csv = [["row", ...heads], ...answer.predictions.map((row) => [row.name ?? String(row.row), ...cells(row)])]
    .map((line) => line.map(csvCell).join(",")).join("\n");
  const link = el("a", { href: URL.createObjectURL(new Blob([csv], { type: "text/csv" })), download: `${answer.program}.csv` },
    "Download all as CSV");
  return el("div", { className: "stack" },
    el("p", {}, `${countRows(answer.predictions.length)}. `, link),
    answer.score ? el("p", {}, `${answer.score.metric} on these rows: ${answer.score.value.toFixed(4)}`) : null,
    el("div", { className: "scroll", tabindex: "0", role: "region", "aria-label": "Predictions" }, el("table", {},
      el("thead", {}, el("tr", {}, [isForecast ? "series" : "row", ...heads].map((head) => el("th", { scope: "col" }, head)))),
      el("tbody", {}, shown.map((row) => el("tr", {}, el("th", { scope: "row" }, row.name ?? String(row.row)),
        cells(row).map((cell) => el("td", {}, cell))))))),
    shown.length < answer.predictions.length ? el("p", { className: "soft small" }, `The first ${shown.length} are shown.`) : null);
}
