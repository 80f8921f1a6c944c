// SPDX-License-Identifier: Apache-2.0
// What vla_doctor finds about the node, on request.

import { Part, fill, h, mark, say } from './dom.js';
import { ago } from './format.js';

const ORDER = ['FAIL', 'WARN', 'OK'];

export class DoctorCard extends Part {
  build() {
    this.run = h('button', { type: 'button', onclick: () => this.#examine() }, 'Examine the node');
    this.when = h('p.hint', { role: 'status' });
    this.list = h('ul.findings');
    this.card('Doctor', this.when, this.list);
    this.head.append(this.run);
  }

  show({ robot, now, isLost }) {
    this.robot = robot;
    const { running, findings, problem } = robot?.doctor ?? { findings: [] };
    this.run.disabled = isLost || running || !robot?.isLive;
    say(this.when, this.#summary(running, findings, problem));
    mark(this.when, 'data-kind', problem ? 'error' : null);
    say(
      this.heading,
      robot?.doctor.age_s == null ? 'Doctor' : `Doctor, ${ago(robot.doctorAge(now))}`,
    );
    fill(this.list, [robot?.key, findings], () =>
      [...findings].sort((a, b) => ORDER.indexOf(a.level) - ORDER.indexOf(b.level)).map(item),
    );
  }

  #summary(running, findings, problem) {
    if (running) return 'Examining the node…';
    if (problem) return `The doctor could not run: ${problem}`;
    if (!findings.length) return 'Checks the set-up: versions, cameras, rates, contract, memory.';
    const told = (level, word) => {
      const count = findings.filter((one) => one.level === level).length;
      return `${count} ${word}${count === 1 || level === 'OK' ? '' : 's'}`;
    };
    return [told('FAIL', 'failure'), told('WARN', 'warning'), told('OK', 'fine')].join(', ');
  }

  #examine() {
    if (this.robot) this.ask(this.robot.key, 'doctor');
  }
}

function item({ level, check, text, advice }) {
  return h(
    'li',
    { 'data-level': level },
    h('span.level', {}, level),
    h('div', {}, h('b', {}, check), ` ${text}`, advice ? h('p', {}, advice) : ''),
  );
}

customElements.define('vla-doctor', DoctorCard);
