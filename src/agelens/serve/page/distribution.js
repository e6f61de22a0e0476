// Ages and distributions over age bins: agelens/label_distribution.py, calibration.py and shift.py in the page.
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

const FARTHEST = 3; // lengths of the usual range from which on a crop counts as no stranger
const LEAST = 1e-12; // probability that an age has at least, before its logarithm is taken

/** A network's distribution, corrected by the look of its crop if the model's calibration says how. */
export function corrected(distribution, { minimum }, calibration, appearance) {
  const shift = calibration?.shift;
  if (!shift) return distribution;
  let widening = shift.base;
  for (const [name, { low, high, below, above }] of Object.entries(shift.measures)) {
    const outside = (distance) => Math.min(Math.max(distance / (high - low), 0), FARTHEST);
    widening += below * outside(low - appearance[name]) + above * outside(appearance[name] - high);
  }
  const temperature = Math.exp(widening);
  const scores = distribution.map(
    (mass, index) => Math.log(Math.max(mass, LEAST)) / temperature + between(shift, minimum + index),
  );
  const highest = Math.max(...scores);
  const masses = scores.map((score) => Math.exp(score - highest));
  const total = masses.reduce((sum, mass) => sum + mass, 0);
  return masses.map((mass) => mass / total);
}

/** The logarithm of the factor of an age: linear between the ages that are known. */
function between({ ages, log_factors: factors }, age) {
  const after = ages.findIndex((known) => known >= age);
  if (after === 0) return factors[0];
  if (after < 0) return factors.at(-1);
  const share = (age - ages[after - 1]) / (ages[after] - ages[after - 1]);
  return factors[after - 1] + share * (factors[after] - factors[after - 1]);
}
