// SPDX-License-Identifier: Apache-2.0
// The connection to the server: a word in the head, and a notice over the page when it is lost.

import { Part, h, mark, say } from './dom.js';
import { capital, duration } from './format.js';

export class Link extends Part {
  build() {
    this.words = h('span.words');
    this.append(h('span.dot', { 'aria-hidden': 'true' }), this.words);
  }

  show({ isLost, store }) {
    mark(this, 'data-kind', isLost ? 'lost' : 'running');
    say(this.words, isLost ? 'No connection' : `Connected as ${store.page}`);
  }
}

/** Says what must not be overlooked: no connection, a silent node, an operator who is away. */
export class Notice extends Part {
  #wasHolder = false; // of a lease, when its operator went away

  build() {
    this.text = h('strong');
    this.since = h('span.since'); // changes each second, so it is no part of what is spoken
    this.advice = h('p');
    this.known = h('button', { type: 'button', onclick: () => this.#forget() }, 'OK');
    const words = h('div', {}, this.text, ' ', this.since, this.advice);
    this.box = h('div.notice', { hidden: true }, words, this.known);
    this.spoken = h('p.spoken', { role: 'alert' });
    this.append(this.box, this.spoken);
  }

  show(view) {
    const isAway = view.presence.leaveIn === 0;
    this.#wasHolder = view.isHolder || (isAway && this.#wasHolder);
    const isHolder = this.#wasHolder;
    const told = notice({ ...view, isHolder, isAway });
    this.lost = told ? [] : [...view.store.robots.values()].filter((robot) => robot.loss);
    const [kind, text, since, advice] = told ?? lossOf(this.lost) ?? [];
    mark(this.box, 'hidden', !kind);
    mark(this.box, 'data-kind', kind);
    say(this.text, text ?? '');
    say(this.since, since ?? '');
    say(this.advice, advice ?? '');
    mark(this.known, 'hidden', this.lost.length === 0);
    say(this.spoken, kind ? `${text} ${advice}` : '');
  }

  #forget() {
    for (const robot of this.lost) robot.loss = null;
    mark(this.box, 'hidden', true);
  }
}

function notice({ isLost, silence, robot, now, presence, isHolder, isAway }) {
  if (isLost) {
    return [
      'error',
      'No connection',
      `for ${duration(silence / 1000)}: what you see is old.`,
      'The robot holds when the lease runs out. Stop still tries; if in doubt, use the emergency stop.',
    ];
  }
  if (robot?.state?.link === 'lost') {
    return [
      'error',
      `The node of ${robot.title} does not report`,
      `for ${duration(robot.grown('status_age_s', now))}: its state is unknown.`,
      'What you see of it is old. Its node ended, hangs, or cannot be reached.',
    ];
  }
  if (isHolder && presence.mustAsk) {
    return [
      'warning',
      isAway ? 'Nobody touched this page for 5 minutes' : 'Are you still there?',
      isAway ? '' : `The robot holds in ${duration(presence.leaveIn / 1000)}.`,
      isAway
        ? 'The robot holds. Touch the page and instruct it again.'
        : 'Touch the page or a key.',
    ];
  }
  return null;
}

/** Return the notice of instructions of this page that ended by themselves. */
function lossOf(robots) {
  if (robots.length === 0) return null;
  const titles = robots.map(({ title }) => title).join(', ');
  const advice = `${capital(robots[0].loss)}. To go on, instruct again.`;
  return ['warning', `Your instruction for ${titles} has ended`, '', advice];
}

customElements.define('vla-link', Link);
customElements.define('vla-notice', Notice);
