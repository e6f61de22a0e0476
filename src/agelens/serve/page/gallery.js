// The photos and clips on the page: they are estimated one after the other, sorted, and made small where there are many.

import { ClipCard, isClip } from "./clip.js";
import { csv, json, rounded, save } from "./download.js";
import { PhotoCard } from "./photo.js";
import { explain } from "./problem.js";

const MANY = 8; // photos; more are shown as small cards that open on demand

const COLUMNS = [
  ...["path", "face", "age", "low", "high", "p_at_least", "x1", "y1", "x2", "y2", "confidence"],
  ...["warnings", "model", "error"],
];

const ORDERS = {
  newest: (one, other) => other.number - one.number,
  name: (one, other) => one.name.localeCompare(other.name, undefined, { numeric: true }),
  youngest: (one, other) => (one.youngest ?? Infinity) - (other.youngest ?? Infinity),
  oldest: (one, other) => (other.oldest ?? -Infinity) - (one.oldest ?? -Infinity),
  failed: (one, other) => Number(other.failed) - Number(one.failed) || other.number - one.number,
};

export class Gallery {
  #cards = new Set();
  #queue = [];
  #given = 0;
  #working = null; // the card that is estimated now
  #again = false; // whether that one is to be estimated once more
  #done = 0; // since the queue was last empty

  /**
   * `estimate(card)` gives {answer, model, onDevice}; `settings` has threshold, level and onDevice; `announce` says
   * things aloud; `onRefusal` hears that the server did not take the token.
   */
  constructor(root, { estimate, settings, announce, onRefusal }) {
    this.root = root;
    this.estimate = estimate;
    this.settings = settings;
    this.announce = announce;
    this.onRefusal = onRefusal;
    this.started = false; // nothing is estimated before the server has said what it offers
    const find = (name) => root.querySelector(`[data-part="${name}"]`);
    this.parts = {
      photos: find("photos"),
      progress: find("progress"),
      bar: find("progress-bar"),
      text: find("progress-text"),
      cancel: find("cancel"),
      order: find("order"),
      save: find("save"),
      key: find("key"),
    };
    find("save-csv").addEventListener("click", () => save("ages.csv", csv(COLUMNS, this.#rows()), "text/csv"));
    find("save-json").addEventListener("click", () => save("ages.json", json(this.#results()), "application/json"));
    this.parts.order.addEventListener("change", () => this.#sort());
    this.parts.cancel.addEventListener("click", () => this.cancel());
  }

  /** Take photos in. One that comes while the switch is on is never sent, even if it is turned off before its turn. */
  add(files) {
    for (const file of files) {
      const card = new (isClip(file) ? ClipCard : PhotoCard)(file, ++this.#given, {
        onRemove: () => this.remove(card),
        onRetry: () => this.#enqueue([card]),
      });
      card.keep = this.settings.onDevice;
      this.#cards.add(card);
      this.#enqueue([card]);
    }
    this.#sort();
    this.#show();
  }

  /** Estimate what waits, from now on. */
  start() {
    this.started = true;
    this.#work();
  }

  /** Estimate every photo once more: with the model that is chosen now. */
  again() {
    this.#again = this.#working !== null;
    const others = [...this.#cards].filter((card) => card !== this.#working && !this.#queue.includes(card));
    this.#enqueue(others);
  }

  /** Draw everything anew that depends on threshold and level. */
  render() {
    this.#cards.forEach((card) => card.render(this.settings));
  }

  remove(card) {
    const next = card.element.nextElementSibling ?? card.element.previousElementSibling;
    this.#drop(card);
    this.announce(`${card.name} was removed.`);
    this.#show();
    (next?.querySelector("[data-part=remove]") ?? document.getElementById("files")).focus();
  }

  clear() {
    [...this.#cards].forEach((card) => this.#drop(card));
    this.#show();
    this.announce("All photos were removed.");
  }

  /** Stop after the photo that is worked on; a clip ends there. */
  cancel() {
    const waiting = this.#queue.splice(0);
    this.#working?.stop?.();
    for (const card of waiting) card.fail({ title: "Not estimated", detail: "It was cancelled." });
    this.announce(`Cancelled: ${waiting.length} photos were not estimated.`);
    this.#show();
  }

  /** The answers of all photos that have one, by name; a clip's are saved from its own card. */
  #results() {
    const photos = [...this.#cards].filter((card) => card instanceof PhotoCard).sort(ORDERS.name);
    return photos.map((card) => card.result(this.settings)).filter((result) => result !== null);
  }

  /** A row a face, or one that says why there is none. */
  #rows() {
    return this.#results().flatMap(({ path, model, error, faces }) => {
      if (faces.length === 0) return [{ path, model, error }];
      return faces.map(({ box, warnings, ...face }, index) => {
        const [x1, y1, x2, y2] = box ?? [];
        return rounded({ ...face, path, model, face: index + 1, x1, y1, x2, y2, warnings: warnings.join(" ") });
      });
    });
  }

  #enqueue(cards) {
    for (const card of cards) card.wait();
    this.#queue.push(...cards);
    this.#show();
    if (this.started) this.#work();
  }

  #drop(card) {
    card.close();
    this.#cards.delete(card);
    this.#queue = this.#queue.filter((other) => other !== card);
  }

  async #work() {
    if (this.#working !== null) return;
    while (this.#queue.length > 0) {
      const card = this.#queue.shift();
      this.#working = card;
      this.#show();
      try {
        const { answer, model, onDevice } = await this.estimate(card);
        if (this.#cards.has(card)) this.announce(card.show(answer, model, this.settings, onDevice));
      } catch (problem) {
        const told = explain(problem);
        if (told.status === 401) this.onRefusal();
        card.fail(told);
        this.announce(`${card.name}: ${told.title}. ${told.detail}`);
      }
      this.#done++;
      this.#working = null;
      if (this.#again && this.#cards.has(card)) this.#enqueue([card]);
      this.#again = false;
    }
    this.#done = 0;
    this.#sort();
    this.#show();
  }

  #show() {
    const count = this.#cards.size;
    this.root.hidden = count === 0;
    this.root.classList.toggle("compact", count > MANY);
    this.parts.order.closest("label").hidden = count < 2;
    const photos = [...this.#cards].filter((card) => card instanceof PhotoCard);
    this.parts.key.hidden = photos.length === 0;
    this.parts.save.hidden = !photos.some((card) => card.youngest !== null);
    const left = this.#queue.length + (this.#working === null ? 0 : 1);
    const total = this.#done + left;
    this.parts.progress.hidden = left === 0 || total < 2;
    this.parts.text.textContent = `${this.#done} of ${total} photos`;
    Object.assign(this.parts.bar, { max: total, value: this.#done });
  }

  #sort() {
    const sorted = [...this.#cards].sort(ORDERS[this.parts.order.value]);
    const { photos } = this.parts;
    if (sorted.some((card, index) => photos.children[index] !== card.element)) {
      photos.replaceChildren(...sorted.map(({ element }) => element));
    }
  }
}
