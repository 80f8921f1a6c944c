// SPDX-License-Identifier: Apache-2.0
// The page's own clock: it never goes back, and it counts the time in which the machine slept.

const SLEPT_MS = 500;

/**
 * Milliseconds by `performance.now()`, which may stop while a laptop sleeps. The wall clock goes on
 * then. So when the wall clock runs ahead between two readings, the page was asleep, and ages grow
 * by it. A wall clock that was set forward looks the same: ages are too high until new messages
 * come, which is the safe side.
 */
class Clock {
  #slept = 0;
  #lead = Date.now() - performance.now();

  now() {
    const monotonic = performance.now();
    const lead = Date.now() - monotonic;
    if (lead - this.#lead > SLEPT_MS) this.#slept += lead - this.#lead;
    this.#lead = lead;
    return monotonic + this.#slept;
  }
}

export const clock = new Clock();
