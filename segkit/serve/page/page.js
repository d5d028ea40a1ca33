// The page of `segkit serve`: open, scroll, click, look, download. No library, no build step.
"use strict";

const API = "segkit/v1";
const VOLUME_FORMATS = [".nii.gz", ".nrrd", ".seg.nrrd", ".mha"];
const PICTURE_FORMATS = [".png", ".tif"];
const SUFFIXES = [".nii.gz", ".seg.nrrd", ".nii", ".nrrd", ".mha", ".png", ".jpg", ".jpeg", ".tif", ".tiff", ".dcm"];
const get = (id) => document.getElementById(id);
const canvas = get("view");
const pen = canvas.getContext("2d");

// everything that is known; the server holds the rest
const state = { token: "", lease: "", image: null, session: "", axis: 0, index: 0, low: 0, high: 1, drag: null, marks: [], draws: 0 };

async function call(method, path, body, headers = {}) {
  if (state.token) headers["Authorization"] = `Bearer ${state.token}`;
  if (state.lease) headers["X-Lease-Token"] = state.lease;
  let answer;
  try {
    answer = await fetch(`${API}/${path}`, { method, body, headers });
  } catch {
    throw new Error("the server does not answer");
  }
  if (answer.ok) return answer;
  if (answer.status === 401) get("token-field").hidden = false;
  const said = await answer.json().catch(() => ({}));
  throw Object.assign(new Error(said.detail || `the server answered ${answer.status}`), { status: answer.status });
}

const post = (path, value) => call("POST", path, JSON.stringify(value || {}), { "Content-Type": "application/json" });

function tell(text, isError = false) {
  get("status").textContent = text;
  get("status").classList.toggle("error", isError);
}

async function busy(text, work) {
  tell(text);
  document.body.setAttribute("aria-busy", "true");
  const start = performance.now();
  try {
    const said = await work();
    tell(said || `Done in ${Math.round(performance.now() - start)} ms.`);
  } catch (error) {
    tell(error.message, true);
  } finally {
    document.body.removeAttribute("aria-busy");
  }
}

async function connect() {
  if (!state.lease) {
    state.lease = (await (await post("leases")).json()).lease;
    setInterval(() => post("heartbeat").catch(() => {}), 20000);
  }
  const { models } = await (await call("GET", "models")).json();
  const choice = get("model");
  const before = choice.value;
  choice.replaceChildren(...models.filter((one) => one.kind === "interactive").map((one) => new Option(one.name, one.name)));
  if (before) choice.value = before;
}

function open(file) {
  const suffix = SUFFIXES.find((one) => file.name.toLowerCase().endsWith(one));
  if (!suffix) return tell(`This kind of file cannot be opened; known: ${SUFFIXES.join(" ")}`, true);
  return busy("Sending the image …", async () => {
    await connect();
    if (state.image) await call("DELETE", `volumes/${state.image.id}`);
    state.image = null;
    // only the suffix is sent, never the name of the file
    const headers = { "Content-Type": "application/x-segkit-file", "X-Meta": JSON.stringify({ suffix }) };
    const sent = await (await call("POST", "volumes", file, headers)).json();
    state.image = await (await call("GET", `volumes/${sent.id}`)).json();
    await startSession();
    showImage();
    return "Click on what you want to have.";
  });
}

async function startSession() {
  if (state.session) await call("DELETE", `sessions/${state.session}`).catch(() => {});
  const wish = { image: state.image.id, model: get("model").value || null };
  state.session = (await (await post("sessions", wish)).json()).id;
  state.marks = [];
}

function showImage() {
  const { kind, shape, spacing_mm: spacing, window: [low, high] } = state.image;
  const isVolume = kind === "volume";
  document.body.classList.toggle("picture", !isVolume);
  state.axis = isVolume ? spacing.indexOf(Math.max(...spacing)) : 0;
  state.index = isVolume ? shape[state.axis] >> 1 : 0;
  Object.assign(state, { low, high });
  const reach = (high - low) || 1;
  for (const [id, value] of [["low", low], ["high", high]]) {
    Object.assign(get(id), { min: low - reach, max: high + reach, step: reach / 200 });
    get(id).value = value;
  }
  get("axis").value = state.axis;
  get("format").replaceChildren(...(isVolume ? VOLUME_FORMATS : PICTURE_FORMATS).map((one) => new Option(one, one)));
  for (const id of ["controls", "display", "result"]) get(id).disabled = false;
  get("hint").hidden = true;
  get("facts").textContent = "No mask yet.";
  resize();
  draw();
}

