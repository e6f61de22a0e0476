// Ages of the people before the camera, while it runs: estimated in this page, whatever the switch for photos says.

import { Marks, bounds, grab, nextFrame, told } from "./moving.js";
import { explain } from "./problem.js";

const SIDE = 640; // pixels along the longer side of a frame as it is searched
const REST = 0.25; // seconds for which a person whose age has settled is only followed: then many people are no slower
const MEMORY = 0.9; // share of the kept time from frame to frame when a new one is added

export class Live {
  #stream = null; // the name of what is followed now
  #given = 0;
  #settled = new Set(); // people whose age was said aloud

  /**
   * `follower` gives {missing, ready(), follow(request), finish(stream)}; `settings` has level; `announce` says things
   * aloud.
   */
  constructor(dialog, { follower, settings, announce }) {
    const find = (name) => dialog.querySelector(`[data-part="${name}"]`);
    this.video = find("video");
    this.wish = find("live");
    this.state = find("live-state");
    this.list = find("people");
    this.marks = new Marks(find("marks"));
    Object.assign(this, { follower, settings, announce });
    this.wish.addEventListener("change", () => (this.wish.checked ? this.start() : this.stop()));
  }

  /** Follow the people in the video, if that is wished for and it runs. */
  async start() {
    if (!this.wish.checked || this.video.srcObject === null) return;
    const { missing } = this.follower;
    if (missing !== null) {
      this.wish.checked = false;
      this.#say(`No live ages: ${missing}.`);
      return;
    }
    this.stop();
    const stream = `live ${++this.#given}`;
    this.#stream = stream;
    this.state.dataset.frames = 0;
    this.#say("Loading the estimator into this page …");
    try {
      const model = await this.follower.ready();
      if (this.#stream === stream) await this.#run(stream, model);
    } catch (problem) {
      if (this.#stream !== stream) return;
      this.stop();
      this.wish.checked = false;
      const { title, detail } = explain(problem);
      this.#say(`${title}. ${detail}`);
    }
  }

  /** Stop; nothing stays marked. */
  stop() {
    if (this.#stream !== null) this.follower.finish(this.#stream).catch(() => {}); // a worker that broke down holds nothing
    this.#stream = null;
    this.#settled.clear();
    this.marks.clear();
    this.list.replaceChildren();
    this.#say("");
  }

  /** Frame after frame: the next one is taken while the last is estimated. */
  async #run(stream, model) {
    let asked = null;
    let last = null; // when the last answer came, milliseconds
    let between = null; // mean time between two answers
    while (this.#stream === stream) {
      await nextFrame(this.video);
      if (this.#stream !== stream) return;
      const time = performance.now() / 1000;
      const bitmap = await grab(this.video, SIDE);
      const answer = await asked;
      if (this.#stream !== stream) return bitmap.close();
      asked = this.follower.follow({ stream, model, bitmap, time, rest: REST });
      asked.catch(() => {}); // told when it is waited for
      if (answer === null) continue;
      this.#show(answer, model);
      this.state.dataset.frames = Number(this.state.dataset.frames) + 1;
      const now = performance.now();
      if (last !== null) between = between === null ? now - last : MEMORY * between + (1 - MEMORY) * (now - last);
      last = now;
      if (between !== null) this.#rate(1000 / between);
    }
  }

  #show({ people, width, height }, model) {
    const { level } = this.settings;
    const shown = people.map(({ person, box, shown: { age, distribution }, settled }) => {
      return { person, box, age, settled, ...bounds(distribution, model, level) };
    });
    this.marks.show(shown, { width, height }, this.video.classList.contains("mirrored"));
    const texts = shown.map(told);
    if (texts.join() !== [...this.list.children].map((item) => item.textContent).join()) {
      this.list.replaceChildren(...texts.map(listItem));
    }
    for (const person of shown) {
      if (!person.settled || this.#settled.has(person.person)) continue;
      this.#settled.add(person.person);
      this.announce(told(person));
    }
  }

  #rate(frames) {
    const count = Math.round(frames);
    this.#say(`${count} ${count === 1 ? "frame" : "frames"} a second, estimated in this page; nothing is sent or kept.`);
  }

  #say(text) {
    if (this.state.textContent !== text) this.state.textContent = text;
  }
}

function listItem(text) {
  const item = document.createElement("li");
  item.textContent = text;
  return item;
}
