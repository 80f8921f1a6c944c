// SPDX-License-Identifier: Apache-2.0
// What the page knows of each robot, and when it learned it (vla_ros/web/messages.py has the form).

const KEPT_MS = 300_000; // of samples

/** One robot. Every `...At` is a time of the page's clock. */
export class Robot {
  state = null;
  details = null;
  action = null;
  doctor = { running: false, age_s: null, findings: [], problem: '' };
  events = [];
  eventsAt = 0;
  samples = []; // {at, hz, latency, inference}
  loss = null; // why this page's lease ended, if no command of an operator ended it
  #stateAt = 0;
  #actionAt = 0;
  #doctorAt = 0;

  constructor(name) {
    this.name = name;
  }

  get key() {
    return this.name.robot;
  }

  get title() {
    return this.key === '-' && this.name.title === '/' ? 'the robot' : this.name.title;
  }

  take(message, at) {
    switch (message.type) {
      case 'state':
        this.#followLease(message.lease);
        [this.state, this.#stateAt] = [message, at];
        break;
      case 'details':
        this.details = message;
        break;
      case 'action':
        [this.action, this.#actionAt] = [message, at];
        break;
      case 'doctor':
        [this.doctor, this.#doctorAt] = [message, at];
        break;
      case 'events':
        [this.events, this.eventsAt] = [message.events, at];
        break;
      case 'samples':
        this.#addSamples(message.rows, at);
        break;
    }
  }

  /** Note when this page loses its lease, until it has one again. */
  #followLease(lease) {
    const before = this.state?.lease;
    if (lease.is_yours || lease.was_told) this.loss = null;
    else if (before?.is_yours) this.loss = whyLost(before, lease);
  }

  #addSamples(rows, at) {
    const new_ = rows.map(([age, hz, latency, inference]) => ({
      at: at - age * 1000,
      hz,
      latency,
      inference,
    }));
    // After a new connection the server sends all of them again.
    const before = new_.length ? new_[0].at - 400 : at;
    this.samples = [...this.samples.filter((one) => one.at < before), ...new_].filter(
      (one) => one.at > at - KEPT_MS,
    );
  }

  /** Return a field of the state that is an age or a duration, in seconds, as it is now. */
  grown(field, now) {
    const value = field.split('.').reduce((part, name) => part?.[name], this.state);
    return value === null || value === undefined ? null : value + (now - this.#stateAt) / 1000;
  }

  actionAge(now) {
    return this.action && this.action.age_s + (now - this.#actionAt) / 1000;
  }

  doctorAge(now) {
    const { age_s: age } = this.doctor;
    return age === null ? null : age + (now - this.#doctorAt) / 1000;
  }

  get isLive() {
    return this.state?.link === 'live';
  }

  get isStopped() {
    return this.isLive && this.state.reason === 'STOPPED';
  }

  /** What the robot does, in a word or two, and the colour of it. */
  get mood() {
    const { state } = this;
    if (!state || state.link === 'never') return ['Waiting for the node', 'unknown'];
    if (state.link === 'lost') return ['Does not report', 'lost'];
    if (state.reason === 'STOPPED') return ['Stopped', 'stopped'];
    if (state.reason === 'DISABLED') return ['Disabled', 'stopped'];
    const words = state.words.charAt(0).toUpperCase() + state.words.slice(1);
    const kinds = { RUNNING: 'running', HOLDING: 'holding', ERROR: 'error' };
    return [words, kinds[state.state] ?? 'busy'];
  }
}

/** Return why a lease of this page ended, as its operator can understand it. */
function whyLost({ holder: ownName }, { holder, ended }) {
  if (holder) return `${holder} took it over`;
  if (!ended) return 'the connection to the server was lost';
  if (!ended.startsWith(`${ownName} `)) return ended;
  const told = ended.replace(ownName, 'this page');
  return `${told}: it was asleep or hidden, nobody touched it, or its network stalled`;
}

/** All robots. A `change` event follows each message, and `select` the choice of another robot. */
export class Store extends EventTarget {
  page = '';
  robots = new Map();
  selected = null;

  take(message, at) {
    if (message.type === 'hello') this.#greet(message);
    else this.robots.get(message.robot)?.take(message, at);
    this.dispatchEvent(new Event('change'));
  }

  select(key) {
    if (!this.robots.has(key)) return;
    this.selected = key;
    this.dispatchEvent(new Event('select'));
  }

  get robot() {
    return this.robots.get(this.selected) ?? null;
  }

  #greet({ page, robots }) {
    this.page = page;
    const known = this.robots;
    this.robots = new Map(
      robots.map((name) => {
        const robot = known.get(name.robot) ?? new Robot(name);
        robot.name = name;
        return [name.robot, robot];
      }),
    );
    if (!this.robots.has(this.selected)) this.selected = robots[0]?.robot ?? null;
  }
}
