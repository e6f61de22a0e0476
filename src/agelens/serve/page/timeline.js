// When each person is seen in a clip: a lane for each, with the frames in which they are.

const GAP = 0.5; // seconds between two frames that are drawn as one stretch
const WIDTH = 1000;
const LANE = 16;

const svg = (name, attributes = {}) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  return element;
};

/** The times of the frames with each person as stretches: [[first, last], …] by person. */
export function stretches(frames) {
  const found = new Map();
  for (const { time, people } of frames) {
    for (const { person } of people) {
      if (!found.has(person)) found.set(person, []);
      const last = found.get(person).at(-1);
      if (last && time - last[1] <= GAP) last[1] = time;
      else found.get(person).push([time, time]);
    }
  }
  return found;
}

/** Draw the people {person, first, last} over `duration` seconds. `label` says in words what the drawing shows. */
export function drawTimeline({ people, frames, duration, label }) {
  const height = Math.max(people.length, 1) * LANE;
  const chart = svg("svg", { viewBox: `0 0 ${WIDTH} ${height}`, preserveAspectRatio: "none", role: "img", class: "lanes" });
  chart.setAttribute("aria-label", label);
  chart.style.height = `${people.length * 1.1}rem`;
  const x = (time) => (WIDTH * time) / duration;
  const seen = stretches(frames);
  people.forEach(({ person, first, last }, lane) => {
    const middle = lane * LANE + LANE / 2;
    chart.append(svg("line", { x1: 0, x2: WIDTH, y1: middle, y2: middle, class: "lane" }));
    for (const [start, end] of seen.get(person) ?? [[first, last]]) {
      const width = Math.max(x(end) - x(start), 3);
      chart.append(svg("rect", { x: x(start), y: middle - 5, width, height: 10, class: "stretch" }));
    }
  });
  const place = svg("line", { x1: 0, x2: 0, y1: 0, y2: height, class: "place" });
  chart.append(place);
  return { chart, moveTo: (time) => ["x1", "x2"].forEach((name) => place.setAttribute(name, x(time))) };
}
