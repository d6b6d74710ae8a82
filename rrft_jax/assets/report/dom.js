"use strict";
// Elements, and texts in them. No text becomes markup: all of it goes through `createTextNode`.

const content = JSON.parse(document.getElementById("content").textContent);

// Characters that show nothing, or turn the text around them. Joiners are left: scripts need them.
const HIDDEN =
  /[\u0000-\u0008\u000b-\u001f\u007f-\u009f\u061c\u200b\u200e\u200f\u2028-\u202e\u2060-\u206f\ufeff\ufff9-\ufffb]|\p{Cs}/gu;

/** Return nodes of a text, with its hidden characters written out. */
function written(text) {
  const nodes = [];
  let from = 0;
  for (const match of text.matchAll(HIDDEN)) {
    if (match.index > from) nodes.push(document.createTextNode(text.slice(from, match.index)));
    const code = match[0].codePointAt(0).toString(16).toUpperCase().padStart(4, "0");
    const mark = document.createElement("span");
    mark.className = "hidden-character";
    mark.append(document.createTextNode(`U+${code}`));
    nodes.push(mark);
    from = match.index + match[0].length;
  }
  if (from < text.length) nodes.push(document.createTextNode(text.slice(from)));
  return nodes;
}

/** Return an object's own value; names come from data, and every object inherits a "constructor". */
function own(object, name) {
  return object && Object.hasOwn(object, name) ? object[name] : undefined;
}

/** Return an element: `make("td.number", "0.5")`. Children are texts, numbers or elements. */
function make(kind, ...children) {
  const [tag, ...classes] = kind.split(".");
  const element = document.createElement(tag);
  if (classes.length) element.className = classes.join(" ");
  for (const child of children.flat(Infinity)) {
    if (child === null || child === undefined) continue;
    if (child instanceof Node) element.append(child);
    else element.append(...written(String(child)));
  }
  return element;
}

/** Return a table from a head and rows; all cells but the first `left` ones hold numbers. */
function table(head, rows, left = 1) {
  const line = (cells, tag) =>
    make("tr", cells.map((cell, n) => make(n < left ? tag : `${tag}.number`, cell)));
  return make(
    "div.scroll",
    make("table", make("thead", line(head, "th")), make("tbody", rows.map((row) => line(row, "td"))))
  );
}

/** Return a labelled choice; `options` are [value, text], `change` gets the chosen value. */
function choice(label, options, value, change) {
  const select = make("select");
  for (const [key, text] of options) {
    const option = make("option", text);
    option.value = key;
    select.append(option);
  }
  select.value = value;
  select.addEventListener("change", () => change(select.value));
  return make("label.choice", make("span", label), select);
}

/** Return a labelled check box. */
function tick(label, on, change) {
  const box = make("input");
  box.type = "checkbox";
  box.checked = on;
  box.addEventListener("change", () => change(box.checked));
  return make("label.tick", box, make("span", label));
}

function button(text, click) {
  const element = make("button", text);
  element.type = "button";
  element.addEventListener("click", click);
  return element;
}

/** Return a list that shows `size` items, and more of them when asked. */
function list(items, draw, none, size = 20) {
  const shown = make("div.items");
  const more = button("", () => add());
  let next = 0;
  const add = () => {
    shown.append(...items.slice(next, next + size).map(draw));
    next = Math.min(next + size, items.length);
    more.textContent = `${items.length - next} more`;
    more.hidden = next >= items.length;
  };
  add();
  if (!items.length) shown.append(make("p.note", none));
  return make("div", shown, more);
}

/** Return the pictures of a row, if it has any: images, or the reason why one is missing. */
function figures(places) {
  if (!places.length) return null;
  return make(
    "div.pictures",
    places.map((place) => {
      const picture = content.pictures[place];
      if (picture.missing) return make("p.missing", picture.missing);
      const image = make("img");
      image.src = picture.data;
      image.alt = "the picture of the question";
      image.loading = "lazy";
      return image;
    })
  );
}

const percent = (value) => (100 * value).toFixed(1);
const signed = (value, digits) => (value < 0 ? "\u2212" : "+") + Math.abs(value).toFixed(digits);

/** Return "52.1 +- 1.6 %" of an accuracy, or "0.512 +- 0.013" of a reward. */
function measured(value, error, isPercent) {
  return isPercent
    ? `${percent(value)} \u00b1 ${percent(error)} %`
    : `${value.toFixed(3)} \u00b1 ${error.toFixed(3)}`;
}

/** Return a completion as text that keeps its lines and can't reach out of its box. */
function said(text) {
  const box = make("div.said", text || "(nothing)");
  box.dir = "auto";
  return box;
}
