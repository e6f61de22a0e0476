// The page: photos come in, one after the other they are estimated, here or by the server.

import { Camera } from "./camera.js";
import { Device } from "./device.js";
import { parseBins } from "./distribution.js";
import { PhotoCard } from "./photo.js";
import { Problem, explain } from "./problem.js";
import { estimate, fetchEngine, fetchOffer } from "./service.js";

const REMEMBERED = "agelens.on-device";
const find = (id) => document.getElementById(id);

const device = new Device(() => prepare());
const photos = new Set();
const queue = [];
let offer = null; // what the service offers; null until it has told
let engine = null; // of the estimator in this page: {missing, bytes}
let here = null; // {model, loading}: promise of an estimator in this page for the chosen model
let working = false;
let token = "";

let threshold = 18; // years, the last one that could be read

const settings = {
  get threshold() {
    const { valueAsNumber, validity } = find("threshold");
    if (validity.valid && Number.isFinite(valueAsNumber)) threshold = valueAsNumber;
    return threshold;
  },
  get level() {
    return Number(find("level").value);
  },
  get model() {
    return offer.models.find(({ name }) => name === find("model").value);
  },
  get onDevice() {
    return find("on-device").checked;
  },
};

function announce(text) {
  find("announcements").textContent = text;
}

// --- what the service offers

async function connect() {
  try {
    [offer, engine] = await Promise.all([fetchOffer(token), fetchEngine()]);
  } catch (problem) {
    find("token-form").hidden = problem.status !== 401;
    showConnection(explain(problem));
    showPrivacy("off", "The server has not said what it offers; photos wait, and nothing is sent.");
    return;
  }
  find("token-form").hidden = true;
  find("connection").hidden = true;
  for (const model of offer.models) model.bins = parseBins(model.age_bins);
  find("model").replaceChildren(...offer.models.map(({ name }) => new Option(name, name, name === offer.default)));
  showModel();
  engine.missing ??= (offer.detector.name === "mtcnn" ? null : `the page has no detector ${offer.detector.name}`);
  find("on-device").disabled = engine.missing !== null;
  if (engine.missing !== null) find("on-device").checked = false;
  prepare();
  work();
}

function showConnection({ title, detail }) {
  find("connection").hidden = false;
  find("connection").textContent = `${title}. ${detail}`;
}

function showModel() {
  find("terms").textContent = `${settings.model.name} ${settings.model.version}: ${settings.model.terms}.`;
}

// --- keeping photos on this device

function remembered() {
  try {
    return localStorage.getItem(REMEMBERED) === "yes";
  } catch {
    return false; // storage is blocked
  }
}

function remember(chosen) {
  try {
    localStorage.setItem(REMEMBERED, chosen ? "yes" : "no");
  } catch {
    // storage is blocked: the choice holds for this visit
  }
}

function showPrivacy(state, text, progress = null) {
  find("privacy").dataset.state = state;
  find("privacy-state").textContent = text;
  find("progress").hidden = progress === null;
  if (progress !== null) find("progress").value = progress;
}

/** Get this page ready to estimate, if that is wished for, and show how far it is. */
async function prepare() {
  here = null;
  if (offer === null) return;
  if (!settings.onDevice) {
    const where = `Photos go to the server at ${location.host}, which estimates, answers and keeps nothing.`;
    const { missing } = engine;
    if (missing === null) showPrivacy("off", where);
    else showPrivacy("missing", `${where} Estimating in the browser is not possible: ${missing}.`);
    return;
  }
  const { model } = settings;
  const megabytes = Math.round((engine.bytes + model.bytes) / 1e6);
  const wished = { model };
  const current = () => here === wished;
  showPrivacy("loading", "Loading the estimator into this page …", 0);
  here = wished;
  wished.loading = load(model, (share) => {
    const percent = Math.min(99, Math.floor(100 * share));
    const text = `Loading the estimator into this page (${megabytes} MB unpacked), ${percent} % …`;
    if (current()) showPrivacy("loading", text, Math.min(1, share));
  });
  try {
    await wished.loading; // photos that wait for it hear of a failure themselves
    if (!current()) return;
    showPrivacy("ready", "Ready offline. Photos stay in this page: you may cut the connection now.");
    announce("Ready offline. Photos stay in this page.");
  } catch (problem) {
    if (!current()) return;
    const { title, detail } = explain(problem);
    const advice = "Nothing is sent while this switch is on; turn it off and on to try again.";
    showPrivacy("failed", `${title}. ${detail} ${advice}`);
    announce(`The estimator could not be loaded. ${advice}`);
  }
}

