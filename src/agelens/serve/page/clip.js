// One clip on the page: played in a <video>, its frames estimated here, a row for each person, a timeline.

import { probabilityAtLeast } from "./distribution.js";
import { annotated, csv, json, rounded, save, stem } from "./download.js";
import constants from "./estimation/constants.js";
import { Marks, bounds, grab, nextFrame } from "./moving.js";
import { shownName } from "./names.js";
import { formatProbability } from "./photo.js";
import { Problem } from "./problem.js";
import { drawTimeline } from "./timeline.js";

const SIDE = 960; // pixels along the longer side of a frame as it is searched
const FRAMES = 12; // estimated in a second of the clip: it is played as fast or slowly as that takes
const RATES = [0.1, 4]; // slowest and fastest playing
const NEAR = 0.3; // seconds from a frame whose boxes may be shown
const CLIP = /\.(m4v|mkv|mov|mp4|mpe?g|ogv|webm|avi|3gp)$/i;

const PERSON_COLUMNS = [
  ...["path", "person", "first", "last", "frames", "age", "low", "high", "p_at_least"],
  ...["deviation", "shown_deviation"],
];
const FRAME_COLUMNS = ["path", "time", "person", "age", "shown", "x1", "y1", "x2", "y2"];

const part = (element, name) => element.querySelector(`[data-part="${name}"]`);
const clone = (id) => document.getElementById(id).content.firstElementChild.cloneNode(true);
const years = (age) => Math.round(age);

/** Whether a file is a clip, by its type or its name. */
export const isClip = (file) => file.type.startsWith("video/") || (file.type === "" && CLIP.test(file.name));
export const isClipName = (name) => CLIP.test(name);

/** Seconds as minutes and seconds, to a tenth. */
export function clock(seconds) {
  const tenths = Math.round(10 * seconds);
  const rest = ((tenths % 600) / 10).toFixed(1).padStart(4, "0");
  return `${Math.floor(tenths / 600)}:${rest}`;
}

export class ClipCard {
  #url;
  #tries = 0;
  #stopped = false;
  #answer = null; // {people, frames, duration, width, height, note}
  #model = null;
  #settings = null;
  #timeline = null;
  #told = []; // the people with their intervals, by the columns of a table
  #live = null; // {model, settings} while frames are estimated

