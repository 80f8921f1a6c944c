// SPDX-License-Identifier: Apache-2.0
// An action as an arrow in its frame's axes, over the image.

import { h } from './dom.js';
import { signed } from './format.js';

const RADIUS = 40;

/** Return the drawing of a displacement; an action of another kind has none. */
export function compass({ space, names, rows, gripper }) {
  const [x, y, z] = ['x', 'y', 'z'].map((name) => names.indexOf(name));
  if (space !== 'POSE_DELTA' || x < 0 || y < 0 || z < 0) return [];
  const reach = scaleOf(rows.flatMap((row) => [row[x], row[y], row[z]]));
  const first = rows[0];
  // As seen from above with x away from the viewer: x up, y to the left.
  const at = (row) => [(-row[y] / reach) * RADIUS, (-row[x] / reach) * RADIUS];
  const [left, top] = at(first);
  const height = (first[z] / reach) * RADIUS;
  const open = openness(first, gripper);
  const told = `Action: x ${signed(first[x])}, y ${signed(first[y])}, z ${signed(first[z])}${
    open === null ? '' : `, gripper ${Math.round(open * 100)} % open`
  }`;
  return [
    h(
      'svg',
      { viewBox: '-50 -50 122 100', role: 'img', 'aria-label': told },
      h('circle', { r: RADIUS, class: 'ring' }),
      h('path', { d: `M-${RADIUS} 0H${RADIUS}M0 -${RADIUS}V${RADIUS}`, class: 'axis' }),
      h('text', { x: 3, y: -RADIUS + 9 }, '+x'),
      h('text', { x: -RADIUS + 3, y: -3 }, '+y'),
      ...rows
        .slice(1)
        .map((row) => h('circle', { cx: at(row)[0], cy: at(row)[1], r: 1.5, class: 'later' })),
      h('line', { x2: left, y2: top, class: 'arrow' }),
      h('circle', { cx: left, cy: top, r: 3.5, class: 'tip' }),
      h('rect', { x: 50, y: -RADIUS, width: 6, height: 2 * RADIUS, class: 'rail' }),
      h('rect', {
        x: 50,
        y: Math.min(0, -height),
        width: 6,
        height: Math.abs(height),
        class: 'level',
      }),
      h('text', { x: 59, y: -RADIUS + 7 }, '+z'),
    ),
  ];
}

/** Return how far the gripper is open, from 0 to 1; null without one. */
function openness(row, { column, closed, open }) {
  if (column < 0 || open === closed) return null;
  return Math.min(1, Math.max(0, (row[column] - closed) / (open - closed)));
}

/** Return a round number that no value exceeds: 1, 2 or 5 times a power of ten. */
export function scaleOf(values) {
  const most = Math.max(1e-4, ...values.map((value) => Math.abs(value ?? 0)));
  const power = 10 ** Math.floor(Math.log10(most));
  return [1, 2, 5, 10].map((step) => step * power).find((step) => step >= most * 0.999);
}
