// The distribution over ages as a curve, with threshold, interval and estimate marked.
//
// People round ages when they guess them, so the distribution has a peak at many a round number. The area shows it as
// it is; the line over it is its mean over five years, which is easier to read.

const WIDTH = 360;
const HEIGHT = 132;
const LEFT = 8;
const RIGHT = 352;
const TOP = 18;
const BASE = 100; // where the curve stands
const TICKS = 20; // years
const SMOOTHING = 2; // years to both sides

const svg = (name, attributes = {}, text = null) => {
  const element = document.createElementNS("http://www.w3.org/2000/svg", name);
  for (const [key, value] of Object.entries(attributes)) element.setAttribute(key, value);
  if (text !== null) element.textContent = text;
  return element;
};

/** The mean over a window about each age, cut off at the ends. */
function smoothed(distribution) {
  return distribution.map((_, index) => {
    const around = distribution.slice(Math.max(0, index - SMOOTHING), index + SMOOTHING + 1);
    return around.reduce((sum, mass) => sum + mass, 0) / around.length;
  });
}

/** Draw one face's distribution. `label` says in words what the drawing shows. */
export function drawDistribution({ distribution, bins, age, low, high, threshold, label }) {
  const { minimum, maximum } = bins;
  const x = (years) => LEFT + ((years - minimum) / (maximum - minimum)) * (RIGHT - LEFT);
  const peak = Math.max(...distribution);
  const y = (mass) => BASE - (mass / peak) * (BASE - TOP);
  const point = (mass, index) => `${x(minimum + index).toFixed(1)},${y(mass).toFixed(1)}`;
  const curve = distribution.map(point);

  const chart = svg("svg", { viewBox: `0 0 ${WIDTH} ${HEIGHT}`, role: "img", class: "curve", "aria-label": label });
  const inside = threshold > minimum && threshold <= maximum;
  // A whole age stands for the year that begins half a year before it on this axis.
  const border = inside ? Math.ceil(threshold) - minimum : threshold <= minimum ? 0 : distribution.length;
  chart.append(area(curve.slice(0, border + 1), "below"), area(curve.slice(border), "above"));
  chart.append(svg("polyline", { points: smoothed(distribution).map(point).join(" "), class: "outline" }));
  chart.append(svg("line", { x1: LEFT, x2: RIGHT, y1: BASE, y2: BASE, class: "axis" }));
  for (let years = Math.ceil(minimum / TICKS) * TICKS; years <= maximum; years += TICKS) {
    chart.append(svg("line", { x1: x(years), x2: x(years), y1: BASE, y2: BASE + 4, class: "axis" }));
    const anchor = years === minimum ? "start" : years === maximum ? "end" : "middle";
    const at = years === minimum ? x(years) - 4 : years === maximum ? x(years) + 4 : x(years);
    chart.append(svg("text", { x: at, y: BASE + 30, "text-anchor": anchor }, years));
  }
  chart.append(svg("line", { x1: x(low), x2: x(high), y1: BASE + 9, y2: BASE + 9, class: "interval" }));
  if (inside) {
    const at = x(Math.ceil(threshold));
    chart.append(svg("line", { x1: at, x2: at, y1: TOP - 6, y2: BASE, class: "threshold" }));
    const [anchor, shift] = at > WIDTH - 40 ? ["end", -4] : ["start", 4];
    const place = { x: at + shift, y: TOP - 6, "text-anchor": anchor, class: "threshold" };
    chart.append(svg("text", place, `≥ ${threshold}`));
  }
  chart.append(svg("circle", { cx: x(age), cy: BASE + 9, r: 4.5, class: "estimate" }));
  return chart;

  function area(points, side) {
    if (points.length < 2) return svg("g");
    const [first, last] = [points[0].split(",")[0], points.at(-1).split(",")[0]];
    return svg("polygon", { points: `${first},${BASE} ${points.join(" ")} ${last},${BASE}`, class: side });
  }
}
