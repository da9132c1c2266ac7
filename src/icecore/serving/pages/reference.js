// The reference: the operations of the OpenAPI description, with their parameters, bodies, answers and examples.

const main = document.getElementById("main");

function operationPart(path, method, operation) {
  const examples = Object.entries(operation.requestBody?.content?.["application/json"]?.examples || {});
  const types = Object.keys(operation.requestBody?.content || {});
  const parameters = (operation.parameters || []).map((parameter) => el("tr", {},
    el("th", { scope: "row" }, el("code", {}, parameter.name)), el("td", {}, parameter.in), el("td", {}, parameter.description || "")));
  const answers = Object.entries(operation.responses).map(([status, answer]) => el("tr", {},
    el("th", { scope: "row" }, status), el("td", {}, answer.description)));
  return el("section", { className: "panel stack" },
    el("h2", {}, el("span", { className: "method" }, method.toUpperCase()), el("code", {}, path)),
    el("p", {}, operation.description || operation.summary || ""),
    parameters.length ? el("table", { className: "facts" }, el("caption", { className: "label" }, "Parameters"), el("tbody", {}, parameters)) : null,
    types.length ? el("p", { className: "small" }, el("strong", {}, "Content types: "), types.join(", ")) : null,
    el("table", { className: "facts" }, el("caption", { className: "label" }, "Answers"), el("tbody", {}, answers)),
    examples.length ? el("details", {}, el("summary", {}, `Examples of ${examples.length} programs`),
      examples.map(([name, example]) => codeBlock(example.summary || name, JSON.stringify(example.value, null, 1)))) : null);
}

async function showReference() {
  let described;
  try {
    described = await ask("openapi.json");
  } catch (error) {
    main.replaceChildren(error.status === 401 ? tokenForm(showReference) : el("p", { className: "alert", role: "alert" }, error.message));
    return;
  }
  const parts = Object.entries(described.paths).flatMap(([path, operations]) =>
    Object.entries(operations).map(([method, operation]) => operationPart(path, method, operation)));
  main.replaceChildren(el("h1", {}, "API"), el("p", {}, described.info.description), ...parts);
}

showReference();
