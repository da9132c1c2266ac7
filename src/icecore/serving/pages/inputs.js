// What a program asks for: a form made of its columns, a text, numbers, or a place to drop a file.

const MEDIA_TYPES = {
  csv: "text/csv", tsv: "text/tab-separated-values", tab: "text/tab-separated-values", npz: "application/x-npz",
  npy: "application/x-npy", parquet: "application/vnd.apache.parquet", pq: "application/vnd.apache.parquet",
  fasta: "text/x-fasta", fa: "text/x-fasta", faa: "text/x-fasta", fna: "text/x-fasta", ffn: "text/x-fasta",
  frn: "text/x-fasta", fas: "text/x-fasta", fsa: "text/x-fasta", pep: "text/x-fasta", mfa: "text/x-fasta",
  txt: "text/plain", smi: "text/plain", smiles: "text/plain", log: "text/plain", zip: "application/zip",
  ppm: "image/x-portable-anymap", pgm: "image/x-portable-anymap", png: "image/png", jpg: "image/jpeg",
  jfif: "image/jpeg", jpeg: "image/jpeg", webp: "image/webp", gif: "image/gif", bmp: "image/bmp", tif: "image/tiff", tiff: "image/tiff",
};

/** The media type that the ending of a file's name stands for. */
function mediaType(file) {
  return MEDIA_TYPES[file.name.toLowerCase().split(".").pop()] || file.type || "application/octet-stream";
}

/** The fields of a table row. `read` gives the row; `show` marks the fields of wrong columns. */
function columnFields(columns, example) {
  const fields = columns.map((column, index) => {
    const id = `field-${index}`;
    let input;
    if (column.type === "text") {
      const options = column.categories.map((category) => el("option", { value: category }, category));
      input = el("select", { id }, el("option", { value: "" }, "(unknown)"), options);
      input.value = example[column.name] ?? "";
    } else {
      input = el("input", { id, type: column.type === "date" ? "date" : "text", inputMode: column.type === "date" ? "" : "decimal",
        autocomplete: "off", value: example[column.name] ?? "" });
    }
    input.setAttribute("aria-describedby", `${id}-error`);
    const hint = column.type === "number" && column.mean !== null
      ? el("span", { className: "hint" }, `usually ${shortNumber(column.mean, 3)} ± ${shortNumber(column.std, 2)}`) : null;
    const error = el("span", { id: `${id}-error`, className: "field-error" });
    return { column, input, error, box: el("div", {}, el("label", { htmlFor: id }, column.name, hint), input, error) };
  });
  return {
    node: el("div", { className: "fields" }, fields.map((field) => field.box)),
    read: () => ({ row: Object.fromEntries(fields.map(({ column, input }) => [column.name, cell(column, input.value)])) }),
    show: (problems) => {
      let first = null;
      for (const { column, input, error } of fields) {
        const problem = problems.find((each) => each.column === column.name);
        error.textContent = problem ? problem.message : "";
        input.setAttribute("aria-invalid", String(Boolean(problem)));
        if (problem && !first) first = input;
      }
      if (first) first.focus();
    },
  };
}

/** The cell of a field: null for nothing, a number where the text is one, otherwise the text for the server to judge. */
function cell(column, text) {
  if (text.trim() === "") return null;
  return column.type === "number" && Number.isFinite(Number(text)) ? Number(text) : text;
}

/** A text area. `parse` makes a row of the text, and what the attention is drawn on. */
function textField(label, hint, value, parse) {
  const input = el("textarea", { id: "text", value, spellcheck: false, "aria-describedby": "text-hint" });
  return {
    node: el("div", {}, el("label", { htmlFor: "text" }, label), input, el("p", { id: "text-hint", className: "soft small" }, hint)),
    read: () => parse(input.value),
    show: (problems) => input.setAttribute("aria-invalid", String(problems.length > 0)),
  };
}

function parseText(text, inputs) {
  const lines = text.split(/\r?\n/);
  const sequence = lines[0].startsWith(">") ? lines.slice(1).map((line) => line.trim()).join("") : text;
  return { row: inputs.column ? { [inputs.column]: sequence } : sequence, sent: { text: sequence } };
}

function parseNumbers(text) {
  if (text.trim().startsWith("[") || text.trim().startsWith("{")) {
    const row = JSON.parse(text);
    return { row, sent: Array.isArray(row) && !Array.isArray(row[0]) ? { series: row } : {} };
  }
  if (/\d,\d/.test(text) && !text.includes(".") && /[\s;]/.test(text.trim().replace(/,\s+/g, ","))) {
    throw new Error("A comma between digits may separate numbers or decimals. Write decimals with a point.");
  }
  const row = text.trim().split(/[\s,;]+/).map((part) => (/^(null|na|-)?$/i.test(part) ? null : Number(part)));
  if (row.some((value) => value !== null && !Number.isFinite(value))) {
    throw new Error("Separate the numbers by spaces, commas or lines; write null for a missing one.");
  }
  return { row, sent: { series: row } };
}

function parseJson(text) { return { row: JSON.parse(text), sent: {} }; }

/** The input of a program, by its form. */
const FIELDS = {
  table: (card) => columnFields(card.inputs.columns, card.example),
  sequences: (card) => textField("Numbers", `Up to ${card.inputs.points} points${card.inputs.values > 1
    ? `, each a list of ${card.inputs.values}` : ", in their order"}.`,
    Array.isArray(card.example) && typeof card.example[0] === "number" ? card.example.join(", ") : JSON.stringify(card.example), parseNumbers),
  strings: (card) => textField("Text", `Up to ${card.inputs.length} characters; a FASTA record works too.`,
    card.inputs.column ? card.example[card.inputs.column] : card.example, (text) => parseText(text, card.inputs)),
  tokens: (card) => textField("Tokens as JSON", card.summary, JSON.stringify(card.example), parseJson),
  forecast: (card) => textField("Series", "The values of each column in order of time, as JSON; null for what is not known."
    + (card.inputs.columns.length === 1 ? " Numbers alone work too." : ""), JSON.stringify(card.example), parseNumbers),
  images: () => ({ node: el("div"), read: () => null, show: () => {} }),
};

/** A place to drop or choose a file; `use` is called with it. */
function dropZone(card, use) {
  const isImage = card.form === "images";
  const kinds = isImage ? "an image, or a ZIP file of images" : card.form === "strings" ? "FASTA, text or CSV"
    : card.form === "forecast" ? "CSV or Parquet" : "CSV, Parquet or npz";
  const preview = el("div");
  const input = el("input", { type: "file", id: "file", "aria-describedby": "file-hint" });
  const take = (file) => {
    if (!file) return;
    preview.replaceChildren();
    if (mediaType(file).startsWith("image/")) preview.append(el("img", { src: URL.createObjectURL(file), alt: file.name }));
    use(file);
  };
  input.addEventListener("change", () => take(input.files[0]));
  const zone = el("div", { className: "drop" }, el("label", { htmlFor: "file" }, isImage ? "Image"
    : card.form === "forecast" ? "Or a table of series" : "Or a file with many rows"),
    el("p", { id: "file-hint", className: "soft small" }, `Drop ${kinds} here, or choose it.`), input, preview);
  zone.addEventListener("dragover", (event) => { event.preventDefault(); zone.classList.add("over"); });
  zone.addEventListener("dragleave", () => zone.classList.remove("over"));
  zone.addEventListener("drop", (event) => {
    event.preventDefault();
    zone.classList.remove("over");
    take(event.dataTransfer.files[0]);
  });
  return zone;
}
