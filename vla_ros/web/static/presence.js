// SPDX-License-Identifier: Apache-2.0
// Whether the operator is at the page: only then does the page keep an instruction in force.

const AWAY_MS = 300_000; // without a touch, a key or a movement of the pointer
const ASK_MS = 30_000; // before that

const SIGNS = ['pointerdown', 'pointermove', 'keydown', 'wheel', 'touchstart', 'scroll'];

/**
 * The page is visible, and was touched within five minutes. A locked phone, a closed lid
 * and another tab hide the page; an operator who walked away from an open one is noticed by the
 * missing touch. Events: `change` when the page is hidden or comes back.
 */
export class Presence extends EventTarget {
  #clock;
  #touchedAt;

  constructor(clock) {
    super();
    this.#clock = clock;
    this.#touchedAt = clock.now();
    const touch = () => (this.#touchedAt = this.#clock.now());
    for (const sign of SIGNS) addEventListener(sign, touch, { passive: true, capture: true });
    document.addEventListener('visibilitychange', () => this.dispatchEvent(new Event('change')));
  }

  get isHere() {
    return document.visibilityState === 'visible' && this.leaveIn > 0;
  }

  /** Time until a touch is missing [ms]. */
  get leaveIn() {
    return Math.max(0, AWAY_MS - (this.#clock.now() - this.#touchedAt));
  }

  /** Whether the page should ask for a touch. */
  get mustAsk() {
    return this.leaveIn < ASK_MS;
  }
}
