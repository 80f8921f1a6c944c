// SPDX-License-Identifier: Apache-2.0
// Stop of this robot alone, reset, enable and disable. What lets a robot move asks once more.

import { Part, h, mark, say } from './dom.js';

const ASK_MS = 10_000;

const QUESTIONS = {
  reset: (title) => `End the stop of ${title}? It stays disabled until you enable it.`,
  enable: (title) =>
    `Enable ${title}? It moves as soon as it is instructed. Check that nobody is within its reach.`,
};

export class Switches extends Part {
  build() {
    const button = (command, text) =>
      h(
        'button',
        { type: 'button', 'data-command': command, onclick: () => this.#choose(command) },
        text,
      );
    this.buttons = {
      reset: button('reset', 'Reset…'),
      enable: button('enable', 'Enable…'),
      disable: button('disable', 'Disable'),
      stop: button('stop', 'Stop this robot'),
    };
    this.buttons.stop.classList.add('stop-one');
    this.question = h('p', { id: 'question' });
    this.yes = h('button.primary', { type: 'button', onclick: () => this.#confirm() });
    this.no = h('button', { type: 'button', onclick: () => this.#close(true) }, 'Cancel');
    // Not a modal dialog: Stop stays in reach.
    this.box = h(
      'div.confirm',
      { role: 'group', 'aria-labelledby': 'question', hidden: true },
      this.question,
      h('div.row', {}, this.yes, this.no),
    );
    this.result = h('p.result', { role: 'status' });
    this.row = h('div.row', {}, ...Object.values(this.buttons));
    this.append(this.row, this.box, this.result);
  }

  show({ robot, store, isLost }) {
    if (this.robot !== robot) {
      this.#close(false);
      say(this.result, '');
    }
    this.robot = robot;
    mark(this, 'hidden', !robot);
    if (!robot) return;
    const isLive = robot.isLive && !isLost;
    const { reason } = robot.state ?? {};
    const isOpen = Boolean(this.asked);
    const offered = {
      reset: reason === 'STOPPED',
      enable: reason === 'DISABLED',
      disable: reason !== 'STOPPED' && reason !== 'DISABLED',
      stop: store.robots.size > 1 && reason !== 'STOPPED',
    };
    for (const [command, button] of Object.entries(this.buttons)) {
      mark(button, 'hidden', !offered[command] || (isOpen && command !== 'stop'));
      button.disabled = command !== 'stop' && !isLive;
      button.classList.toggle('primary', command === 'reset' || command === 'enable');
    }
    if (isOpen && !(isLive && offered[this.asked])) this.#close(false);
  }

  #choose(command) {
    if (command === 'stop') {
      const detail = { robots: [this.robot.key] };
      this.dispatchEvent(new CustomEvent('stop', { bubbles: true, detail }));
    } else if (command in QUESTIONS) this.#open(command);
    else this.#send(command);
  }

  #open(command) {
    this.asked = command;
    say(this.question, QUESTIONS[command](this.robot.title));
    say(this.yes, command === 'reset' ? 'Yes, reset' : 'Yes, enable');
    mark(this.box, 'hidden', false);
    mark(this.buttons[command], 'hidden', true);
    this.no.focus();
    this.timer = setTimeout(() => this.#close(false), ASK_MS);
  }

  #close(returnsFocus) {
    clearTimeout(this.timer);
    const { asked } = this;
    this.asked = null;
    mark(this.box, 'hidden', true);
    if (!returnsFocus || !asked) return;
    mark(this.buttons[asked], 'hidden', false);
    this.buttons[asked].focus();
  }

  #confirm() {
    const command = this.asked;
    this.#close(false);
    if (command) this.#send(command);
  }

  #send(command) {
    return this.tell(`${command}…`, this.ask(this.robot.key, command));
  }
}

customElements.define('vla-switches', Switches);
