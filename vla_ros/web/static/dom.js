// SPDX-License-Identifier: Apache-2.0
// Elements without a framework: make them once, then change only what differs.

const SVG = 'http://www.w3.org/2000/svg';
const SVG_TAGS = new Set(['svg', 'g', 'path', 'line', 'rect', 'circle', 'text', 'title']);

/**
 * Return a new element.
 *
 * @param {string} tag name, with classes: `p.hint.old`
 * @param {object} attributes functions are listeners, such as `onclick`; false and null omit one
 * @param {...(Node|string)} children
 */
export function h(tag, attributes = {}, ...children) {
  const [name, ...classes] = tag.split('.');
  const element = SVG_TAGS.has(name)
    ? document.createElementNS(SVG, name)
    : document.createElement(name);
  if (classes.length) element.classList.add(...classes);
  for (const [key, value] of Object.entries(attributes)) {
    if (typeof value === 'function') element.addEventListener(key.slice(2), value);
    else if (value !== false && value !== null && value !== undefined) {
      element.setAttribute(key, value === true ? '' : value);
    }
  }
  element.append(...children);
  return element;
}

/** Set the text unless it is that already: a live region speaks at each change. */
export function say(element, text) {
  if (element.textContent !== text) element.textContent = text;
}

/** Set or remove an attribute unless it is so already. */
export function mark(element, name, value) {
  if (value === false || value === null || value === undefined) element.removeAttribute(name);
  else if (element.getAttribute(name) !== String(value)) element.setAttribute(name, value);
}

/** Replace the children if `key` is not that of the last call for this element. */
export function fill(element, key, make) {
  const told = JSON.stringify(key);
  if (element.filledWith === told) return;
  element.filledWith = told;
  element.replaceChildren(...make());
}

/** A part of the page: `build` makes its elements once, `show` brings them up to date. */
export class Part extends HTMLElement {
  connectedCallback() {
    if (this.isBuilt) return;
    this.isBuilt = true;
    this.build();
  }

  /** Add a card with a heading, and return its section. */
  card(title, ...children) {
    const id = `${this.localName}-title`;
    this.heading = h('h2', { id }, title);
    this.head = h('div.card-head', {}, this.heading);
    const section = h('section.card', { 'aria-labelledby': id }, this.head, ...children);
    this.append(section);
    return section;
  }

  /**
   * Say in `this.result` that an answer is due, and then why nothing was done, if so. Nothing is
   * said of the answer of a robot that is no longer shown.
   */
  async tell(waiting, asked, refused = (message) => `Not done: ${message}`) {
    const { robot } = this;
    mark(this.result, 'data-kind', 'busy');
    say(this.result, waiting);
    const answer = await asked;
    if (this.robot !== robot) return;
    mark(this.result, 'data-kind', answer.ok ? 'idle' : 'error');
    say(this.result, answer.ok ? '' : refused(answer.message));
  }
}
