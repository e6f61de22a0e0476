// One photo on the page: the picture with its faces boxed, and the result of each face.

import { drawDistribution } from "./chart.js";
import { interval, probabilityAtLeast } from "./distribution.js";
import { annotated, save, stem } from "./download.js";
import { shownName } from "./names.js";

const FACES = 4; // of one photo that are shown at first, where there are more than two more

const clone = (id) => document.getElementById(id).content.firstElementChild.cloneNode(true);
const part = (element, name) => element.querySelector(`[data-part="${name}"]`);
const percent = (share) => `${100 * share}%`;

/** A probability in words: never a plain 0 or 100 %. */
export function formatProbability(probability) {
  if (probability > 0.999) return "over 99.9 %";
  if (probability < 0.001) return "under 0.1 %";
  return `${(100 * probability).toFixed(1)} %`;
}

const years = (age) => Math.round(age);
const sentence = (text) => text[0].toUpperCase() + text.slice(1) + ".";

export class PhotoCard {
  #url;
  #answer = null;
  #model = null;
  #all = false; // whether all faces are shown

  /** `number`: the photo's place in the order in which they came. */
  constructor(file, number, { onRemove, onRetry }) {
    this.element = clone("photo");
    this.name = shownName(file);
    this.number = number;
    this.file = file;
    this.failed = false;
    this.#url = URL.createObjectURL(file);
    part(this.element, "name").textContent = this.name;
    const image = part(this.element, "image");
    image.alt = this.name;
    image.addEventListener("error", () => this.#hideImage());
    image.src = this.#url;
    for (const [name, verb, action] of [
      ["remove", "Remove", onRemove],
      ["retry", "Try again:", onRetry],
      ["save-picture", "Save picture of", () => this.#savePicture()],
      ["open", "Details of", () => this.#open(!this.element.classList.contains("open"))],
    ]) {
      const button = part(this.element, name);
      button.setAttribute("aria-label", `${verb} ${this.name}`);
      button.addEventListener("click", action);
    }
    part(this.element, "more").addEventListener("click", () => {
      this.#all = !this.#all;
      this.#showMore();
    });
    this.wait();
  }

  get youngest() {
    return this.#answer?.faces.length ? Math.min(...this.#answer.faces.map(({ age }) => age)) : null;
  }

  get oldest() {
    return this.#answer?.faces.length ? Math.max(...this.#answer.faces.map(({ age }) => age)) : null;
  }

  /** The photo waits for its turn, perhaps not for the first time. */
  wait() {
    this.#answer = null;
    this.failed = false;
    this.element.classList.remove("done", "failed");
    part(this.element, "error").hidden = true;
    part(this.element, "retry").hidden = true;
    for (const name of ["notes", "faces", "boxes", "summary"]) part(this.element, name).replaceChildren();
    for (const name of ["more", "save-picture"]) part(this.element, name).hidden = true;
    this.say("Waiting …");
  }

  /** Where the photo stands, while it waits or is worked on. */
  say(text) {
    part(this.element, "state").textContent = text;
  }

  /** Show an answer's faces. Returns what it says, in a sentence. */
  show(answer, model, settings, onDevice) {
    this.#answer = answer;
    this.#model = model;
    this.element.classList.add("done");
    const seconds = (answer.milliseconds / 1000).toFixed(2);
    const where = onDevice ? "in this page" : "by the server";
    const kept = onDevice ? "; the photo was not sent" : "";
    this.say(`Estimated ${where} with ${model.name} in ${seconds} s${kept}`);
    const count = answer.faces.length;
    part(this.element, "save-picture").hidden = count === 0 || part(this.element, "image").hidden;
    const faces = count === 1 ? "one face" : `${count} faces`;
    part(this.element, "image").alt = `${this.name}: ${faces} marked`;
    this.render(settings);
    if (count === 0) return `${this.name}: no face was found.`;
    const told = answer.faces.slice(0, 5).map(({ age }) => `about ${years(age)} years`);
    return `${this.name}: ${faces}, ${told.join(", ")}.`;
  }

  /** Show why the photo could not be used. */
  fail({ title, detail }) {
    this.failed = true;
    this.element.classList.add("done", "failed");
    this.say("");
    const error = part(this.element, "error");
    part(error, "title").textContent = title;
    part(error, "detail").textContent = detail;
    part(this.element, "summary").textContent = title;
    part(this.element, "retry").hidden = false;
    error.hidden = false;
  }

  /** Draw everything anew that depends on threshold and level. */
  render({ threshold, level }) {
    if (this.#answer === null) return;
    const { width, height, faces, warnings, note } = this.#answer;
    const several = faces.length > 1;
    const notes = warnings.map(({ message }) => listItem(sentence(message)));
    if (note) notes.push(listItem(sentence(note)));
    part(this.element, "notes").replaceChildren(...notes);
    const figure = part(this.element, "figure");
    figure.style.aspectRatio = `${width} / ${height}`;
    figure.style.setProperty("--ratio", width / height);

    const boxes = [];
    const cards = [];
    faces.forEach((face, index) => {
      const [low, high] = interval(face.distribution, this.#model.bins, this.#model.calibration, level);
      const shown = { ...face, low, high, number: several ? index + 1 : null };
      const card = this.#faceCard(shown, threshold, level);
      cards.push(card);
      if (face.box === null) return;
      const box = boxOf(shown, width, height);
      boxes.push(box);
      this.#link(box, card, index);
    });
    part(this.element, "boxes").replaceChildren(...boxes);
    part(this.element, "faces").replaceChildren(...cards);
    const ages = faces.slice(0, 6).map(({ age }) => years(age));
    const summary = faces.length > 6 ? `${ages.join(", ")}, …` : ages.join(", ");
    part(this.element, "summary").textContent = faces.length === 0 ? "no face" : summary;
    this.element.classList.toggle("several", several);
    this.element.classList.toggle("tall", several && height > width);
    this.#showMore();
  }

  /** A box and the card of its face light up together: under the pointer, with the focus, and by a touch. */
  #link(box, card, index) {
    const badge = part(card, "number");
    const under = { pointer: false, focus: false };
    const light = (change) => {
      Object.assign(under, change);
      [box, card].forEach((one) => one.classList.toggle("lit", under.pointer || under.focus));
    };
    for (const element of [box, card]) {
      element.addEventListener("pointerenter", () => light({ pointer: true }));
      element.addEventListener("pointerleave", () => light({ pointer: false }));
      element.addEventListener("focusin", () => light({ focus: true }));
      element.addEventListener("focusout", () => light({ focus: false }));
    }
    box.addEventListener("click", () => {
      if (index >= FACES) this.#all = true;
      this.#open(true);
      this.#showMore();
      card.scrollIntoView({ block: "nearest" });
      if (!badge.hidden) badge.focus({ preventScroll: true });
    });
    badge.addEventListener("click", () => {
      box.scrollIntoView({ block: "nearest" });
      box.focus({ preventScroll: true });
    });
  }

  #open(open) {
    this.element.classList.toggle("open", open);
    part(this.element, "open").setAttribute("aria-expanded", open);
    part(this.element, "open").textContent = open ? "Close" : "Details";
  }

  #showMore() {
    const faces = [...part(this.element, "faces").children];
    const many = faces.length > FACES + 2;
    faces.forEach((face, index) => (face.hidden = many && !this.#all && index >= FACES));
    const more = part(this.element, "more");
    more.hidden = !many;
    more.setAttribute("aria-expanded", this.#all);
    more.textContent = this.#all ? `Show the largest ${FACES} only` : `Show all ${faces.length} faces`;
  }

  #faceCard({ age, low, high, number, distribution, warnings }, threshold, level) {
    const card = clone("face");
    const { bins } = this.#model;
    const probability = formatProbability(probabilityAtLeast(distribution, bins, threshold));
    const span = `${years(low)} to ${years(high)}`;
    card.dataset.age = age;
    card.dataset.low = low;
    card.dataset.high = high;
    const badge = part(card, "number");
    badge.hidden = number === null;
    badge.textContent = number === null ? "" : `Face ${number}`;
    badge.title = "Show it in the photo";
    part(card, "age").textContent = years(age);
    part(card, "interval").textContent = span;
    part(card, "level").textContent = `${Math.round(100 * level)} %`;
    part(card, "question").textContent = `P(age ≥ ${threshold})`;
    part(card, "probability").textContent = probability;
    const label = [
      `Distribution over ages ${bins.minimum} to ${bins.maximum}: estimate ${years(age)}, interval ${span}`,
      `probability of ${threshold} or more: ${probability}`,
    ].join("; ");
    part(card, "chart").replaceChildren(drawDistribution({ distribution, bins, age, low, high, threshold, label }));
    part(card, "warnings").replaceChildren(...warnings.map(({ message }) => listItem(sentence(message))));
    return card;
  }

  /** The answer in numbers: {path, model, error, faces: [{age, low, high, …}]}; null while there is none. */
  result({ threshold, level }) {
    const path = this.name;
    if (this.failed) return { path, error: part(this.element, "title").textContent, faces: [] };
    if (this.#answer === null) return null;
    const { name: model, version, bins, calibration } = this.#model;
    const faces = this.#answer.faces.map(({ age, box, confidence, distribution, warnings }) => {
      const [low, high] = interval(distribution, bins, calibration, level);
      const ages = { age, low, high, level, p_at_least: probabilityAtLeast(distribution, bins, threshold), threshold };
      const codes = warnings.map(({ code }) => code);
      return { ...ages, box, confidence, warnings: codes, age_bins: `${bins.minimum}-${bins.maximum}`, distribution };
    });
    const { width, height } = this.#answer;
    return { path, model, version, width, height, error: faces.length === 0 ? "no face found" : null, faces };
  }

  async #savePicture() {
    const faces = [...part(this.element, "boxes").children].map((box, index) => {
      const told = [part(box, "age"), part(box, "interval")].map(({ textContent }) => textContent);
      const number = part(box, "number").textContent;
      const label = `${number && `${number}: `}${told[0]} (${told[1].replace("–", " to ")})`;
      return { box: this.#answer.faces.filter((face) => face.box !== null)[index].box, label };
    });
    save(`${stem(this.name)}-ages.png`, await annotated(part(this.element, "image"), this.#answer, faces));
  }

  #hideImage() {
    for (const name of ["image", "save-picture"]) part(this.element, name).hidden = true;
    part(this.element, "blank").hidden = false;
  }

  /** Let go of the photo. */
  close() {
    this.element.remove();
    URL.revokeObjectURL(this.#url);
  }
}

function listItem(text) {
  const item = document.createElement("li");
  item.textContent = text;
  return item;
}

/** A face's box on the picture, labelled with age and interval. The list beside it says the same in words. */
function boxOf({ box: [x1, y1, x2, y2], age, low, high, number }, width, height) {
  const box = clone("box");
  box.style.left = percent(x1 / width);
  box.style.top = percent(y1 / height);
  box.style.width = percent((x2 - x1) / width);
  box.style.height = percent((y2 - y1) / height);
  box.classList.toggle("low", y2 > 0.9 * height);
  part(box, "face").textContent = number === null ? "The face" : "Face ";
  part(box, "number").textContent = number ?? "";
  part(box, "number").hidden = number === null;
  part(box, "age").textContent = years(age);
  part(box, "interval").textContent = `${years(low)}–${years(high)}`;
  return box;
}