// rows and columns of the slice on the screen, as axes of the array
const plane = () => (state.image.kind === "volume" ? [0, 1, 2].filter((axis) => axis !== state.axis) : [0, 1]);

function resize() {
  const [rows, columns] = plane();
  const step = state.image.spacing_mm || [1, 1];
  const [height, width] = [state.image.shape[rows] * step[rows], state.image.shape[columns] * step[columns]];
  const scale = 1024 / Math.max(height, width);
  canvas.height = Math.max(1, Math.round(height * scale));
  canvas.width = Math.max(1, Math.round(width * scale));
  get("slice").max = state.image.kind === "volume" ? state.image.shape[state.axis] - 1 : 0;
  get("slice").value = state.index;
}

async function bitmap(path) {
  return createImageBitmap(await (await call("GET", path)).blob());
}

async function draw() {
  if (!state.image) return;
  const number = ++state.draws;
  const at = `axis=${state.axis}&index=${state.index}`;
  get("slice-number").textContent = `${state.index + 1} / ${Number(get("slice").max) + 1}`;
  try {
    const wanted = [bitmap(`volumes/${state.image.id}/slice?${at}&low=${state.low}&high=${state.high}`)];
    if (get("show").checked && state.session) wanted.push(bitmap(`sessions/${state.session}/slice?${at}`));
    const layers = await Promise.all(wanted);
    if (number !== state.draws) return; // a newer one is on its way
    pen.imageSmoothingEnabled = false;
    for (const layer of layers) pen.drawImage(layer, 0, 0, canvas.width, canvas.height);
    state.marks.filter((mark) => mark.at === at).forEach(drawMark);
    canvas.dataset.drawn = number;
  } catch (error) {
    tell(error.message, true);
  }
}

function drawMark({ label, x, y, x1, y1 }) {
  pen.strokeStyle = "#fff";
  pen.fillStyle = label ? "#35d07f" : "#ff4d5e";
  pen.lineWidth = 2;
  pen.beginPath();
  if (x1 === undefined) pen.arc(x, y, 6, 0, 2 * Math.PI);
  else pen.rect(x, y, x1 - x, y1 - y);
  if (x1 === undefined) pen.fill();
  pen.stroke();
}

// canvas pixel to voxel index; integers are voxel centres
function voxel({ x, y }) {
  const [rows, columns] = plane();
  const index = state.image.kind === "volume" ? [0, 0, 0] : [0, 0];
  if (index.length === 3) index[state.axis] = state.index;
  index[rows] = Math.min(state.image.shape[rows] - 1, Math.floor((y * state.image.shape[rows]) / canvas.height));
  index[columns] = Math.min(state.image.shape[columns] - 1, Math.floor((x * state.image.shape[columns]) / canvas.width));
  return index.map((value) => Math.max(0, value));
}

function place(event) {
  const box = canvas.getBoundingClientRect();
  return { x: ((event.clientX - box.left) * canvas.width) / box.width, y: ((event.clientY - box.top) * canvas.height) / box.height };
}

const tool = () => document.querySelector("input[name=tool]:checked").value;
const here = () => `axis=${state.axis}&index=${state.index}`;

function prompt(value, mark) {
  return busy("Computing …", async () => {
    await post(`sessions/${state.session}/prompts`, { prompt: value });
    if (mark) state.marks.push(mark);
    await Promise.all([draw(), measure()]);
  });
}

function act(name) {
  return busy("Computing …", async () => {
    await post(`sessions/${state.session}/${name}`);
    if (name === "undo") state.marks.pop();
    if (name === "reset") state.marks = [];
    await Promise.all([draw(), measure()]);
  });
}

async function measure() {
  if (state.image.kind !== "volume" || !state.image.is_known) {
    get("facts").textContent = "Measurements need a volume with a known frame.";
    return;
  }
  const { labels: [found] } = await (await call("GET", `sessions/${state.session}/measurements`)).json();
  get("facts").textContent = found
    ? `${found.volume_ml.toFixed(2)} ml, longest ${found.diameters.longest_mm.toFixed(1)} mm, across ${found.diameters.perpendicular_mm.toFixed(1)} mm`
    : "The mask is empty.";
}

