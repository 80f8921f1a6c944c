// SPDX-License-Identifier: Apache-2.0
// The robots in the page's head: each with its state; the selected one fills the page.

import { Part, fill, h, mark, say } from './dom.js';

export class Robots extends Part {
  build() {
    this.list = h('nav', { 'aria-label': 'Robots' });
    this.append(this.list);
  }

  show({ store, isLost }) {
    const robots = [...store.robots.values()];
    mark(this, 'hidden', robots.length < 2);
    fill(
      this.list,
      robots.map(({ key, title }) => [key, title]),
      () =>
        robots.map(({ key, title }) =>
          h(
            'button.robot',
            { type: 'button', 'data-robot': key, onclick: () => store.select(key) },
            h('span.dot', { 'aria-hidden': 'true' }),
            h('b', {}, title),
            h('span.mood'),
          ),
        ),
    );
    robots.forEach((robot, index) => {
      const button = this.list.children[index];
      const [words, kind] = isLost ? ['Unknown', 'lost'] : robot.mood;
      mark(button, 'aria-current', robot.key === store.selected ? 'true' : null);
      mark(button, 'data-kind', kind);
      say(button.querySelector('.mood'), words);
    });
  }
}

customElements.define('vla-robots', Robots);
