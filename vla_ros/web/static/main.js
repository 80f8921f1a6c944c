// SPDX-License-Identifier: Apache-2.0
// Connects the parts: messages go into the store, and a view of it goes to every part.

import './part-action.js';
import './part-counters.js';
import './part-doctor.js';
import './part-history.js';
import './part-image.js';
import './part-instruction.js';
import './part-link.js';
import './part-recording.js';
import './part-robots.js';
import './part-sign-in.js';
import './part-state.js';
import './part-stop.js';
import './part-timeline.js';

import { clock } from './clock.js';
import { Connection } from './connection.js';
import { Part, mark } from './dom.js';
import { Images } from './images.js';
import { Presence } from './presence.js';
import { Stopping } from './stopping.js';
import { Store } from './store.js';

const TICK_MS = 200; // ages are shown anew
const SOON_MS = 30; // after a message; several that come together are shown once

const store = new Store();
const presence = new Presence(clock);
const connection = new Connection(clock, () => (presence.isHere ? [...store.robots.keys()] : []));
const images = new Images(clock);
const stopping = new Stopping(clock, (robot) => connection.command(robot, 'stop'));

const parts = [...document.querySelectorAll('*')].filter(
  (element) => element instanceof Part && 'show' in element,
);
const [imageCard] = document.getElementsByTagName('vla-image');
const [signIn] = document.getElementsByTagName('vla-sign-in');
const main = document.getElementById('robot');
let hasNone = false;

/** Bring every part up to date. */
function show() {
  const now = clock.now();
  const { robot } = store;
  const isLost = connection.isLost(now);
  const isHolder = [...store.robots.values()].some(({ state }) => state?.lease.is_yours);
  const silence = connection.silence(now);
  const view = { store, robot, now, isLost, silence, presence, isHolder, stopping, hasNone };
  for (const part of parts) part.show(view);
  mark(document.documentElement, 'data-connection', isLost ? 'lost' : 'live');
  mark(main, 'data-link', robot?.state?.link ?? 'never');
  document.title = `${isLost ? '⚠ ' : ''}${robot ? `${robot.mood[0]} ${robot.title}` : 'vla console'}`;
  if (isLost && connection.isOpen) images.rest(now); // a network that is too slow for both
  images.watch(document.visibilityState === 'visible' ? imageCard.wanted : [], now);
}

let isDue = false;

function showSoon() {
  if (isDue) return;
  isDue = true;
  setTimeout(() => {
    isDue = false;
    show();
  }, SOON_MS);
}

connection.addEventListener('message', ({ detail }) => {
  store.take(detail, clock.now());
  if (detail.type === 'state') stopping.hear(detail);
});
connection.addEventListener('closed', () => signIn.ask().catch(() => {})); // the server is away
store.addEventListener('change', showSoon);
store.addEventListener('select', show); // what is pressed next is for this robot
stopping.addEventListener('change', show);
images.addEventListener('image', ({ detail }) => imageCard.draw(detail));
presence.addEventListener('change', () => {
  connection.here();
  show();
});
document.addEventListener('view', show);
document.addEventListener('stop', ({ detail }) => {
  const robots = detail.robots ?? [...store.robots.keys()];
  hasNone = robots.length === 0;
  stopping.press(robots);
});

const asking = 'vla-switches, vla-instruction, vla-recording, vla-doctor';
for (const element of document.querySelectorAll(asking)) {
  element.ask = (robot, command) => connection.command(robot, command);
  element.instruct = (robot, text) => connection.instruct(robot, text);
}
if ((await signIn.ask().catch(() => false)) === true) {
  await new Promise((resolve) => signIn.addEventListener('signed-in', resolve, { once: true }));
}
connection.start();
images.start();
show();
setInterval(show, TICK_MS);
