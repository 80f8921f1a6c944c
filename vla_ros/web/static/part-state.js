// SPDX-License-Identifier: Apache-2.0
// What the robot does and why, who keeps it doing so, and the switches.

import './part-switches.js';

import { Part, h, mark, say } from './dom.js';
import { ago, duration } from './format.js';

export class StateCard extends Part {
  build() {
    this.mood = h('strong.mood');
    this.since = h('span.since');
    this.why = h('p.why');
    this.reason = h('code.reason');
    this.instruction = h('p.instruction');
    this.facts = h('dl.facts');
    this.values = ['Actions', 'Last action', 'Status', 'Lease'].map((name) => {
      const value = h('dd');
      this.facts.append(h('div', {}, h('dt', {}, name), value));
      return value;
    });
    this.spoken = h('p.spoken', { role: 'status' });
    const section = this.card(
      'State',
      h('div.big', {}, this.mood, this.since),
      this.why,
      this.instruction,
      this.facts,
      h('vla-switches'),
      this.spoken,
    );
    this.head.append(this.reason);
    this.section = section;
  }

  show({ robot, now, isLost }) {
    if (!robot) {
      say(this.mood, 'No robot yet');
      say(this.why, 'The console has not found a node on the ROS graph. Is it running?');
      mark(this.section, 'data-kind', 'unknown');
      return;
    }
    const { state } = robot;
    const isLive = robot.isLive && !isLost;
    const [last, lastKind] = robot.mood;
    const [words, kind] = isLost ? ['Unknown', 'lost'] : [last, lastKind];
    mark(this.section, 'data-kind', kind);
    say(this.mood, words);
    say(this.since, isLive ? `for ${duration(robot.grown('elapsed_s', now))}` : '');
    say(this.why, isLost ? `The last that is known of it: ${last}.` : whyOf(robot));
    say(this.reason, isLive && state.reason !== 'NONE' ? state.reason : '');
    say(this.instruction, state?.instruction ? `“${state.instruction}”` : 'No instruction');
    mark(this.instruction, 'data-old', !isLive);
    this.#showFacts(robot, now, isLive);
    say(
      this.spoken,
      `${robot.title}: ${words}. ${isLive ? state.reason.replaceAll('_', ' ') : ''}`,
    );
  }

  #showFacts(robot, now, isLive) {
    const { state } = robot;
    const [rate, action, status, lease] = this.values;
    say(rate, isLive ? `${state.actions_hz.toFixed(1)} Hz` : 'unknown');
    say(action, ago(robot.grown('action_age_s', now)));
    say(status, ago(robot.grown('status_age_s', now)));
    say(lease, leaseOf(robot, now));
  }
}

/** Return why the robot is in its state: the node's sentence without the state's name. */
function whyOf({ state, isLive }) {
  if (!state) return '';
  if (!isLive) return `${state.words.charAt(0).toUpperCase()}${state.words.slice(1)}.`;
  const told = state.message.replace(/^[A-Z_]+:? ?/, '');
  const motion = state.motion && `The last action moved nothing: ${state.motion}`;
  return [told, motion].filter(Boolean).join('. ');
}

function leaseOf(robot, now) {
  const lease = robot.state?.lease;
  if (!lease?.holder) return 'held by no page';
  const renewed = ago(robot.grown('lease.age_s', now));
  return `held by ${lease.is_yours ? 'this page' : lease.holder}, renewed ${renewed}`;
}

customElements.define('vla-state', StateCard);
