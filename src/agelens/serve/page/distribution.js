// Ages and distributions over age bins: agelens/label_distribution.py and calibration.py in the page.
//
// A distribution holds a probability for each of the ages minimum, minimum + 1, …; the mass of an age is spread
// evenly half a year to both sides.

/** The ages of "0-100". */
export function parseBins(text) {
  const [minimum, maximum] = text.split("-").map(Number);
  return { minimum, maximum };
}

/** The age below which a share of the mass lies. */
export function quantile(distribution, { minimum, maximum }, share) {
  if (share <= 0) return minimum;
  if (share >= 1) return maximum;
  const total = distribution.reduce((sum, mass) => sum + mass, 0);
  let below = 0;
  let position = 0;
  while (position < distribution.length - 1 && below + distribution[position] < share * total) {
    below += distribution[position++];
  }
  const inside = distribution[position];
  const fraction = inside > 0 ? (share * total - below) / inside : 1;
  return Math.min(Math.max(minimum + position - 0.5 + fraction, minimum), maximum);
}

/** The central level to ask of the distribution so that the interval covers as often as `level` says. */
export function nominalLevel(calibration, level) {
  if (calibration === null) return level;
  const { level_grid: grid, nominal_levels: nominal } = calibration;
  const wished = Math.min(Math.max(level, grid[0]), grid.at(-1));
  const above = Math.max(1, grid.findIndex((point) => point >= wished));
  const share = (wished - grid[above - 1]) / (grid[above] - grid[above - 1]);
  return nominal[above - 1] + share * (nominal[above] - nominal[above - 1]);
}

/** The ages [low, high] between which the true age lies with probability `level`. */
export function interval(distribution, bins, calibration, level) {
  const nominal = nominalLevel(calibration, level);
  return [(1 - nominal) / 2, (1 + nominal) / 2].map((share) => quantile(distribution, bins, share));
}

/** The probability that the age in completed years is `threshold` or more. */
export function probabilityAtLeast(distribution, { minimum }, threshold) {
  let [above, total] = [0, 0];
  distribution.forEach((mass, index) => {
    total += mass;
    if (minimum + index >= threshold) above += mass;
  });
  return Math.min(Math.max(above / total, 0), 1);
}
