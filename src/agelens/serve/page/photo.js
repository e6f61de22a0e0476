// One photo on the page: the picture with its faces boxed, and what is said of each face.

import { drawDistribution } from "./chart.js";
import { interval, probabilityAtLeast } from "./distribution.js";

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

  /** `onRemove` is told when the user takes the photo away. */
  constructor(file, onRemove) {
    this.element = clone("photo");
    this.name = file.name || "Pasted photo";
    this.file = file;
    this.#url = URL.createObjectURL(file);
    part(this.element, "name").textContent = this.name;
    const image = part(this.element, "image");
    image.alt = this.name;
    image.addEventListener("error", () => this.#hideImage());
    image.src = this.#url;
    const remove = part(this.element, "remove");
    remove.setAttribute("aria-label", `Remove ${this.name}`);
    remove.addEventListener("click", () => onRemove(this));
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
    const there = `Estimated by the server in ${seconds} s`;
    this.say(onDevice ? `Estimated in this page in ${seconds} s; the photo was not sent` : there);
    const count = answer.faces.length;
    part(this.element, "image").alt = `${this.name}: ${count === 1 ? "one face" : `${count} faces`} marked`;
    this.render(settings);
    if (count === 0) return `${this.name}: no face was found.`;
    const told = answer.faces.slice(0, 5).map(({ age }) => `about ${years(age)} years`);
    return `${this.name}: ${count === 1 ? "one face" : `${count} faces`}, ${told.join(", ")}.`;
  }

  /** Show why the photo could not be used. */
  fail({ title, detail }) {
    this.element.classList.add("done", "failed");
    this.say("");
    const error = part(this.element, "error");
    part(error, "title").textContent = title;
    part(error, "detail").textContent = detail;
    error.hidden = false;
  }

  /** Draw everything anew that depends on threshold and level. */
  render({ threshold, level }) {
    if (this.#answer === null) return;
    const { width, height, faces, warnings } = this.#answer;
    const several = faces.length > 1;
    const notes = warnings.map(({ message }) => listItem(sentence(message)));
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
      for (const [event, lit] of [["pointerenter", true], ["pointerleave", false]]) {
        for (const element of [box, card]) {
          element.addEventListener(event, () => [box, card].forEach((other) => other.classList.toggle("lit", lit)));
        }
      }
    });
    part(this.element, "boxes").replaceChildren(...boxes);
    part(this.element, "faces").replaceChildren(...cards);
    this.element.classList.toggle("several", several);
    this.element.classList.toggle("tall", several && height > width);
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

  #hideImage() {
    part(this.element, "image").hidden = true;
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
  part(box, "number").textContent = number ?? "";
  part(box, "number").hidden = number === null;
  part(box, "age").textContent = years(age);
  part(box, "interval").textContent = `${years(low)}–${years(high)}`;
  return box;
}
