// SPDX-License-Identifier: Apache-2.0
// Tell the robot what to do: the text, the recent ones, and why it cannot be told now.

import { Part, fill, h, mark, say } from './dom.js';
import { capital } from './format.js';

const RECENT = 6;
const MAX_LENGTH = 500;
const STORE = 'vla_console.recent';

export class InstructionCard extends Part {
  build() {
    this.text = h('input', {
      id: 'text',
      type: 'text',
      maxlength: MAX_LENGTH,
      autocomplete: 'off',
      enterkeyhint: 'send',
      placeholder: 'pick up the blue block',
      'aria-describedby': 'refusal',
    });
    this.give = h('button.primary', {}, 'Instruct');
    this.hold = h('button', { type: 'button', onclick: () => this.#hold() }, 'Hold');
    this.refusal = h('p.hint', { id: 'refusal' });
    this.limit = h(
      'button',
      { type: 'button', hidden: true, onclick: () => this.#setLimit() },
      'Let pages instruct: hold 2 s after the last sign of one',
    );
    this.result = h('p.result', { role: 'status' });
    this.recent = h('ul.recent', { 'aria-label': 'Recent instructions' });
    this.card(
      'Instruction',
      h(
        'form',
        { onsubmit: (event) => this.#submit(event) },
        h('label.spoken', { for: 'text' }, 'Instruction'),
        this.text,
        h('div.row', {}, this.give, this.hold),
      ),
      this.refusal,
      this.limit,
      this.result,
      this.recent,
    );
  }

  show({ robot, isLost }) {
    if (this.robot !== robot) {
      say(this.result, '');
      this.text.value = '';
    }
    this.robot = robot;
    const lease = robot?.state?.lease;
    const refusal = refusalOf(robot, isLost);
    this.give.disabled = Boolean(refusal);
    this.hold.disabled = isLost || !robot;
    say(this.refusal, refusal ? `Cannot be instructed now: ${refusal}.` : hintOf(lease));
    mark(this.limit, 'hidden', !lease?.can_set_limit);
    fill(this.recent, recentTexts(), () =>
      recentTexts().map((text) =>
        h('li', {}, h('button', { type: 'button', onclick: () => this.#take(text) }, text)),
      ),
    );
  }

  #take(text) {
    this.text.value = text;
    this.text.focus();
  }

  async #submit(event) {
    event.preventDefault();
    const text = this.text.value.trim();
    if (!text || this.give.disabled) return;
    remember(text);
    await this.tell('Sent, waiting for the node…', this.instruct(this.robot.key, text), capital);
  }

  #hold() {
    return this.tell('Hold…', this.ask(this.robot.key, 'hold'), capital);
  }

  #setLimit() {
    return this.tell('Setting…', this.ask(this.robot.key, 'set_limit'), capital);
  }
}

function refusalOf(robot, isLost) {
  if (isLost) return 'there is no connection';
  if (!robot) return 'there is no robot';
  return robot.state?.lease.refusal ?? 'no status came yet';
}

function hintOf(lease) {
  if (lease.is_yours) return 'In force while this page is visible and you are at it.';
  if (lease.holder)
    return `${capital(lease.holder)} instructs this robot. Yours replaces its instruction.`;
  return lease.ended
    ? `The last lease ended: ${lease.ended}.`
    : 'In force while this page is visible.';
}

function recentTexts() {
  try {
    const texts = JSON.parse(localStorage.getItem(STORE));
    return Array.isArray(texts) ? texts.filter((text) => typeof text === 'string') : [];
  } catch {
    return []; // no storage, or something else wrote it
  }
}

function remember(text) {
  try {
    const texts = [text, ...recentTexts().filter((one) => one !== text)].slice(0, RECENT);
    localStorage.setItem(STORE, JSON.stringify(texts));
  } catch {
    // Private windows may have no storage: then there are no recent ones.
  }
}

customElements.define('vla-instruction', InstructionCard);
