// SPDX-License-Identifier: Apache-2.0
// The websocket of images. The page tells which image it has drawn, so none waits in a queue.

import { socketAddress } from './connection.js';

const RETRY_MS = 1000;
const [LEAST_REST_MS, MOST_REST_MS] = [2000, 60_000];

/** Events: `image` with `{robot, view, stamp, bitmap, at}` in `detail`; `at` by the page's clock. */
export class Images extends EventTarget {
  #clock;
  #socket = null;
  #wanted = [];
  #restMs = LEAST_REST_MS;
  #restsUntil = -Infinity;

  constructor(clock) {
    super();
    this.#clock = clock;
  }

  start() {
    this.#open();
  }

  /** Leave the network to the states for a while, each time for longer. */
  rest(now) {
    if (now < this.#restsUntil) return;
    const isRelapse = now < this.#restsUntil + MOST_REST_MS;
    this.#restMs = isRelapse ? Math.min(2 * this.#restMs, MOST_REST_MS) : LEAST_REST_MS;
    this.#restsUntil = now + this.#restMs;
  }

  /** Ask for these pairs of robot and view, in place of those before; none during a rest. */
  watch(wanted, now) {
    const pairs = now < this.#restsUntil ? [] : wanted;
    if (JSON.stringify(pairs) === JSON.stringify(this.#wanted)) return;
    this.#wanted = pairs;
    this.#tell({ type: 'watch', images: pairs });
  }

  #tell(message) {
    if (this.#socket?.readyState === WebSocket.OPEN) this.#socket.send(JSON.stringify(message));
  }

  #open() {
    const socket = new WebSocket(socketAddress('/api/images'));
    socket.binaryType = 'arraybuffer';
    this.#socket = socket;
    socket.addEventListener('open', () => this.#tell({ type: 'watch', images: this.#wanted }));
    socket.addEventListener('message', ({ data }) => this.#take(data));
    socket.addEventListener('close', () => setTimeout(() => this.#open(), RETRY_MS));
  }

  async #take(data) {
    const length = new DataView(data).getUint16(0);
    const header = JSON.parse(new TextDecoder().decode(new Uint8Array(data, 2, length)));
    const at = this.#clock.now() - header.age_s * 1000;
    try {
      const jpeg = new Blob([new Uint8Array(data, 2 + length)], { type: 'image/jpeg' });
      const bitmap = await createImageBitmap(jpeg);
      this.dispatchEvent(new CustomEvent('image', { detail: { ...header, bitmap, at } }));
      bitmap.close();
    } catch (error) {
      console.error('an image could not be shown', error);
    } finally {
      this.#tell({ type: 'shown', number: header.number });
    }
  }
}