  /** `number`: the clip's place in the order in which photos and clips came. */
  constructor(file, number, { onRemove, onRetry }) {
    this.element = clone("clip");
    this.name = shownName(file);
    Object.assign(this, { number, file, failed: false });
    this.video = part(this.element, "video");
    this.marks = new Marks(part(this.element, "marks"));
    this.#url = URL.createObjectURL(file);
    part(this.element, "name").textContent = this.name;
    this.video.setAttribute("aria-label", this.name);
    for (const [name, verb, action] of [
      ["remove", "Remove", onRemove],
      ["retry", "Try again:", onRetry],
      ["stop", "Stop:", () => this.stop()],
      ["save-csv", "People as CSV:", () => this.#saveTable("people", PERSON_COLUMNS, this.#told)],
      ["save-frames", "Frames as CSV:", () => this.#saveTable("frames", FRAME_COLUMNS, this.#frameRows())],
      ["save-json", "JSON:", () => this.#saveJson()],
      ["save-picture", "This picture:", () => this.#savePicture()],
    ]) {
      const button = part(this.element, name);
      button.setAttribute("aria-label", `${verb} ${this.name}`);
      button.addEventListener("click", action);
    }
    this.video.addEventListener("seeked", () => this.#markAt(this.video.currentTime));
    document.addEventListener("visibilitychange", this.#pauseWhileHidden);
    this.wait();
  }

  get youngest() {
    return this.#answer?.people.length ? Math.min(...this.#answer.people.map(({ age }) => age)) : null;
  }

  get oldest() {
    return this.#answer?.people.length ? Math.max(...this.#answer.people.map(({ age }) => age)) : null;
  }

  wait() {
    this.#answer = null;
    this.failed = false;
    this.element.classList.remove("done", "failed");
    this.marks.clear();
    this.video.controls = false;
    for (const name of ["error", "retry", "stop", "results", "save"]) part(this.element, name).hidden = true;
    part(this.element, "notes").replaceChildren();
    this.say("Waiting …");
  }

  say(text) {
    part(this.element, "state").textContent = text;
  }

  /**
   * Play the clip and estimate its frames; `follower` gives {missing, ready(), follow(request), finish(stream)}. What
   * was seen counts even if it is stopped or breaks off. Gives {answer, model, onDevice}.
   */
  async estimate(follower, settings) {
    this.#stopped = false;
    if (follower.missing !== null) {
      const detail = `Clips are never sent, and estimating in the browser is not possible: ${follower.missing}.`;
      throw new Problem("This clip was not estimated", detail);
    }
    const stream = `clip ${this.number} ${++this.#tries}`;
    const frames = [];
    let people = [];
    let model = null;
    part(this.element, "stop").hidden = false;
    try {
      const [first] = await this.#open();
      this.say("Waiting for the estimator in this page …");
      model = await follower.ready();
      this.#live = { model, settings };
      await this.#watch(first, async (bitmap, time) => {
        const seen = await follower.follow({ stream, model, bitmap, time });
        this.#keep(frames, seen, time);
        return seen.milliseconds / 1000;
      });
    } finally {
      part(this.element, "stop").hidden = true;
      this.#live = null;
      this.video.pause();
      if (model !== null) people = await follower.finish(stream).catch(() => []); // lost, if the worker broke down
    }
    const { video } = this;
    const last = frames.at(-1)?.time ?? 0;
    const duration = Math.max(Number.isFinite(video.duration) ? video.duration : last, last, 0.1);
    const { videoWidth: width, videoHeight: height } = video;
    const answer = { people, frames, duration, width, height, note: this.#note(last) };
    return { answer, model, onDevice: true };
  }

  #note(last) {
    if (this.#stopped) return `Stopped at ${clock(last)}; the people are those up to there.`;
    return this.video.error === null ? "" : `The clip breaks off at ${clock(last)}; the people are those up to there.`;
  }

  /** End estimating; what was seen counts. */
  stop() {
    this.#stopped = true;
    this.video.dispatchEvent(new Event("stopped"));
  }

  /** Load the clip from its beginning; gives a promise of the time of its first picture, null if it is stopped. */
  async #open() {
    const { video } = this;
    video.removeAttribute("src");
    video.load();
    if (this.#stopped) return [null];
    if (this.file.size === 0) throw new Problem("This clip cannot be played", "The file is empty.");
    const loaded = new Promise((resolve, reject) => {
      for (const name of ["loadeddata", "stopped"]) video.addEventListener(name, resolve, { once: true });
      video.addEventListener("error", reject, { once: true });
    });
    const first = this.#frame(); // asked for before it can be shown
    video.src = this.#url;
    video.load();
    await loaded.catch(() => {
      const detail = "The browser does not know its format or its codec, or the file is damaged.";
      throw new Problem("This clip cannot be played", detail);
    });
    if (video.videoWidth === 0 && !this.#stopped) {
      throw new Problem("This clip has no pictures", "It may be a sound alone.");
    }
    return [first]; // in a list: it need not be there yet
  }

  /**
   * Play it from its `first` frame on; `estimate(bitmap, time)` gives the seconds that it took. The next frame is taken
   * meanwhile; if the answer is late, the clip waits for it, so that a slow machine sees no fewer frames.
   */
  async #watch(first, estimate) {
    const { video } = this;
    let last = await first;
    if (last === null || this.#stopped) return;
    let taken = await estimate(await grab(video, SIDE), last); // seconds for a frame, as a running mean
    let asked = null;
    await this.#play(taken);
    for (let time = await this.#frame(); time !== null; time = await this.#frame()) {
      if (time - last < constants.tracking.look_every) continue;
      last = time;
      const bitmap = await grab(video, SIDE);
      if (asked !== null) {
        const late = setTimeout(() => video.pause(), 1000 / (FRAMES * video.playbackRate));
        taken = 0.7 * taken + 0.3 * (await asked.finally(() => clearTimeout(late)));
      }
      if (this.#stopped) return bitmap.close();
      asked = estimate(bitmap, time);
      asked.catch(() => {}); // told when it is waited for
      await this.#play(taken);
    }
    await asked;
  }

  /** Play on, at the rate that `taken` seconds for a frame allow; a clip that has ended, or is hidden, does not. */
  async #play(taken = null) {
    const { video } = this;
    if (taken !== null) video.playbackRate = Math.min(Math.max(1 / (FRAMES * taken), RATES[0]), RATES[1]);
    if (!video.paused || video.ended || this.#stopped || document.hidden) return;
    try {
      await video.play();
    } catch (error) {
      if (error.name === "AbortError" || video.error !== null) return; // it was paused again, or breaks off
      throw new Problem("This clip cannot be played", error.message);
    }
  }

  /** The time of the next frame; null if there is none. */
  #frame() {
    const { video } = this;
    if (video.ended || video.error !== null || this.#stopped) return null;
    return new Promise((resolve) => {
      const listening = new AbortController();
      const end = (time) => {
        listening.abort();
        resolve(time);
      };
      for (const name of ["ended", "error", "stopped"]) {
        video.addEventListener(name, () => end(null), { signal: listening.signal });
      }
      nextFrame(video).then(end);
    });
  }

  #pauseWhileHidden = () => {
    if (this.#live === null) return;
    if (document.hidden) this.video.pause();
    else this.#play().catch(() => this.stop());
  };

  /** Keep what was seen in a frame, and show it while the clip is played. */
  #keep(frames, { width, height, people }, time) {
    const scale = this.video.videoWidth / width;
    frames.push({
      time,
      people: people.map(({ person, box, age, shown }) => {
        return { person, box: box.map((side) => side * scale), age, shown: shown.age };
      }),
    });
    const { duration } = this.video;
    const share = Number.isFinite(duration) && duration > 0 ? `, ${Math.floor((100 * time) / duration)} %` : "";
    this.say(`Estimating in this page${share} …`);
    const { model, settings } = this.#live;
    const marked = people.map(({ person, box, shown, settled }) => {
      return { person, box, settled, age: shown.age, ...bounds(shown.distribution, model, settings.level) };
    });
    this.marks.show(marked, { width, height });
  }

  /** Show the people. Returns what the card says, in a sentence. */
  show(answer, model, settings) {
    this.#answer = answer;
    this.#model = model;
    this.element.classList.add("done");
    this.video.controls = true;
    this.video.playbackRate = 1;
    part(this.element, "results").hidden = answer.people.length === 0;
    part(this.element, "save").hidden = false;
    part(this.element, "retry").hidden = answer.note === "";
    this.say(`${answer.frames.length} frames estimated in this page with ${model.name}; the clip was not sent`);
    const notes = [answer.people.length === 0 ? "No face was found." : "", answer.note].filter((text) => text !== "");
    part(this.element, "notes").replaceChildren(...notes.map((text) => element("li", text)));
    this.render(settings);
    this.#markWhilePlayed(answer);
    const count = answer.people.length;
    if (count === 0) return `${this.name}: no face was found.`;
    const told = answer.people.slice(0, 5).map(({ age }) => `about ${years(age)} years`);
    return `${this.name}: ${count === 1 ? "one person" : `${count} people`}, ${told.join(", ")}.`;
  }

  fail({ title, detail }) {
    this.failed = true;
    this.element.classList.add("done", "failed");
    this.say("");
    const error = part(this.element, "error");
    part(error, "title").textContent = title;
    part(error, "detail").textContent = detail;
    part(this.element, "retry").hidden = false;
    error.hidden = false;
  }

  /** Draw everything anew that depends on threshold and level. */
  render(settings) {
    this.#settings = settings;
    if (this.#answer === null) return;
    const { threshold, level } = settings;
    this.#told = this.#answer.people.map(({ distribution, ...person }) => {
      const probability = probabilityAtLeast(distribution, this.#model.bins, threshold);
      return { ...person, ...bounds(distribution, this.#model, level), p_at_least: probability };
    });
    part(this.element, "level").textContent = `${Math.round(100 * level)} % interval`;
    part(this.element, "question").textContent = `P(age ≥ ${threshold})`;
    part(this.element, "rows").replaceChildren(...this.#told.map((person) => this.#row(person)));
    const { people, frames, duration } = this.#answer;
    const words = people.map(({ person, first, last }) => `person ${person} from ${clock(first)} to ${clock(last)}`);
    const label = `When each person is seen: ${words.join("; ")}`;
    this.#timeline = drawTimeline({ people, frames, duration, label });
    this.#timeline.chart.addEventListener("click", ({ offsetX }) => {
      this.video.currentTime = (duration * offsetX) / this.#timeline.chart.getBoundingClientRect().width;
    });
    part(this.element, "timeline").replaceChildren(this.#timeline.chart);
    this.#markAt(this.video.currentTime);
  }

  #frameRows() {
    return this.#answer.frames.flatMap(({ time, people }) =>
      people.map(({ person, age, shown, box: [x1, y1, x2, y2] }) => ({ time, person, age, shown, x1, y1, x2, y2 })),
    );
  }

  #row({ person, first, last, frames, age, low, high, p_at_least: probability, deviation }) {
    const row = clone("person");
    Object.assign(row.dataset, { person, age, low, high, frames });
    const button = part(row, "person");
    button.textContent = `Person ${person}`;
    const shown = this.#answer.frames.find(({ people }) => people.some((seen) => seen.person === person));
    button.addEventListener("click", () => (this.video.currentTime = shown?.time ?? first));
    part(row, "age").textContent = years(age);
    part(row, "interval").textContent = `${years(low)} to ${years(high)}`;
    part(row, "probability").textContent = formatProbability(probability);
    part(row, "time").textContent = `${clock(first)} to ${clock(last)}`;
    part(row, "frames").textContent = frames;
    part(row, "deviation").textContent = deviation.toFixed(1);
    return row;
  }

  /** Mark the people of every frame that is shown, as long as `answer` holds. */
  async #markWhilePlayed(answer) {
    while (this.#answer === answer) {
      const time = await nextFrame(this.video);
      if (this.#answer === answer) this.#markAt(time);
    }
  }

  /** Mark the people of the frame nearest to a time, with their one age each. */
  #markAt(time) {
    if (this.#answer === null) return;
    this.#timeline.moveTo(time);
    const { width, height } = this.#answer;
    this.marks.show(this.#peopleAt(time), { width, height });
  }

  #peopleAt(time) {
    const nearest = nearestFrame(this.#answer.frames, time);
    if (nearest === null || Math.abs(nearest.time - time) > NEAR) return [];
    const known = new Map(this.#told.map((person) => [person.person, person]));
    return nearest.people
      .filter(({ person }) => known.has(person))
      .map(({ person, box }) => ({ ...known.get(person), box, settled: true }));
  }

  #saveTable(what, columns, rows) {
    const path = this.name;
    save(`${stem(path)}-${what}.csv`, csv(columns, rows.map((row) => rounded({ path, ...row }))), "text/csv");
  }

  #saveJson() {
    const { frames, duration, note, width, height } = this.#answer;
    const { threshold, level } = this.#settings;
    const { name: model, version } = this.#model;
    const head = { path: this.name, model, version, level, threshold, duration, width, height, note };
    const distributions = this.#answer.people.map(({ distribution }) => distribution);
    const people = this.#told.map((person, index) => ({ ...person, distribution: distributions[index] }));
    save(`${stem(this.name)}.json`, json({ ...head, people, frames }), "application/json");
  }

  async #savePicture() {
    const { width, height } = this.#answer;
    const faces = this.#peopleAt(this.video.currentTime).map(({ person, box, age, low, high }) => {
      return { box, label: `${person}: ${years(age)} (${years(low)} to ${years(high)})` };
    });
    const place = clock(this.video.currentTime).replace(":", ".");
    save(`${stem(this.name)}-${place}.png`, await annotated(this.video, { width, height }, faces));
  }

  /** Let go of the clip. */
  close() {
    this.stop();
    this.#answer = null;
    document.removeEventListener("visibilitychange", this.#pauseWhileHidden);
    this.video.removeAttribute("src");
    this.video.load();
    this.element.remove();
    URL.revokeObjectURL(this.#url);
  }
}

function element(name, text) {
  return Object.assign(document.createElement(name), { textContent: text });
}

/** The frame nearest to a time; null if there is none. */
export function nearestFrame(frames, time) {
  let [low, high] = [0, frames.length];
  while (low < high) {
    const middle = (low + high) >> 1;
    if (frames[middle].time < time) low = middle + 1;
    else high = middle;
  }
  const around = [frames[low - 1], frames[low]].filter((frame) => frame !== undefined);
  if (around.length === 0) return null;
  return around.reduce((one, other) => (Math.abs(other.time - time) < Math.abs(one.time - time) ? other : one));
}