function load(model, report) {
  const { networks } = offer.detector;
  return device.load({ model, networks, engineBytes: engine.bytes, token }, report);
}

// --- photos

function add(files) {
  const found = Array.from(files);
  if (found.length === 0) return;
  for (const file of found) {
    // A photo that came while the switch was on is never sent, even if it is turned off before its turn.
    const card = new PhotoCard(file, remove);
    photos.add(card);
    queue.push({ card, keep: settings.onDevice });
    find("photos").prepend(card.element);
  }
  showCount();
  announce(found.length === 1 ? "Estimating one photo …" : `Estimating ${found.length} photos …`);
  work();
}

function remove(card) {
  const next = card.element.nextElementSibling ?? card.element.previousElementSibling;
  card.close();
  photos.delete(card);
  announce(`${card.name} was removed.`);
  showCount();
  (next?.querySelector("[data-part=remove]") ?? find("files")).focus();
}

function showCount() {
  find("results").hidden = photos.size === 0;
}

/** Estimate what waits, one photo after the other. */
async function work() {
  if (working || offer === null) return;
  working = true;
  while (queue.length > 0) {
    const { card, keep } = queue.shift();
    if (!photos.has(card)) continue;
    try {
      const onDevice = keep || settings.onDevice;
      const { model } = settings;
      const answer = await (onDevice ? estimateHere(card, model) : estimateThere(card, model));
      announce(card.show(answer, model, settings, onDevice));
    } catch (problem) {
      const told = explain(problem);
      if (told.status === 401) find("token-form").hidden = false;
      card.fail(told);
      announce(`${card.name}: ${told.title}. ${told.detail}`);
    }
  }
  working = false;
}

async function estimateHere(card, model) {
  if (engine.missing !== null) {
    throw new Problem("This photo was not sent", `Estimating in the browser is not possible: ${engine.missing}.`);
  }
  card.say("Waiting for the estimator in this page …");
  await (here?.model === model ? here.loading : load(model));
  card.say("Estimating in this page …");
  return device.estimate({ photo: card.file, model, limits: offer.limits, warnings: offer.warnings });
}

function estimateThere(card, model) {
  card.say("Estimating on the server …");
  return estimate(card.file, { model, token, limits: offer.limits });
}

// --- the controls

function listen() {
  find("files").addEventListener("change", ({ target }) => {
    add(target.files);
    target.value = "";
  });
  document.addEventListener("paste", (event) => {
    if (event.clipboardData.files.length === 0) return;
    event.preventDefault();
    add(event.clipboardData.files);
  });
  let depth = 0; // of the elements that a dragged photo has entered
  const dragging = (change) => {
    depth = change === 0 ? 0 : Math.max(0, depth + change);
    document.body.classList.toggle("dragging", depth > 0);
  };
  const carriesFiles = (event) => event.dataTransfer?.types.includes("Files");
  document.addEventListener("dragenter", (event) => carriesFiles(event) && dragging(1));
  document.addEventListener("dragleave", (event) => carriesFiles(event) && dragging(-1));
  document.addEventListener("dragover", (event) => carriesFiles(event) && event.preventDefault());
  document.addEventListener("drop", (event) => {
    if (!carriesFiles(event)) return;
    event.preventDefault();
    dragging(0);
    add(event.dataTransfer.files);
  });

  const camera = new Camera(find("camera"), (photo) => add([photo]), announce);
  find("use-camera").disabled = Camera.missing !== null;
  if (Camera.missing !== null) find("camera-missing").textContent = `No camera: ${Camera.missing}.`;
  find("use-camera").addEventListener("click", () => camera.open());

  find("on-device").addEventListener("change", () => {
    remember(settings.onDevice);
    prepare();
  });
  find("model").addEventListener("change", () => {
    if (offer === null) return;
    showModel();
    prepare();
  });
  for (const name of ["threshold", "level"]) {
    find(name).addEventListener("input", () => photos.forEach((card) => card.render(settings)));
  }
  find("settings").addEventListener("submit", (event) => event.preventDefault());
  find("clear").addEventListener("click", () => {
    photos.forEach((card) => card.close());
    photos.clear();
    queue.length = 0;
    showCount();
    announce("All photos were removed.");
    find("files").focus();
  });
  find("token-form").addEventListener("submit", (event) => {
    event.preventDefault();
    token = find("token").value.trim();
    connect();
  });
}

find("on-device").checked = remembered(); // at once: no photo may slip through before
listen();
connect();
