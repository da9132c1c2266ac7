"use strict";
// What both pages share: elements, requests with the token, copying, the theme. Texts from programs are never HTML.

/** An element with properties, attributes (aria-*, role, for, ...) and children; a child may be a text. */
function el(tag, properties = {}, ...children) {
  const made = document.createElement(tag);
  for (const [name, value] of Object.entries(properties)) {
    if (value === null || value === undefined || value === false) continue;
    if (name in made && name !== "list" && typeof value !== "object") made[name] = value;
    else if (name.startsWith("on")) made.addEventListener(name.slice(2), value);
    else made.setAttribute(name, value === true ? "" : value);
  }
  made.append(...children.flat(Infinity).filter((child) => child !== null && child !== undefined));
  return made;
}

/** A failed request: the server's message, its status, and the problems of rows. */
class Failure extends Error {
  constructor(status, error) {
    super(error.message);
    this.status = status;
    this.rows = error.rows || [];
  }
}

function savedToken() { try { return sessionStorage.getItem("icecore-token") || ""; } catch { return ""; } }

/** The JSON of an answer. Throws Failure. */
async function ask(path, options = {}) {
  const headers = { ...options.headers };
  if (savedToken()) headers.Authorization = `Bearer ${savedToken()}`;
  let response;
  try {
    response = await fetch(path, { ...options, headers });
  } catch {
    throw new Failure(0, { message: "The server does not answer. Is it running?" });
  }
  const answer = await response.json().catch(() => ({ error: { message: `The server answered ${response.status}.` } }));
  if (!response.ok) throw new Failure(response.status, answer.error || { message: `The server answered ${response.status}.` });
  return answer;
}

/** A form that asks for the token, in place of the content; `then` is called when it has been given. */
function tokenForm(then) {
  const input = el("input", { type: "password", id: "token", autocomplete: "off", required: true });
  return el("form", {
    className: "panel stack",
    onsubmit: (event) => {
      event.preventDefault();
      sessionStorage.setItem("icecore-token", input.value.trim());
      then();
    },
  }, el("h1", {}, "This server needs a token"), el("label", { htmlFor: "token" }, "Token"), input,
  el("div", {}, el("button", { className: "main" }, "Continue")));
}

/** A block of code with a button that copies it. */
function codeBlock(title, code) {
  const button = el("button", {
    className: "small", type: "button", "aria-label": `Copy: ${title}`,
    onclick: async () => {
      try {
        await navigator.clipboard.writeText(code);
        button.textContent = "Copied";
      } catch {
        getSelection().selectAllChildren(block);
        button.textContent = "Selected";
      }
      setTimeout(() => { button.textContent = "Copy"; }, 2000);
    },
  }, "Copy");
  const block = el("pre", { tabindex: "0" }, el("code", {}, code));
  return el("div", { className: "stack" }, el("div", { className: "row" }, el("h3", {}, title), button), block);
}

function setTheme(theme) {
  document.documentElement.dataset.theme = theme;
  document.getElementById("theme").textContent = theme === "dark" ? "Light" : "Dark";
  document.getElementById("theme").setAttribute("aria-label", theme === "dark" ? "Use light colours" : "Use dark colours");
}

{
  let theme = matchMedia("(prefers-color-scheme: dark)").matches ? "dark" : "light";
  try { theme = localStorage.getItem("icecore-theme") || theme; } catch { /* no storage, no memory */ }
  setTheme(theme);
  document.getElementById("theme").addEventListener("click", () => {
    const next = document.documentElement.dataset.theme === "dark" ? "light" : "dark";
    setTheme(next);
    try { localStorage.setItem("icecore-theme", next); } catch { /* no storage, no memory */ }
  });
}
