// The page: photos come in, one after the other they are estimated, here or by the server.

import { Camera } from "./camera.js";
import { ClipCard, isClip } from "./clip.js";
import { Device } from "./device.js";
import { parseBins } from "./distribution.js";
import { droppedFiles } from "./files.js";
import { Gallery } from "./gallery.js";
import { Live } from "./live.js";
import { forgetPage, keepPage } from "./offline.js";
import { Problem, explain } from "./problem.js";
import { estimate, fetchEngine, fetchOffer } from "./service.js";

const REMEMBERED = "agelens.on-device";
const find = (id) => document.getElementById(id);

const device = new Device(() => prepare());
let offer = null; // what the service offers; null until it has told
let engine = null; // of the estimator in this page: {missing, bytes}
let here = null; // {model, loading}: promise of an estimator in this page for the chosen model
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
    if (problem.status === 401) askToken(token !== "");
    else say(...Object.values(explain(problem)));
    showPrivacy("off", "The server has not said what it offers; photos wait, and nothing is sent.");
    return;
  }
  find("token-form").hidden = true;
  find("message").hidden = true;
  for (const model of offer.models) model.bins = parseBins(model.age_bins);
  find("model").replaceChildren(...offer.models.map(({ name }) => new Option(name, name, name === offer.default)));
  showModel();
  engine.missing ??= (offer.detector.networks.length ? null : `the page has no detector ${offer.detector.name}`);
  find("on-device").disabled = engine.missing !== null;
  if (engine.missing !== null) find("on-device").checked = false;
  prepare();
  gallery.start();
}

function say(title, detail) {
  find("message").hidden = false;
  find("message").textContent = `${title}. ${detail}`;
}

/** Ask for the server's token, once more if it `refused` one. */
function askToken(refused) {
  find("token-form").hidden = false;
  find("message").hidden = true;
  find("token-refused").hidden = !refused;
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
    forgetPage();
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
    const kept = await keepPage([model.url, ...offer.detector.networks], token);
    if (kept && current()) {
      const again = "Ready offline, after a reload too. Photos stay in this page: you may cut the connection now.";
      showPrivacy("ready", again);
    }
  } catch (problem) {
    if (!current()) return;
    const { title, detail } = explain(problem);
    const advice = "Nothing is sent while this switch is on; turn it off and on to try again.";
    showPrivacy("failed", `${title}. ${detail} ${advice}`);
    announce(`The estimator could not be loaded. ${advice}`);
  }
}

function load(model, report = () => {}) {
  return device.load({ model, detector: offer.detector, engineBytes: engine.bytes, token }, report);
}

// --- photos

const gallery = new Gallery(find("results"), {
  settings,
  announce,
  onRefusal: () => askToken(true),
  async estimate(card) {
    if (card instanceof ClipCard) return card.estimate(follower, settings);
    const onDevice = card.keep || settings.onDevice;
    const { model } = settings;
    const answer = await (onDevice ? estimateHere(card, model) : estimateThere(card, model));
    return { answer, model, onDevice };
  },
});

function add(files) {
  const found = Array.from(files);
  if (found.length === 0) return;
  const clips = found.filter(isClip).length;
  const noun = clips === 0 ? "photo" : clips === found.length ? "clip" : "file";
  announce(found.length === 1 ? `Estimating one ${noun} …` : `Estimating ${found.length} ${noun}s …`);
  gallery.add(found);
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

/** People in clips and before the camera: they are estimated in this page, and never sent. */
const follower = {
  /** Why that is not possible; null if it is. */
  get missing() {
    return offer === null ? "the server has not said what it offers" : engine.missing;
  },
  /** Get everything into this page; gives the model that is chosen. */
  async ready() {
    const { model } = settings;
    await (here?.model === model ? here.loading : load(model));
    return model;
  },
  follow: (request) => device.follow(request),
  finish: (stream) => device.finish(stream),
};

async function addDropped(transfer) {
  try {
    const { files, skipped } = await droppedFiles(transfer);
    add(files);
    if (skipped > 0 || files.length === 0) {
      say(files.length === 0 ? "No photo or clip was dropped" : "Not every file was taken", skippedFiles(skipped));
    }
  } catch {
    say("The folder cannot be read", "The browser was not allowed to, or it has gone.");
  }
}

function skippedFiles(count) {
  if (count === 0) return "The folder is empty.";
  return count === 1 ? "One file is no photo or clip by its name." : `${count} files are no photos or clips by their names.`;
}

async function addExample() {
  const response = await fetch("example.jpg").catch(() => null);
  if (!response?.ok) return say("The example cannot be fetched", "The server does not answer.");
  add([new File([await response.blob()], "Example.jpg", { type: "image/jpeg" })]);
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
    addDropped(event.dataTransfer);
  });

  const live = new Live(find("camera"), { follower, settings, announce });
  const camera = new Camera(find("camera"), (photo) => add([photo]), announce, live);
  find("use-example").addEventListener("click", addExample);
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
    gallery.again();
  });
  for (const name of ["threshold", "level"]) {
    find(name).addEventListener("input", () => gallery.render());
  }
  find("settings").addEventListener("submit", (event) => event.preventDefault());
  find("clear").addEventListener("click", () => {
    gallery.clear();
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
