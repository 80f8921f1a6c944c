// SPDX-License-Identifier: Apache-2.0
// The recent states of the robot: a strip of five minutes, and a list with reasons.

import { Part, fill, h, say } from './dom.js';
import { ago, capital, duration, plain } from './format.js';

const SPAN_S = 300;
const LISTED = 8;
const WORDS = { RUNNING: 'acting' };
const KINDS = { RUNNING: 'running', HOLDING: 'holding', ERROR: 'error' };

export class TimelineCard extends Part {
  build() {
    this.strip = h('div');
    this.list = h('ol.events');
    this.card('Timeline', this.strip, this.list);
  }

  show({ robot, now, isLost }) {
    if (isLost) return;
    const events = robot?.events ?? [];
    const passed = robot ? (now - robot.eventsAt) / 1000 : 0;
    const second = Math.floor(now / 1000);
    fill(this.strip, [robot?.key, second], () => [stripOf(events, passed)]);
    const newest = events.slice(-LISTED).reverse();
    fill(this.list, [robot?.key, newest], () =>
      newest.length ? newest.map(entry) : [h('li.hint', {}, 'Nothing happened yet')],
    );
    newest.forEach((event, index) => {
      const item = this.list.children[index];
      say(item.querySelector('.when'), ago(event.age_s + passed));
      const lasted = event.lasted_s ?? event.age_s + passed;
      say(
        item.querySelector('.lasted'),
        `${event.lasted_s === null ? 'since ' : ''}${duration(lasted)}`,
      );
    });
  }
}

function entry(event) {
  return h(
    'li',
    { 'data-kind': kindOf(event) },
    h('span.dot', { 'aria-hidden': 'true' }),
    h(
      'div',
      {},
      h(
        'b',
        {},
        capital(
          event.reason === 'NONE'
            ? (WORDS[event.state] ?? plain(event.state))
            : plain(event.reason),
        ),
      ),
      event.times > 1 ? ` ${event.times} times` : '',
      event.is_fault ? h('span.fault', {}, 'fault') : '',
      h('p', {}, event.message.replace(/^[A-Z_]+:? ?/, '')),
    ),
    h('div.times', {}, h('span.when'), h('span.lasted')),
  );
}

function stripOf(events, passed) {
  const parts = events.flatMap((event) => {
    const from = Math.min(SPAN_S, event.age_s + passed);
    const to = event.lasted_s === null ? 0 : event.age_s + passed - event.lasted_s;
    if (to >= SPAN_S) return [];
    return h('rect', {
      x: SPAN_S - from,
      width: Math.max(1, from - to),
      height: 12,
      class: kindOf(event),
    });
  });
  const faults = events.filter((event) => event.is_fault && event.age_s + passed < SPAN_S).length;
  const told = `Last 5 minutes: ${faults === 1 ? '1 fault' : `${faults} faults`}`;
  return h(
    'figure.strip',
    {},
    h(
      'svg',
      { viewBox: `0 0 ${SPAN_S} 12`, preserveAspectRatio: 'none', role: 'img', 'aria-label': told },
      ...parts,
    ),
    h(
      'figcaption',
      {},
      h('span', {}, '5 min ago'),
      h('span', {}, told.slice(16)),
      h('span', {}, 'now'),
    ),
  );
}

function kindOf(event) {
  if (event.is_fault) return 'error';
  if (event.reason === 'STOPPED' || event.reason === 'DISABLED') return 'stopped';
  return KINDS[event.state] ?? 'busy';
}

customElements.define('vla-timeline', TimelineCard);
