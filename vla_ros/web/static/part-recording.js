// SPDX-License-Identifier: Apache-2.0
// Whether the node records its episodes, the mark of a success, and how to open the last one.

import { Part, h, mark, say } from './dom.js';
import { capital } from './format.js';

export class RecordingCard extends Part {
  build() {
    const button = (text, command) =>
      h('button', { type: 'button', onclick: () => this.#send(command) }, text);
    this.record = button('Record', 'record');
    this.off = button('End recording', 'record_off');
    this.success = button('Mark as a success', 'success');
    this.told = h('p.told');
    this.problem = h('p.hint', { 'data-kind': 'error', role: 'status' });
    this.episode = h('code.episode');
    this.command = h('code.command', { tabindex: '0', 'aria-label': 'Command for a terminal' });
    this.last = h(
      'div',
      {},
      h('p.hint', {}, 'Last episode'),
      this.episode,
      h('p.hint', {}, 'Open it on a timeline, on the machine of the node:'),
      this.command,
    );
    this.result = h('p.result', { role: 'status' });
    this.card('Recording', this.told, this.problem, this.last, this.result);
    this.head.append(this.success, this.record, this.off);
  }

  show({ robot, isLost }) {
    if (this.robot !== robot) say(this.result, '');
    this.robot = robot;
    const { on, episode, success, message, folder } = robot?.details?.recording ?? {};
    const isLive = Boolean(robot?.isLive) && !isLost;
    mark(this.record, 'hidden', on);
    mark(this.off, 'hidden', !on);
    mark(this.success, 'hidden', !on || !episode || success);
    for (const button of [this.record, this.off, this.success]) button.disabled = !isLive;
    say(this.told, isLive ? toldOf(on, success) : 'Not known without the node.');
    say(this.problem, message ? capital(message) : '');
    mark(this.last, 'hidden', !episode);
    say(this.episode, episode ?? '');
    say(this.command, `vla_replay ${quoted(`${folder}/${episode}`)} --rerun --output shown`);
  }

  #send(command) {
    return this.tell('Waiting for the node…', this.ask(this.robot.key, command));
  }
}

/** Return a path as a word of a shell. */
function quoted(path) {
  return /^[\w./~:@+-]+$/.test(path) ? path : `'${path.replaceAll("'", "'\\''")}'`;
}

function toldOf(on, success) {
  if (!on) {
    return 'Off. Recording keeps each episode of all robots of the node, from the next instruction on.';
  }
  return success
    ? 'On. The last episode is marked as a success.'
    : 'On: each instruction begins an episode.';
}

customElements.define('vla-recording', RecordingCard);
