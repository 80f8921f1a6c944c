// SPDX-License-Identifier: Apache-2.0
// Every image, inference and command is counted under one name: the names that are not zero.

import { Part, fill, h } from './dom.js';
import { count, milliseconds, plain } from './format.js';

const POLICY = ['model', 'device', 'dtype', 'quantization', 'unnorm_key', 'cameras', 'horizon'];
const PERCENTILES = ['p50_s', 'p95_s', 'p99_s'];

export class CountersCard extends Part {
  build() {
    this.policy = h('dl.pairs');
    this.latencies = h('tbody');
    this.counters = h('dl.counters');
    this.zero = h('p.hint');
    this.card(
      'Policy and counters',
      this.policy,
      h(
        'table.latencies',
        {},
        h('caption.spoken', {}, 'Latencies of the last 512 actions'),
        h(
          'thead',
          {},
          h(
            'tr',
            {},
            ...['Latency', 'p50', 'p95', 'p99'].map((name) => h('th', { scope: 'col' }, name)),
          ),
        ),
        this.latencies,
      ),
      this.counters,
      this.zero,
    );
  }

  show({ robot }) {
    const { policy = {}, counters = {}, latencies = {} } = robot?.details ?? {};
    fill(this.policy, policy, () =>
      POLICY.filter((name) => policy[name] !== undefined && `${policy[name]}` !== '').map((name) =>
        pair(plain(name), [policy[name]].flat().join(', ')),
      ),
    );
    fill(this.latencies, latencies, () =>
      Object.entries(latencies).map(([name, values]) =>
        h(
          'tr',
          {},
          h('th', { scope: 'row' }, plain(name)),
          ...PERCENTILES.map((key) => h('td.number', {}, milliseconds(values[key]))),
        ),
      ),
    );
    const told = Object.entries(counters).filter(([, value]) => value > 0);
    fill(this.counters, told, () => told.map(([name, value]) => pair(plain(name), count(value))));
    const zero = Object.keys(counters).length - told.length;
    fill(this.zero, zero, () => [zero ? `${zero} more counters are zero.` : '']);
  }
}

function pair(name, value) {
  return h('div', {}, h('dt', {}, name), h('dd', {}, value));
}

customElements.define('vla-counters', CountersCard);
