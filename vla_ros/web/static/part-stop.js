// SPDX-License-Identifier: Apache-2.0
// The stop of all robots, always at the bottom of the window, and what became of it.

import { Part, h, mark, say } from './dom.js';

export class StopBar extends Part {
  build() {
    this.word = h('b', {}, 'STOP');
    this.button = h(
      'button.stop',
      { type: 'button', 'aria-keyshortcuts': 'Escape', onclick: () => this.#press() },
      this.word,
      h('kbd', {}, 'Esc'),
    );
    this.result = h('p.result', { role: 'alert' });
    this.append(this.button, this.result);
    // Captured first, so that no field or list that is open takes the key.
    addEventListener('keydown', (event) => event.key === 'Escape' && this.#press(), true);
  }

  #press() {
    this.dispatchEvent(new CustomEvent('stop', { bubbles: true, detail: { robots: null } }));
  }

  show({ store, stopping, hasNone, isLost }) {
    const several = store.robots.size > 1;
    say(this.word, several ? `STOP ALL ${store.robots.size}` : 'STOP');
    const titles = (keys) =>
      several ? ` ${keys.map((key) => store.robots.get(key)?.title ?? key).join(', ')}` : '';
    const doubtful = stopping.in('unconfirmed');
    const waiting = stopping.in('stopping');
    const stopped = stopping.in('stopped');
    if (hasNone && store.robots.size === 0) {
      this.#tell('error', 'No robot is known to this page: use the emergency stop');
    } else if (doubtful.length) {
      this.#tell(
        'error',
        `Not confirmed${several ? ' for' : ''}${titles(doubtful)}: use the emergency stop`,
      );
    } else if (waiting.length) {
      this.#tell('busy', `Stopping${titles(waiting)}…`);
    } else if (stopped.length && isLost) {
      this.#tell('lost', 'Stopped before the connection was lost');
    } else if (stopped.length) {
      this.#tell('stopped', `Stopped, confirmed${several ? `:${titles(stopped)}` : ''}`);
    } else {
      this.#tell('idle', several ? 'Stops every robot of this page' : '');
    }
  }

  #tell(kind, text) {
    mark(this, 'data-kind', kind);
    say(this.result, text);
  }
}

customElements.define('vla-stop', StopBar);