function download() {
  return busy("Writing the mask …", async () => {
    const suffix = get("format").value;
    const answer = await call("GET", `sessions/${state.session}/file?suffix=${encodeURIComponent(suffix)}`);
    const link = document.createElement("a");
    link.href = URL.createObjectURL(await answer.blob());
    link.download = `mask${suffix}`;
    link.click();
    setTimeout(() => URL.revokeObjectURL(link.href), 1000);
  });
}

function scroll(step) {
  if (!state.image || state.image.kind !== "volume") return;
  state.index = Math.max(0, Math.min(Number(get("slice").max), state.index + step));
  get("slice").value = state.index;
  draw();
}

canvas.addEventListener("pointerdown", (event) => {
  if (!state.image) return;
  canvas.focus();
  state.drag = place(event);
});
canvas.addEventListener("pointerup", (event) => {
  if (!state.drag) return;
  const [from, to] = [state.drag, place(event)];
  state.drag = null;
  if (tool() === "box") {
    const [a, b] = [voxel(from), voxel(to)];
    const box = a.map((value, axis) => [Math.min(value, b[axis]), Math.max(value, b[axis]) + 1]);
    return prompt({ kind: "box", box }, { at: here(), label: 1, x: from.x, y: from.y, x1: to.x, y1: to.y });
  }
  const label = tool() === "remove" || event.shiftKey || event.button === 2 ? 0 : 1;
  return prompt({ kind: "points", points: [voxel(to)], labels: [label] }, { at: here(), label, ...to });
});
canvas.addEventListener("contextmenu", (event) => event.preventDefault());
canvas.addEventListener("wheel", (event) => { event.preventDefault(); scroll(Math.sign(event.deltaY)); }, { passive: false });
canvas.addEventListener("keydown", (event) => {
  const steps = { ArrowUp: -1, ArrowDown: 1, PageUp: -10, PageDown: 10 };
  if (steps[event.key]) { event.preventDefault(); scroll(steps[event.key]); }
});
document.addEventListener("keydown", (event) => {
  if (event.target.matches("input[type=password], select")) return;
  const tools = { a: "add", r: "remove", b: "box" };
  if ((event.ctrlKey || event.metaKey) && event.key === "z" && state.session) act("undo");
  else if (tools[event.key] && !event.ctrlKey) document.querySelector(`input[value=${tools[event.key]}]`).checked = true;
});
get("file").addEventListener("change", (event) => event.target.files[0] && open(event.target.files[0]));
get("stage").addEventListener("dragover", (event) => { event.preventDefault(); get("stage").classList.add("over"); });
get("stage").addEventListener("dragleave", () => get("stage").classList.remove("over"));
get("stage").addEventListener("drop", (event) => {
  event.preventDefault();
  get("stage").classList.remove("over");
  if (event.dataTransfer.files[0]) open(event.dataTransfer.files[0]);
});
for (const id of ["undo", "redo", "reset"]) get(id).addEventListener("click", () => act(id));
get("propagate").addEventListener("click", () => prompt({ kind: "propagate" }));
get("download").addEventListener("click", download);
get("show").addEventListener("change", draw);
get("slice").addEventListener("input", () => { state.index = Number(get("slice").value); draw(); });
get("axis").addEventListener("change", () => {
  state.axis = Number(get("axis").value);
  state.index = state.image.shape[state.axis] >> 1;
  resize();
  draw();
});
for (const id of ["low", "high"]) get(id).addEventListener("input", () => { state[id] = Number(get(id).value); draw(); });
get("model").addEventListener("change", () => state.image && busy("Starting again …", async () => { await startSession(); await draw(); }));
get("token").addEventListener("change", () => { state.token = get("token").value.trim(); busy("Connecting …", connect); });
addEventListener("pagehide", () => state.lease && call("DELETE", "leases").catch(() => {}));

// a token after # stays in the browser: it is no part of what is asked for
if (location.hash.startsWith("#token=")) {
  state.token = decodeURIComponent(location.hash.slice(7));
  history.replaceState(null, "", location.pathname);
}
busy("Connecting …", async () => { await connect(); return "Ready."; });
