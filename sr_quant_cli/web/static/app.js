/* The page: sends pictures and settings to the server, and shows its state. */

const POLL_MS = 400;
const BUSY = ["waiting", "preparing", "enlarging", "writing"];

const find = (selector, within = document) => within.querySelector(selector);
const form = find("#settings");
const rows = new Map(); // number of a picture -> its row in the list

let offered = { limits: {} };
let state = { pictures: [], seconds_left: null };
let uploading = 0;
let shown = null; // number of the picture in the comparison
let polling = null;

/* Talking to the server */

async function ask(path, options) {
  let answer;
  try {
    answer = await fetch(path, options);
  } catch {
    throw new Error("srq does not answer. Was it stopped in the terminal?");
  }
  if (answer.ok) return answer;
  const text = await answer.text();
  try {
    throw new Error(JSON.parse(text).error);
  } catch (error) {
    throw error instanceof SyntaxError ? new Error(text.trim() || answer.statusText) : error;
  }
}

async function update() {
  clearTimeout(polling);
  try {
    state = await (await ask("pictures")).json();
  } catch (error) {
    complain([error.message]);
    return;
  }
  draw();
  const busy = state.pictures.some((picture) => BUSY.includes(picture.status));
  if (busy) polling = setTimeout(update, POLL_MS);
}

async function each(numbers, action) {
  const problems = [];
  for (const number of numbers) {
    try {
      await action(number);
    } catch (error) {
      problems.push(error.message);
    }
  }
  complain(problems);
  await update();
}

const post = (number, action, body) =>
  ask(`pictures/${number}/${action}`, { method: "POST", body });
const remove = (number) => ask(`pictures/${number}`, { method: "DELETE" });

async function add(files) {
  uploading += files.length;
  draw();
  await each(files, async (file) => {
    try {
      const most = offered.limits.bytes;
      if (file.size > most) {
        throw new Error(`the file is larger than ${Math.floor(most / 2 ** 20)} MiB`);
      }
      const name = new URLSearchParams({ name: file.name });
      await ask(`pictures?${name}`, { method: "POST", body: file });
    } catch (error) {
      const named = error.message.includes(file.name);
      throw named ? error : new Error(`${file.name}: ${error.message}`);
    } finally {
      uploading -= 1;
    }
    await update();
  });
}

/* Settings */

function settings() {
  const { size, factor, width, model, format, strip, first_frame } = form.elements;
  const byWidth = size.value === "width";
  const factors = size.value === "factor" ? factor.value : size.value;
  return {
    factor: byWidth ? null : Number(factors),
    width: byWidth ? Number(width.value) : null,
    model: model.value || null,
    format: format.value || null,
    strip: strip.checked,
    first_frame: first_frame.checked,
  };
}

function drawSettings() {
  const size = form.elements.size.value;
  for (const amount of ["factor", "width"]) {
    find(`#${amount}`).hidden = size !== amount;
    form.elements[amount].disabled = size !== amount;
  }
  draw();
}

function isMade(picture, wanted) {
  const made = picture.result?.settings;
  return picture.status === "done" && Object.keys(wanted).every((key) => made[key] === wanted[key]);
}

const toEnlarge = () => {
  const wanted = settings();
  return state.pictures.filter(
    (picture) => !BUSY.includes(picture.status) && !isMade(picture, wanted),
  );
};

function option(value, text, disabled = false) {
  const made = new Option(text, value);
  made.disabled = disabled;
  return made;
}

function drawOffered() {
  const { model, format, factor } = form.elements;
  for (const [title, own] of [["Built in", false], ["Yours", true]]) {
    const group = document.createElement("optgroup");
    group.label = title;
    for (const each of offered.models.filter((candidate) => candidate.own === own)) {
      group.append(option(each.name, each.label, !each.usable));
    }
    if (group.children.length) model.append(group);
  }
  for (const { key, name, note } of offered.formats) {
    format.append(option(key, `${name} (${note})`));
  }
  factor.max = offered.largest_factor;
}

/* Pictures */

const times = (width, height) => `${width}\u00a0×\u00a0${height}`;

