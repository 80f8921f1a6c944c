// SPDX-License-Identifier: Apache-2.0
// Asks for the token where the server needs one.

import { Part, h, mark, say } from './dom.js';

export class SignIn extends Part {
  build() {
    this.token = h('input', {
      id: 'token',
      type: 'password',
      autocomplete: 'current-password',
      required: true,
    });
    this.result = h('p.result', { role: 'status' });
    this.append(
      h(
        'form.card',
        { onsubmit: (event) => this.#submit(event) },
        h('h2', {}, 'Sign in'),
        h('p.hint', {}, 'The token is in the file that the console was started with.'),
        h('label', { for: 'token' }, 'Token'),
        this.token,
        h('button.primary', {}, 'Sign in'),
        this.result,
      ),
    );
  }

  /** Show the form if the server needs the token, and return whether it does. */
  async ask() {
    const session = await fetch('/api/session').then((response) => response.json());
    const isNeeded = session.needs_token && !session.signed_in;
    mark(this, 'hidden', !isNeeded);
    return isNeeded;
  }

  async #submit(event) {
    event.preventDefault();
    try {
      const response = await fetch('/api/sign_in', {
        method: 'POST',
        headers: { 'Content-Type': 'application/json' },
        body: JSON.stringify({ token: this.token.value }),
      });
      const answer = await response.json();
      say(this.result, response.ok ? '' : answer.error);
      if (!response.ok) return;
      this.token.value = '';
      mark(this, 'hidden', true);
      this.dispatchEvent(new Event('signed-in'));
    } catch (error) {
      say(this.result, 'the server does not answer');
    }
  }
}

customElements.define('vla-sign-in', SignIn);
