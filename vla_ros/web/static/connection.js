// SPDX-License-Identifier: Apache-2.0
// The websocket of messages: states from the server, commands to it, and the page's sign of life.

const RETRY_MS = 500;
const OPENING_MS = 3000;
const LOST_MS = 1500; // the server sends each robot's state every 0.5 s
const BEHIND_MS = 3000; // what arrives is older than this: a network that delays
const ANSWER_MS = 5000;

/** Return the address of a websocket of this server. */
export function socketAddress(path) {
  return `${location.protocol === 'https:' ? 'wss' : 'ws'}://${location.host}${path}`;
}

/**
 * Events: `message` with the parsed message in `detail`; `closed` whenever the socket closes.
 */
export class Connection extends EventTarget {
  #clock;
  #held; // returns the keys of the robots whose leases this page renews
  #socket = null;
  #openedAt = 0;
  #heardAt;
  #hereMs = null;
  #hasRobots = false;
  #pending = new Map();
  #lastId = 0;
  #period = 500;

  constructor(clock, held) {
    super();
    this.#clock = clock;
    this.#held = held;
    this.#heardAt = clock.now();
  }

  start() {
    this.#open();
    this.#beat();
  }

  get isOpen() {
    return this.#socket?.readyState === WebSocket.OPEN;
  }

  /** Return for how long nothing was heard, or how far behind the server's word is [ms]. */
  silence(now) {
    const quiet = this.isOpen && !this.#hasRobots ? 0 : now - this.#heardAt;
    const behind = this.#hereMs === null ? 0 : now - this.#hereMs;
    return behind > BEHIND_MS ? Math.max(quiet, behind) : quiet;
  }

  isLost(now) {
    return !this.isOpen || this.silence(now) > LOST_MS;
  }

  command(robot, command) {
    return this.#ask({ type: 'command', robot, command });
  }

  instruct(robot, text) {
    return this.#ask({ type: 'instruct', robot, text });
  }

  /** Tell the server who is here, now. */
  here() {
    this.#send({ type: 'here', now_ms: this.#clock.now(), robots: this.#held() });
  }

  #send(message) {
    if (this.isOpen) this.#socket.send(JSON.stringify(message));
    return this.isOpen;
  }

  #ask(message) {
    const id = ++this.#lastId;
    const { robot, command = 'instruct' } = message;
    const failed = (why) => ({ id, robot, command, ok: false, confirmed: false, message: why });
    return new Promise((resolve) => {
      const end = (answer) => {
        clearTimeout(timer);
        this.#pending.delete(id);
        resolve(answer);
      };
      const timer = setTimeout(() => end(failed('the server did not answer')), ANSWER_MS);
      this.#pending.set(id, (answer) => end(answer ?? failed('the connection was lost')));
      if (!this.#send({ ...message, id })) end(failed('there is no connection'));
    });
  }

  #open() {
    const socket = new WebSocket(socketAddress('/api/messages'));
    this.#socket = socket;
    this.#openedAt = this.#clock.now();
    socket.addEventListener('open', () => this.here());
    socket.addEventListener('message', ({ data }) => this.#take(JSON.parse(data)));
    socket.addEventListener('close', () => {
      if (socket !== this.#socket) return;
      for (const answer of [...this.#pending.values()]) answer(null);
      this.dispatchEvent(new Event('closed'));
      setTimeout(() => this.#open(), RETRY_MS);
    });
  }

  #take(message) {
    const now = this.#clock.now();
    if (message.type === 'hello') {
      this.#period = message.here_period_s * 1000;
      this.#hasRobots = message.robots.length > 0;
      this.#hereMs = null;
    }
    if (message.type === 'state') {
      this.#heardAt = now;
      this.#hereMs = message.here_ms;
    }
    if (message.type === 'answer') this.#pending.get(message.id)?.(message);
    this.dispatchEvent(new CustomEvent('message', { detail: message }));
  }

  #beat() {
    const now = this.#clock.now();
    const isStuck = now - Math.max(this.#openedAt, this.#heardAt) > OPENING_MS;
    if (this.isOpen) this.here();
    if (isStuck && (this.#hasRobots || !this.isOpen)) this.#replace();
    setTimeout(() => this.#beat(), this.#period);
  }

  /** Leave a socket that neither opens nor speaks: its own `close` may take minutes. */
  #replace() {
    const old = this.#socket;
    if (old.readyState === WebSocket.CLOSED) return; // a retry is due
    this.#socket = null;
    old.close();
    for (const answer of [...this.#pending.values()]) answer(null);
    this.dispatchEvent(new Event('closed'));
    this.#open();
  }
}
