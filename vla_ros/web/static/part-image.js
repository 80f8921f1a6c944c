// SPDX-License-Identifier: Apache-2.0
// The live image of one view, with the action that was decided on it.

import { compass } from './compass.js';
import { Part, fill, h, mark, say } from './dom.js';
import { duration } from './format.js';

const OLD_MS = 1000;

export class ImageCard extends Part {
  build() {
    this.view = 'model';
    this.canvas = h('canvas', { role: 'img', width: 448, height: 448 });
    this.over = h('div.compass');
    this.age = h('span.age');
    this.none = h('p.none');
    this.tabs = h('div.tabs', { role: 'group', 'aria-label': 'Views' });
    this.card('Image', h('div.frame', {}, this.canvas, this.none, this.over, this.age));
    this.head.append(this.tabs);
  }

  /** Draw an image if it is of the robot and view that are selected. */
  draw({ robot, view, bitmap, at }) {
    if (robot !== this.key || view !== this.view) return;
    const { canvas } = this;
    if (canvas.width !== bitmap.width || canvas.height !== bitmap.height) {
      [canvas.width, canvas.height] = [bitmap.width, bitmap.height];
    }
    canvas.getContext('2d').drawImage(bitmap, 0, 0);
    this.drawnAt = at;
  }

  show({ robot, store, now, isLost }) {
    if (this.key !== robot?.key) {
      this.key = robot?.key;
      this.#select('model');
    }
    const views = robot?.name.views ?? [];
    fill(this.tabs, [this.key, views], () => views.map((view) => this.#tab(view)));
    for (const tab of this.tabs.children) {
      mark(tab, 'aria-pressed', String(tab.dataset.view === this.view));
    }
    this.#showAge(now, isLost);
    const isShown = this.view === 'model' && robot?.action && robot.actionAge(now) < 2;
    fill(this.over, isShown ? robot.action.sequence : null, () =>
      isShown ? compass(robot.action) : [],
    );
    mark(this.canvas, 'aria-label', `${titleOf(this.view)} of ${robot?.title ?? 'no robot'}`);
  }

  /** The pairs of robot and view to fetch. */
  get wanted() {
    return this.key ? [[this.key, this.view]] : [];
  }

  #showAge(now, isLost) {
    const age = this.drawnAt === undefined ? null : now - this.drawnAt;
    const isOld = isLost || age === null || age > OLD_MS;
    mark(this, 'data-old', isOld);
    say(this.none, age === null ? 'No image yet' : '');
    mark(this.none, 'hidden', age !== null);
    say(this.age, age === null ? '' : `${isOld ? 'OLD: ' : ''}${duration(age / 1000)} ago`);
  }

  #select(view) {
    this.view = view;
    this.drawnAt = undefined;
    this.canvas.getContext('2d').clearRect(0, 0, this.canvas.width, this.canvas.height);
  }

  #tab(view) {
    const onclick = () => {
      this.#select(view);
      this.dispatchEvent(new Event('view', { bubbles: true }));
    };
    return h('button', { type: 'button', 'data-view': view, onclick }, titleOf(view));
  }
}

function titleOf(view) {
  const titles = { model: 'Model', operator: 'Operator' };
  return titles[view] ?? view.replace('camera:', '');
}

customElements.define('vla-image', ImageCard);
