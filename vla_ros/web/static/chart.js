// SPDX-License-Identifier: Apache-2.0
// A small line chart of the last five minutes, with its content in words.

import { h } from './dom.js';

const [WIDTH, HEIGHT] = [300, 72];
const SPAN_MS = 300_000;
const GAP_MS = 2500; // more between two samples: the line is broken

/**
 * Return a chart.
 *
 * @param {string} title
 * @param {Array<{name: string, kind: string, points: Array<[number, number|null]>}>} lines with
 *   times of the page's clock
 * @param {number} now
 * @param {(value: number) => string} format of a value
 */
export function chart(title, lines, now, format) {
  const values = lines.flatMap(({ points }) => points.map(([, value]) => value ?? 0));
  const top = ceiling(Math.max(0, ...values));
  const x = (at) => WIDTH * (1 - (now - at) / SPAN_MS);
  const y = (value) => HEIGHT - (value / top) * (HEIGHT - 4);
  const told = lines.map((line) => inWords(line, format)).join('; ');
  const svg = h(
    'svg.chart',
    {
      viewBox: `0 0 ${WIDTH} ${HEIGHT}`,
      preserveAspectRatio: 'none',
      role: 'img',
      'aria-label': `${title}, last 5 minutes. ${told}`,
    },
    ...[0, 1, 2, 3, 4].map((minute) =>
      h('line', { x1: (WIDTH * minute) / 5, x2: (WIDTH * minute) / 5, y2: HEIGHT, class: 'grid' }),
    ),
    h('line', { x2: WIDTH, y1: y(top / 2), y2: y(top / 2), class: 'grid' }),
    ...lines.map(({ kind, points }) =>
      h('path', { d: pathOf(points, x, y), class: `line ${kind}` }),
    ),
  );
  const legend = lines.map((line) =>
    h('span', { class: `key ${line.kind}` }, `${line.name} `, h('b', {}, lastOf(line, format))),
  );
  return h(
    'figure.chart',
    {},
    h('figcaption', {}, h('span', {}, title), ...legend),
    h('div.plot', {}, svg, h('span.top', { 'aria-hidden': 'true' }, format(top))),
  );
}

function pathOf(points, x, y) {
  let path = '';
  let before = null;
  for (const [at, value] of points) {
    if (value === null) {
      before = null;
      continue;
    }
    const isBroken = before === null || at - before > GAP_MS;
    path += `${isBroken ? 'M' : 'L'}${x(at).toFixed(1)} ${y(value).toFixed(1)}${isBroken ? 'h0.5' : ''}`;
    before = at;
  }
  return path;
}

function lastOf({ points }, format) {
  const last = points.at(-1)?.[1];
  return last === undefined || last === null ? '–' : format(last);
}

function inWords({ name, points }, format) {
  const values = points.map(([, value]) => value).filter((value) => value !== null);
  if (!values.length) return `${name}: none`;
  return `${name}: least ${format(Math.min(...values))}, most ${format(Math.max(...values))}`;
}

/** Return the top of the axis: 1, 2 or 5 times a power of ten. */
function ceiling(value) {
  if (value <= 0) return 1;
  const power = 10 ** Math.floor(Math.log10(value));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= value);
}
