// SPDX-License-Identifier: Apache-2.0
// A stop, from the press to its confirmation. It needs no websocket and waits for nothing.

const ANSWER_MS = 1500; // the server gives the node 1 s
const AGAIN_MS = 1000;
const SETTLE_MS = 500; // a status from before the stop may come after its confirmation
const TRIES_MS = 60_000;

/**
 * Stops robots. Each press is sent by POST, and on the open websocket as well: the first
 * confirmation counts, and so does a state STOPPED that came after the press. What is not confirmed
 * is sent again, once a second for a minute. Events: `change`.
 */
export class Stopping extends EventTarget {
  #clock;
  #alsoSend; // (robot) => Promise of an answer, on the websocket
  #presses = new Map(); // by robot: {at, phase, message}

  constructor(clock, alsoSend) {
    super();
    this.#clock = clock;
    this.#alsoSend = alsoSend;
  }

  press(robots) {
    for (const robot of robots) {
      const press = { at: this.#clock.now(), phase: 'stopping', message: '' };
      this.#presses.set(robot, press);
      this.#send(robot, press);
      this.#alsoSend(robot).then((answer) => answer.ok && this.#confirm(robot, press));
      setTimeout(() => this.#doubt(robot, press, 'no answer'), ANSWER_MS);
    }
    this.#change();
  }

  /** Take a robot's state: it may confirm a stop, or end what was said of one. */
  hear(state) {
    const press = this.#presses.get(state.robot);
    if (!press || state.link !== 'live') return;
    // At the earliest: a network may have kept the message, and the server did not know of `here_ms`
    // before that time of this page.
    const toldAt = (state.here_ms ?? -Infinity) - state.status_age_s * 1000;
    if (state.reason === 'STOPPED') {
      if (toldAt > press.at) this.#confirm(state.robot, press);
    } else if (press.phase === 'stopped' && toldAt > press.confirmedAt + SETTLE_MS) {
      this.#presses.delete(state.robot); // it was reset
      this.#change();
    }
  }

  /** Return the robots in a phase: `stopping`, `stopped` or `unconfirmed`. */
  in(phase) {
    return [...this.#presses].filter(([, press]) => press.phase === phase).map(([key]) => key);
  }

  async #send(robot, press) {
    const began = this.#clock.now();
    try {
      const response = await fetch(`/api/robots/${encodeURIComponent(robot)}/stop`, {
        method: 'POST',
        headers: { 'Content-Type': 'application/json' },
        body: '{}',
        keepalive: true,
        priority: 'high',
        signal: AbortSignal.timeout(ANSWER_MS),
      });
      const answer = await response.json();
      if (answer.ok && answer.confirmed) return this.#confirm(robot, press);
      this.#doubt(robot, press, answer.message ?? answer.error ?? `status ${response.status}`);
    } catch (error) {
      this.#doubt(robot, press, 'the server does not answer');
    }
    const wait = Math.max(0, AGAIN_MS - (this.#clock.now() - began));
    setTimeout(() => this.#isOpen(robot, press) && this.#send(robot, press), wait);
  }

  #isOpen(robot, press) {
    const isTheLast = this.#presses.get(robot) === press && press.phase !== 'stopped';
    return isTheLast && this.#clock.now() - press.at < TRIES_MS;
  }

  #confirm(robot, press) {
    if (this.#presses.get(robot) !== press || press.phase === 'stopped') return;
    press.phase = 'stopped';
    press.confirmedAt = this.#clock.now();
    this.#change();
  }

  #doubt(robot, press, why) {
    if (this.#presses.get(robot) !== press || press.phase !== 'stopping') return;
    [press.phase, press.message] = ['unconfirmed', why];
    this.#change();
  }

  #change() {
    this.dispatchEvent(new Event('change'));
  }
}