function bytes(count) {
  if (count < 1e6) return `${Math.max(1, Math.round(count / 1e3))} kB`;
  return `${(count / 1e6).toFixed(1)} MB`;
}

function duration(seconds) {
  if (seconds < 90) return `${Math.max(1, Math.round(seconds))} s`;
  if (seconds < 5400) return `${Math.round(seconds / 60)} min`;
  return `${(seconds / 3600).toFixed(1)} h`;
}

const left = (seconds) => (seconds === null ? "" : `, about ${duration(seconds)} left`);

function words(picture) {
  const { status, message, fraction, seconds_left, result } = picture;
  switch (status) {
    case "waiting":
      return "waiting";
    case "preparing":
      return message || "preparing the model";
    case "enlarging":
      return `${Math.floor(100 * fraction)} %${left(seconds_left)}`;
    case "writing":
      return "writing the file";
    case "failed":
      return message;
    case "stopped":
      return "stopped";
    case "done": {
      const lost = result.not_kept.length ? `not kept: ${result.not_kept.join(", ")}` : "";
      return [`done in ${duration(result.seconds)}`, message, lost].filter(Boolean).join("; ");
    }
    default:
      return "";
  }
}

function sizes({ width, height, frames, result }) {
  const before = times(width, height) + (frames > 1 ? `, ${frames} frames or pages` : "");
  if (!result) return before;
  return `${before} → ${times(result.width, result.height)}, ${bytes(result.bytes)}`;
}

function makeRow(picture) {
  const row = find("#row").content.firstElementChild.cloneNode(true);
  const { number, name } = picture;
  find("img", row).src = `pictures/${number}/thumbnail.png`;
  find("strong", row).textContent = name;
  find("strong", row).title = name;
  find(".remove", row).setAttribute("aria-label", `Remove ${name}`);
  find(".stop", row).setAttribute("aria-label", `Stop ${name}`);
  find(".save", row).setAttribute("aria-label", `Save the enlarged ${name}`);
  find(".save", row).href = `pictures/${number}/result`;
  find(".show", row).setAttribute("aria-label", `Compare before and after of ${name}`);
  find(".show", row).addEventListener("click", () => compare(number));
  find(".stop", row).addEventListener("click", () => each([number], (n) => post(n, "stop")));
  find(".remove", row).addEventListener("click", () => each([number], remove));
  return row;
}

function drawRow(row, picture) {
  const { number, status, fraction, result } = picture;
  const running = ["preparing", "enlarging", "writing"].includes(status);
  const progress = find("progress", row);
  row.className = `${status} ${number === shown ? "shown" : ""}`;
  progress.hidden = !running;
  if (status === "enlarging") progress.value = fraction;
  else progress.removeAttribute("value");
  write(find(".sizes", row), sizes(picture));
  write(find(".state", row), words(picture));
  find(".stop", row).hidden = !BUSY.includes(status);
  find(".save", row).hidden = !result || BUSY.includes(status);
  find(".show", row).disabled = !result;
}

