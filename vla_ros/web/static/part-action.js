// SPDX-License-Identifier: Apache-2.0
// The newest action: the values of its columns, their course over the chunk, and how sure it was.

import { scaleOf } from './compass.js';
import { Part, h, mark, say } from './dom.js';
import { ago, milliseconds, signed } from './format.js';

const OLD_S = 2;

export class ActionCard extends Part {
  build() {
    this.what = h('p.hint');
    this.body = h('tbody');
    this.likely = h('th', { scope: 'col' }, 'Probability');
    this.course = h('th', { scope: 'col' }, 'Over the chunk');
    this.age = h('span.since');
    this.action = undefined;
    this.table = h(
      'table.action',
      {},
      h('caption.spoken', {}, 'Values of the newest action'),
      h(
        'thead',
        {},
        h(
          'tr',
          {},
          h('th', { scope: 'col' }, 'Column'),
          h('th', { scope: 'col' }, 'Value'),
          this.course,
          this.likely,
        ),
      ),
      this.body,
    );
    this.card('Action', this.table, this.what);
    this.head.append(this.age);
  }

  show({ robot, now, isLost }) {
    const action = robot?.action ?? null;
    const age = robot?.actionAge(now);
    mark(this, 'data-old', isLost || !action || age > OLD_S);
    say(this.age, action ? ago(age) : 'none yet');
    if (action === this.action) return;
    this.action = action;
    mark(this.table, 'hidden', !action);
    if (!action) return say(this.what, '');
    mark(this.course, 'hidden', action.rows.length < 2);
    mark(this.likely, 'hidden', action.probabilities.length === 0);
    this.body.replaceChildren(...action.names.map((name, column) => rowOf(action, name, column)));
    say(this.what, whatOf(action));
  }
}

function rowOf({ rows, names, probabilities, gripper }, name, column) {
  const values = rows.map((row) => row[column]);
  const cells = [
    h('th', { scope: 'row' }, titleOf(name, column === gripper.column)),
    h('td.number', {}, signed(values[0])),
  ];
  if (rows.length > 1) cells.push(h('td', {}, courseOf(values, name)));
  const perColumn = probabilities.length / names.length;
  if (perColumn > 0) {
    // Without a token for each value of each row there is none for this column.
    const isWhole = Number.isInteger(perColumn);
    cells.push(h('td.number', {}, ...(isWhole ? likelihood(probabilities[column]) : ['–'])));
  }
  return h('tr', {}, ...cells);
}

function titleOf(name, isGripper) {
  return isGripper && !name.includes('gripper') ? `${name} (gripper)` : name;
}

/** Return bars of the values of a chunk's rows, up and down from zero. */
function courseOf(values, name) {
  const reach = scaleOf(values);
  const told = `${name} from ${signed(values[0])} to ${signed(values.at(-1))} in ${values.length} rows, scale ${reach}`;
  const bars = values.map((value, row) => {
    const height = Math.max(0.6, (Math.abs(value ?? 0) / reach) * 9);
    return h('rect', {
      x: row * 4,
      y: value < 0 ? 10 : 10 - height,
      width: 3,
      height,
      class: row === 0 ? 'first' : 'later',
    });
  });
  const width = values.length * 4;
  return h(
    'svg.course',
    { viewBox: `0 0 ${width} 20`, role: 'img', 'aria-label': told, preserveAspectRatio: 'none' },
    h('line', { x2: width, y1: 10, y2: 10, class: 'axis' }),
    ...bars,
  );
}

function likelihood(probability) {
  return [
    h('meter', { min: 0, max: 1, value: probability, 'aria-hidden': 'true' }),
    ` ${probability.toFixed(2)}`,
  ];
}

function whatOf(action) {
  const rows = action.rows.length === 1 ? 'one action' : `row 1 of ${action.rows.length}`;
  const period = action.period_s ? `, ${milliseconds(action.period_s)} apart` : '';
  const key = action.unnorm_key ? `units of ${action.unnorm_key}` : 'no data set names the units';
  const frame = action.frame ? `, in ${action.frame}` : '';
  const lowest = action.probabilities.length
    ? ` Least probable token: ${Math.min(...action.probabilities).toFixed(2)}.`
    : '';
  const took = `From capture to sending ${milliseconds(action.latency_s)}, of it ${milliseconds(action.inference_s)} inference.`;
  return `Shown: ${rows}${period}; ${key}${frame}. ${took}${lowest}`;
}

customElements.define('vla-action', ActionCard);