/* Write a text only if it is new: screen readers read changes aloud. */
function write(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

function draw() {
  const { pictures } = state;
  const there = new Set(pictures.map((picture) => picture.number));
  for (const [number, row] of rows) {
    if (!there.has(number)) {
      row.remove();
      rows.delete(number);
    }
  }
  for (const picture of pictures) {
    if (!rows.has(picture.number)) {
      rows.set(picture.number, makeRow(picture));
      find("#list").append(rows.get(picture.number));
    }
  }
  drawComparison(pictures);
  for (const picture of pictures) drawRow(rows.get(picture.number), picture);
  drawSummary(pictures);
}

function drawSummary(pictures) {
  const busy = pictures.filter((picture) => BUSY.includes(picture.status));
  const done = pictures.filter((picture) => picture.result);
  const some = (number, noun) => `${number} ${noun}${number === 1 ? "" : "s"}`;
  const parts = [some(pictures.length, "picture")];
  if (uploading) parts.push(`adding ${uploading}`);
  if (busy.length) parts.push(`${busy.length} to do${left(state.seconds_left)}`);
  else if (done.length) parts.push(`${done.length} enlarged`);
  write(find("#summary"), parts.join(", "));
  const current = busy.find((picture) => picture.status === "enlarging");
  document.title = current ? `${Math.floor(100 * current.fraction)} % – srq` : "srq";

  find("#pictures").hidden = !pictures.length && !uploading;
  find("#hint").hidden = pictures.length || uploading;
  find("#stop-all").hidden = busy.length < 2;
  find("#save-all").hidden = done.length < 2 || busy.length;
  find("#clear").hidden = pictures.length < 2 || busy.length;

  const count = toEnlarge().length;
  find("#enlarge").disabled = !count;
  const more = count > 1 ? ` ${count} pictures` : "";
  write(find("#enlarge"), pictures.length && !count && !busy.length ? "Enlarged" : `Enlarge${more}`);
}

function complain(problems) {
  find("#message").hidden = !problems.length;
  write(find("#message"), problems.join("\n"));
}

/* Comparison */

const slider = find("#slider");

function drawComparison(pictures) {
  const done = pictures.filter((picture) => picture.result);
  if (!done.some((picture) => picture.number === shown)) shown = done[0]?.number ?? null;
  const picture = done.find((candidate) => candidate.number === shown);
  find("#comparison").hidden = !picture;
  if (!picture) return;
  const { number, name, result } = picture;
  write(find("#comparison h2"), `${name}, ${times(result.width, result.height)}`);
  const after = `pictures/${number}/after.png?${result.version}`;
  if (find("#after").getAttribute("src") === after) return;
  find("#before").src = `pictures/${number}/before.png`;
  find("#after").src = after;
}

function compare(number) {
  shown = number;
  draw();
  find("#comparison").scrollIntoView({ block: "nearest" });
}

find("#after").addEventListener("load", ({ target }) => {
  find("#layers").style.setProperty("--wide", target.naturalWidth);
  find("#layers").style.setProperty("--high", target.naturalHeight);
});

slider.addEventListener("input", () => {
  find("#layers").style.setProperty("--at", `${slider.value}%`);
});

function drawZoom() {
  const stage = find("#stage");
  stage.classList.toggle("fit", find("[name=zoom]:checked").value === "fit");
  stage.scrollLeft = (stage.scrollWidth - stage.clientWidth) / 2;
  stage.scrollTop = (stage.scrollHeight - stage.clientHeight) / 2;
}

for (const radio of document.querySelectorAll("[name=zoom]")) {
  radio.addEventListener("change", drawZoom);
}

/* Actions */

form.addEventListener("input", drawSettings);
form.addEventListener("submit", (event) => {
  event.preventDefault();
  const body = JSON.stringify(settings());
  each(
    toEnlarge().map((picture) => picture.number),
    (number) => post(number, "enlarge", body),
  );
});

find("#files").addEventListener("change", ({ target }) => {
  add([...target.files]);
  target.value = "";
});

const busyNumbers = () =>
  state.pictures.filter((picture) => BUSY.includes(picture.status)).map(({ number }) => number);
find("#stop-all").addEventListener("click", () => each(busyNumbers(), (n) => post(n, "stop")));
find("#clear").addEventListener("click", () => each([...rows.keys()], remove));

/* Files are dropped anywhere on the page. */
let depth = 0; // dragenter and dragleave come for each element on the way
const dragging = (change) => {
  depth = Math.max(0, depth + change);
  document.body.classList.toggle("dragging", depth > 0);
};
addEventListener("dragenter", () => dragging(1));
addEventListener("dragleave", () => dragging(-1));
addEventListener("dragover", (event) => event.preventDefault());
addEventListener("drop", (event) => {
  event.preventDefault();
  dragging(-depth);
  if (event.dataTransfer.files.length) add([...event.dataTransfer.files]);
});

try {
  offered = await (await ask("offered")).json();
  drawOffered();
  drawSettings();
  drawZoom();
  await update();
} catch (error) {
  complain([error.message]);
}
